"""DDL that names a schema only where another module's is meant, and that may be watched."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import ExitStack, nullcontext
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol

from django.db import transaction

from pg_tenants.context import active, as_owner
from pg_tenants.exceptions import UnsafeStatement
from pg_tenants.modules import TableName
from pg_tenants.sqltext import split

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from django.db.backends.postgresql.schema import DatabaseSchemaEditor

    _Base = DatabaseSchemaEditor
else:
    _Base = object

__all__ = ["SchemaWatcher", "TenantSchemaEditorMixin"]

_EXTENSION = re.compile(r"\bEXTENSION\b", re.IGNORECASE)
_CONCURRENT_INDEX = re.compile(
    r'\s*CREATE\s+(?:UNIQUE\s+)?INDEX\s+CONCURRENTLY\s+(?:IF\s+NOT\s+EXISTS\s+)?((?:"[^"]+")|\w+)\s+ON\b', re.IGNORECASE
)
_CONCURRENTLY = re.compile(r"(\s*(?:CREATE\s+(?:UNIQUE\s+)?|DROP\s+)INDEX\s+)CONCURRENTLY\s", re.IGNORECASE)
_OTHERS = re.compile(r"[^\n]")

logger = logging.getLogger("pg_tenants")


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
        """End what was begun.

        Django leaves its transaction open where one of the statements fails that it keeps for the end.
        """
        try:
            if exc_info[0] is None:
                try:
                    while self.deferred_sql:
                        self.execute(self.deferred_sql.pop(0), None)
                except BaseException as exc:
                    super().__exit__(type(exc), exc, exc.__traceback__)
                    raise
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
        """Send a statement, or a script; extensions are the database's, so they go to their schema.

        Raises:
            UnsafeStatement: an extension would be a tenant's own; or the script has parameters, and cannot be parted.
        """
        text = str(sql)
        if active() is None or not _EXTENSION.search(text):
            self._send(sql, params)
            return
        parts = list(_statements(text))
        if not any(kind in ("create extension", "drop extension") for _, kind in parts):
            self._send(sql, params)
            return
        if len(parts) > 1 and params:
            raise UnsafeStatement(
                f"The script {_short(text)!r} makes or drops an extension, which belongs to no schema, and has "
                "parameters, so that it cannot be sent statement by statement. Put the extension's into an operation "
                "of its own."
            )
        # As one script it would be one transaction.
        together = len(parts) > 1 and not self.collect_sql
        with transaction.atomic(using=self.connection.alias) if together else nullcontext():
            for statement, kind in parts:
                self._send_of_extension(statement, kind, params)

    def _send_of_extension(self, statement: str, kind: str, params: Any) -> None:
        connection: Any = self.connection
        target = active()
        assert target is not None
        is_tenants = target.tenant is not None
        if kind == "drop extension" and is_tenants:
            _tell_of_drop(_short(statement).rstrip("; "))
        elif kind == "create extension":
            schema = connection.physical_schema(target.schema_name)
            if is_tenants and re.search(rf'\bSCHEMA\s+"?{re.escape(schema)}(?!\w)', statement, re.IGNORECASE):
                raise UnsafeStatement(
                    f"{_short(statement)!r} would put into the schema {schema!r} what the whole database has once: no "
                    "other tenant would find it, and it would go with this one. Leave out SCHEMA; the extension then "
                    "goes to EXTENSIONS_SCHEMA, which is on every tenant's path."
                )
            with connection.extensions_schema_only():
                self._send(statement, params)
        else:
            self._send(statement, params)

    def _send(self, sql: Any, params: Any) -> None:
        connection: Any = self.connection
        text = str(sql)
        if connection.waits_for_nobody and (match := _CONCURRENTLY.match(text)):
            # PostgreSQL would refuse it in the transaction that makes the schema.
            sql = text = match[1] + text[match.end() :]
        with ExitStack() as stack:
            for watcher in connection.schema_watchers:
                stack.enter_context(watcher.executing())
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


def _statements(text: str) -> Iterator[tuple[str, str]]:
    """Yield each statement of a script with its first two words. What is before it is blank: errors tell the line."""
    raw = text.encode()
    found = list(split(raw, 2))
    ends = [start for start, _ in found[1:]] + [len(raw)]
    for (start, words), end in zip(found, ends, strict=True):
        before = _OTHERS.sub(" ", raw[:start].decode()) if len(found) > 1 else ""
        yield before + raw[start:end].decode(), b" ".join(words).decode()


def _short(text: str) -> str:
    words = " ".join(text.split())
    return words if len(words) <= 80 else f"{words[:77]}..."


@cache
def _tell_of_drop(statement: str) -> None:
    """Say once in a process what was left out in however many schemas."""
    logger.warning(
        "Left out of tenants' migrations: %s. The extension is the whole database's, and other schemas may use it; "
        "drop it by hand when none does.",
        statement,
    )
