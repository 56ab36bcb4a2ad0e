"""DDL that names a schema only where another module's is meant, and that may be watched."""

from __future__ import annotations

import re
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Protocol

from pg_tenants.context import active, as_owner
from pg_tenants.modules import TableName

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from django.db.backends.postgresql.schema import DatabaseSchemaEditor

    _Base = DatabaseSchemaEditor
else:
    _Base = object

__all__ = ["SchemaWatcher", "TenantSchemaEditorMixin"]

_CREATE_EXTENSION = re.compile(r"\s*CREATE\s+EXTENSION\b", re.IGNORECASE)
_CONCURRENT_INDEX = re.compile(
    r'\s*CREATE\s+(?:UNIQUE\s+)?INDEX\s+CONCURRENTLY\s+(?:IF\s+NOT\s+EXISTS\s+)?((?:"[^"]+")|\w+)\s+ON\b', re.IGNORECASE
)
_CONCURRENTLY = re.compile(r"(\s*(?:CREATE\s+(?:UNIQUE\s+)?|DROP\s+)INDEX\s+)CONCURRENTLY\s", re.IGNORECASE)
_DROP_EXTENSION = re.compile(r"\s*DROP\s+EXTENSION\b", re.IGNORECASE)


class SchemaWatcher(Protocol):
    """Is told what a schema editor does; it is in its connection's ``schema_watchers``."""

    def executing(self) -> AbstractContextManager[None]:
        """Return a context that is around a statement of the schema editor."""

    def takes_default(self, field: Any, value: Any, again: Any) -> None:
        """Learn that the default of a field goes into a statement, and what it is if it is computed again."""


class TenantSchemaEditorMixin(_Base):
    """Leaves the active schema's own tables unqualified, so the same statements serve every schema of a module.

    Not so for apps without migrations: their tables are made before those of other apps, which the path would then find
    in another schema.
    """

    def __enter__(self) -> Any:
        """Begin, with the rights of the tables' owner."""
        self._as_owner = as_owner()
        self._as_owner.__enter__()
        try:
            return super().__enter__()
        except BaseException:
            self._as_owner.__exit__(None, None, None)
            raise

    def __exit__(self, *exc_info: Any) -> None:
        """End what was begun."""
        try:
            super().__exit__(*exc_info)
        finally:
            self._as_owner.__exit__(None, None, None)

    def quote_name(self, name: str) -> str:
        """Return the quoted name, qualified where it is a table of another schema."""
        target = active()
        connection: Any = self.connection
        quoted = super().quote_name(name)
        if type(name) is not TableName or target is None or connection.qualifies_own_tables:
            return quoted
        return quoted.removeprefix(f'"{connection.physical_schema(target.schema_name)}".')

    def execute(self, sql: Any, params: Any = ()) -> None:
        """Send a statement; extensions are the database's, so they go to their schema, and no tenant drops them."""
        connection: Any = self.connection
        text = str(sql)
        target = active()
        if target is not None and target.tenant is not None and _DROP_EXTENSION.match(text):
            return
        if connection.waits_for_nobody and (match := _CONCURRENTLY.match(text)):
            # PostgreSQL would refuse it in the transaction that makes the schema.
            sql = text = match[1] + text[match.end() :]
        with ExitStack() as stack:
            for watcher in connection.schema_watchers:
                stack.enter_context(watcher.executing())
            if _CREATE_EXTENSION.match(text):
                stack.enter_context(connection.extensions_schema_only())
            if match := _CONCURRENT_INDEX.match(text):
                self._remove_unfinished_index(match[1])
            super().execute(sql, params)

    def _remove_unfinished_index(self, name: str) -> None:
        """Drop an index that a killed or failed CREATE INDEX CONCURRENTLY has left.

        It is invalid; or valid, where the session was killed before the migration was recorded.
        """
        connection: Any = self.connection
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid"
                " WHERE c.relnamespace = pg_catalog.current_schema()::pg_catalog.regnamespace AND c.relname = %s"
                " AND (%s OR NOT i.indisvalid)",
                [name[1:-1] if name.startswith('"') else name.lower(), connection.remakes_indexes],
            )
            if cursor.fetchone() is not None:
                cursor.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")

    def effective_default(self, field: Any) -> Any:
        """Return the default of a field; watchers are told."""
        value = super().effective_default(field)
        watchers = self.connection.schema_watchers  # type: ignore[attr-defined]
        if watchers:
            again = super().effective_default(field)
            for watcher in watchers:
                watcher.takes_default(field, value, again)
        return value
