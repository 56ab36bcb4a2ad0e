"""What a migration run has done, schema by schema."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

__all__ = ["Report", "SchemaResult"]


@dataclass(slots=True)
class SchemaResult:
    """What happened in one schema.

    Attributes:
        schema: its name.
        module: the module, or several joined by commas where they share the schema.
        applied: migrations that were run, or in a plan would be, as ``app.name``; backwards ones begin with ``-``.
        error: why it failed; None if it did not.
        seconds: how long it took.
    """

    schema: str
    module: str
    applied: list[str] = field(default_factory=list)
    error: Exception | None = None
    seconds: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """Return the result for JSON."""
        return {
            "schema": self.schema,
            "module": self.module,
            "migrations": self.applied,
            "error": None if self.error is None else f"{type(self.error).__name__}: {self.error}".strip(),
            "seconds": round(self.seconds, 3),
        }


@dataclass(slots=True)
class Report:
    """What happened in all schemas of a run, in its order.

    Attributes:
        results: of each schema that the run came to.
        held_back: names of the schemas that were not touched, since a canary failed.
    """

    results: list[SchemaResult] = field(default_factory=list)
    held_back: list[str] = field(default_factory=list)

    @property
    def failed(self) -> list[SchemaResult]:
        """Return the results of schemas that failed."""
        return [result for result in self.results if result.error is not None]

    @property
    def changed(self) -> list[SchemaResult]:
        """Return the results of schemas where something was, or in a plan would be, applied."""
        return [result for result in self.results if result.applied]

    def as_dict(self) -> dict[str, Any]:
        """Return the report for JSON."""
        return {
            "schemas": [result.as_dict() for result in self.results],
            "failed": len(self.failed),
            "held_back": self.held_back,
        }
