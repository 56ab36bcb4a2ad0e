"""What the migrations of a schema do, taken down while they run, for a template.

Statements that define something are kept in their order. Rows are not: they are read when all has run. What would make
the result another one in another schema is noted as a refusal, with the migration's name.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from django.db import transaction
from django.db.migrations.migration import Migration

from pg_tenants.backends.base import TenantDatabaseWrapperMixin
from pg_tenants.backends.prefix import quote
from pg_tenants.sqltext import split

__all__ = ["Recorder", "Tripwire"]

_ROWS = frozenset({"select", "insert", "update", "delete", "with", "merge", "values", "table", "truncate", "copy"})
_EXPLAINED = _ROWS - {"truncate", "copy"}
_PASSING = frozenset(
    "savepoint release rollback begin start commit set reset show lock declare fetch move close explain analyze vacuum "
    "discard listen notify unlisten prepare execute deallocate".split()
)
_RECORD = 'INSERT INTO "django_migrations" '
"""What notes that a migration was applied: in the schema's own table, which the executor has made."""
_OF_THE_SERVER = ("pg_catalog", "information_schema", "pg_toast")


class Recorder:
    """Takes down what runs on a connection.

    Args:
        connection: our database wrapper.
        schema: the schema that is migrated, by its name in the database.

    Attributes:
        statements: those that define something, without the schema's own name.
        refusals: why the same would not come out in another schema; empty if nothing speaks against it.
    """

    def __init__(self, connection: TenantDatabaseWrapperMixin, schema: str):
        self.statements: list[str] = []
        self.refusals: list[str] = []
        self._connection = connection
        self._schema = schema
        self._in_editor = False
        self._explaining = False
        self._looked_at: set[tuple[bytes, str]] = set()

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Take down what runs in this block on the connection."""
        connection: Any = self._connection
        before = connection.SchemaEditorClass
        connection.SchemaEditorClass = self._editor_class(before)
        try:
            with connection.execute_wrapper(self._watch):
                yield
        finally:
            connection.SchemaEditorClass = before

    def refuse(self, what: str) -> None:
        """Note something that speaks against a template, once."""
        text = f"{_issuer()}: {what}"
        if text not in self.refusals:
            self.refusals.append(text)

    def _editor_class(self, base: type[Any]) -> type[Any]:
        recorder = self

        class RecordingSchemaEditor(base):  # type: ignore[misc]
            """Django's schema editor, which has its statements taken down when they have run."""

            def execute(self, sql: Any, params: Any = ()) -> Any:
                """Run a statement and keep its text, with its values in it."""
                text = str(sql) if params is None else self.connection.ops.compose_sql(str(sql), params)
                recorder._in_editor = True
                try:
                    result = super().execute(sql, params)
                finally:
                    recorder._in_editor = False
                recorder._take(text, by_editor=True)
                return result

        return RecordingSchemaEditor

    def _watch(self, execute: Callable[..., Any], sql: Any, params: Any, many: bool, context: dict[str, Any]) -> Any:
        result = execute(sql, params, many, context)
        if not self._in_editor and not self._explaining:
            some = next(iter(params), None) if many and params else params
            self._take(self._connection.ops.compose_sql(sql, some), by_editor=False, form=str(sql))
        return result

    def _take(self, text: str, *, by_editor: bool, form: str = "") -> None:
        """Take a statement down.

        Args:
            text: as it was sent.
            by_editor: a schema editor has sent it.
            form: the same for all statements that differ in their parameters alone; empty for none.
        """
        # On another path its names are other tables'.
        prefix = self._connection.statement_prefix()
        key = (prefix.simple if prefix else b"", form)
        is_known = key in self._looked_at or (form.startswith(_RECORD) and _issuer() == _AFTERWARDS)
        for word, statement in _statements(text):
            if word in _EXPLAINED and not is_known:
                self._look_at_tables(statement)
                self._looked_at |= {key} if form else set()
            # SELECT by an editor runs functions, such as setval().
            if (word in _ROWS and not (by_editor and word == "select")) or (word in _PASSING and not by_editor):
                continue
            # What a schema editor runs is a definition by intent, also in a RunPython; a raw cursor may do anything.
            if not by_editor and _issuer() != _AFTERWARDS:
                self.refuse(f"a raw cursor runs {statement.split(None, 1)[0].upper()}")
            self.statements.append(statement.replace(f"{quote(self._schema)}.", ""))
            # A name may now be another table's.
            self._looked_at.clear()

    def _look_at_tables(self, statement: str) -> None:
        """Refuse rows that are read from, or written to, another schema: they change without the migrations."""
        connection: Any = self._connection
        self._explaining = True
        try:
            with transaction.atomic(using=connection.alias), connection.cursor() as cursor:
                cursor.execute(f"EXPLAIN (VERBOSE, FORMAT JSON) {statement}")
                plans = cursor.fetchone()[0]
        except Exception as exc:  # noqa: BLE001  # it will fail by itself, or cannot be explained, so nothing is known
            self.refuse(f"a statement cannot be explained: {str(exc).strip().splitlines()[0]}")
            return
        finally:
            self._explaining = False
        for schema, table in _relations(plans):
            if schema != self._schema and schema not in _OF_THE_SERVER:
                self.refuse(f"it uses rows of {schema}.{table}, which other schemas share")


class Tripwire:
    """Stands for the tenant while a template is made: whoever looks at it is noted.

    Args:
        recorder: is told.
    """

    def __init__(self, recorder: Recorder):
        object.__setattr__(self, "_recorder", recorder)

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("__") and name.endswith("__"):
            return object.__getattribute__(self, name)
        object.__getattribute__(self, "_recorder").refuse(f"it reads the tenant's {name}")
        raise AttributeError(f"The template of a module is made without a tenant, so there is no {name!r}.")

    def __str__(self) -> str:
        object.__getattribute__(self, "_recorder").refuse("it reads the tenant's name")
        return "no tenant"


_AFTERWARDS = "what runs after the migrations"


def _issuer() -> str:
    """Return which migration runs the caller's statement."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code is Migration.apply.__code__:
            migration = frame.f_locals["self"]
            return f"{migration.app_label}.{migration.name}"
        frame = frame.f_back
    return _AFTERWARDS


def _statements(text: str) -> Iterator[tuple[str, str]]:
    """Yield the statements of a text with their first words, in lower case."""
    encoded = text.encode()
    parts = [(start, words[0].decode() if words else "") for start, words in split(encoded)]
    for number, (start, word) in enumerate(parts):
        end = parts[number + 1][0] if number + 1 < len(parts) else len(encoded)
        yield word, encoded[start:end].decode().strip().rstrip(";").rstrip()


def _relations(node: Any) -> Iterator[tuple[str, str]]:
    """Yield the schema and name of each table in a plan as EXPLAIN gives it in JSON."""
    if isinstance(node, dict):
        if "Relation Name" in node:
            yield node.get("Schema", ""), node["Relation Name"]
        node = list(node.values())
    if isinstance(node, list):
        for item in node:
            yield from _relations(item)
