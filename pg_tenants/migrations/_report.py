"""What a migration run has done, schema by schema."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from pg_tenants.catalog import Difference

__all__ = ["Report", "SchemaResult", "SchemaStructure", "Structures"]


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
            "error": _text(self.error),
            "seconds": round(self.seconds, 3),
        }


@dataclass(slots=True)
class Report:
    """What happened in all schemas of a run, in its order.

    Attributes:
        results: of each schema that the run came to.
        held_back: names of the schemas that were not touched, since a canary failed.
        stopped_by: what failed and ended the run before the other schemas; empty where the run came to all.
        roles: names of the schemas whose roles were made, or given what they lacked.
    """

    results: list[SchemaResult] = field(default_factory=list)
    held_back: list[str] = field(default_factory=list)
    roles: list[str] = field(default_factory=list)
    stopped_by: Literal["", "canary", "fixed module"] = ""

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
            "changed": len([result for result in self.changed if result.error is None]),
            "failed": len(self.failed),
            "held_back": self.held_back,
            "stopped_by": self.stopped_by,
            "roles": self.roles,
        }


@dataclass(slots=True)
class SchemaStructure:
    """How a schema's structure compares with what its migrations make.

    Attributes:
        schema: its name.
        module: the module, or several joined by commas where they share the schema.
        differences: the objects in which it differs, sorted by kind and name.
        pending: migrations that it has not recorded, as ``app.name``; it is compared without them.
        error: why it could not be compared; None if it was.
    """

    schema: str
    module: str
    differences: list[Difference] = field(default_factory=list)
    pending: list[str] = field(default_factory=list)
    error: Exception | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the result for JSON."""
        return {
            "schema": self.schema,
            "module": self.module,
            "differences": [difference.as_dict() for difference in self.differences],
            "pending": self.pending,
            "error": _text(self.error),
        }


@dataclass(slots=True)
class Structures:
    """How the structures of many schemas compare with what their migrations make."""

    results: list[SchemaStructure] = field(default_factory=list)

    @property
    def different(self) -> list[SchemaStructure]:
        """Return the schemas that differ."""
        return [result for result in self.results if result.differences]

    @property
    def failed(self) -> list[SchemaStructure]:
        """Return the schemas that could not be compared."""
        return [result for result in self.results if result.error is not None]

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {
            "schemas": [result.as_dict() for result in self.results],
            "different": len(self.different),
            "failed": len(self.failed),
        }


def _text(error: Exception | None) -> str | None:
    return None if error is None else f"{type(error).__name__}: {error}".strip()
