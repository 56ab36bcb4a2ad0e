"""What a run tells while it goes on, for bars, logs and machines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from pg_tenants.migrations._targets import Target

__all__ = ["Event", "Progress"]

Kind = Literal["run", "start", "migration", "retry", "done", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that has happened in a run.

    Attributes:
        kind: ``run`` when it is known how many schemas come next (once for the fixed modules, once for the tenants);
            ``start`` before something is run in a schema; ``migration`` after each migration there; ``retry`` when a
            schema is to be tried again; ``done`` and ``failed`` at its end, one of them for each schema.
        target: the schema; None for ``run``.
        total: how many schemas come next, for ``run``.
        migrations: ``app.name`` of what was run: one for ``migration``, all for ``done``; backwards ones begin with
            ``-``.
        detail: what happened, for people; an error's text for ``retry`` and ``failed``.
        seconds: how long the schema took, for ``done`` and ``failed``.
    """

    kind: Kind
    target: Target | None = None
    total: int = 0
    migrations: tuple[str, ...] = ()
    detail: str = ""
    seconds: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """Return the event for JSON, without what does not belong to its kind."""
        found: dict[str, Any] = {"event": self.kind}
        if self.target is None:
            return {**found, "total": self.total}
        found |= {"schema": self.target.schema, "module": self.target.module_names}
        if self.kind in ("migration", "done"):
            found["migrations"] = list(self.migrations)
        if self.detail:
            found["detail"] = self.detail
        if self.kind in ("done", "failed"):
            found["seconds"] = round(self.seconds, 3)
        return found


Progress = Callable[[Event], None]
"""Is called with each event, in the thread that runs the fleet."""
