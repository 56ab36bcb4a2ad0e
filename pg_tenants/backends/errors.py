"""Database errors, as the user sees them."""

from __future__ import annotations

from types import TracebackType

from django.db.utils import DatabaseErrorWrapper
from psycopg import errors as e

from pg_tenants.exceptions import SchemaDoesNotExist, SchemaNotPermitted

__all__ = ["TenantErrorWrapper"]


class TenantErrorWrapper(DatabaseErrorWrapper):
    """Django's translation of psycopg's errors, with words of ours where the active schema is the cause."""

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Raise what the user is to see."""
        # A pipeline that failed tells so of each later part; the cause is the error before.
        while isinstance(exc_value, e.PipelineAborted) and isinstance(exc_value.__context__, e.Error):
            exc_value = exc_value.__context__
            exc_type = type(exc_value)
        schema = getattr(exc_value, "tenant_schema", None)
        if schema is not None and isinstance(exc_value, e.Error):
            raise _translated(exc_value, schema).with_traceback(traceback) from exc_value
        try:
            super().__exit__(exc_type, exc_value, traceback)
        except Exception as translated:
            # Django's error is the one that people see.
            for note in getattr(exc_value, "__notes__", ()):
                translated.add_note(note)
            raise


def _translated(exc: e.Error, schema: str) -> SchemaDoesNotExist | SchemaNotPermitted:
    server = exc.diag.message_primary
    if isinstance(exc, e.InsufficientPrivilege):
        return SchemaNotPermitted(
            f"The database role may not use the active schema {schema!r} ({server}). Nothing was run. Grant it USAGE "
            "on the schema and SELECT on its tables, or connect as the schema's owner."
        )
    return SchemaDoesNotExist(
        f"The active schema {schema!r} is not in the database, or pg_tenants did not make it ({server}). Nothing was "
        "run. A tenant's schema is made by create_tenant, a fixed module's by migrate_schemas, and the schema that an "
        "alias is bound to by migrate."
    )
