"""Recording what migrations send to one schema, to send it to others as it is.

``record(connection)`` yields a ``Recording`` and is put around anything that uses Django's schema editor: an operation,
a migration, or a whole run. Recordings nest, each sees all that is sent inside it::

    with ActiveContext(target.active), record(connection) as recording:
        migrate_target(target, options)
    if recording.obstacle is None:
        send(recording.script)          # in another schema, with that one's search path
    for app, name in recording.applied: # rows for that schema's django_migrations; they are not part of the script

The script holds for another schema of the same module if

- ``recording.obstacle`` is None. It is a sentence that says why the statements are this schema's alone: rows were
  looked at, a default was computed, a statement failed, the schema's own name is in the text, …
- ``obstacle_of(migration)`` is None for each migration that was run. A recording sees statements, not Python code.
- The catalog answers there as it did here. ``recording.introspected`` names the tables that Django asked about; where
  it is empty, the statements do not depend on the catalog at all. A schema that is made empty and was recorded empty
  answers alike.
- For operations that are not Django's (``is_foreign(migration)``): recorded a second time, in another schema, the
  script is the same. Such an operation may ask Python which tenant is active, which no recording sees.

Rows that RunSQL writes are part of the script; those that RunPython writes make an obstacle.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from django.db.migrations.migration import Migration
from django.db.migrations.operations import RunPython
from django.db.migrations.recorder import MigrationRecorder
from django.db.models import NOT_PROVIDED

from pg_tenants.backends.base import TenantDatabaseWrapperMixin
from pg_tenants.context import active
from pg_tenants.sqltext import split

if TYPE_CHECKING:
    from django.db.migrations.operations.base import Operation

__all__ = ["ModuleRecorder", "Recording", "is_foreign", "obstacle_of", "record"]

Row = tuple[str, str]

SEPARATOR = "\n;\n"
"""Between the statements of a script: one may end with a comment, or with a semicolon of its own."""

_KNOWN = ("django.db.migrations.", "django.contrib.postgres.", "django.contrib.gis.", "pg_tenants.")
_PLAIN_DEFAULTS = (dict, list, set, frozenset, tuple, str, bytes, int, float, bool)
_TRANSACTION = re.compile(r"\s*(?:SAVEPOINT|RELEASE)\b", re.IGNORECASE)
_CONSTRAINTS = re.compile(r"\s*SET\s+CONSTRAINTS\b", re.IGNORECASE)
_MOVES_PATH = re.compile(r"search_path|set_config|\bRESET\b|\bSET\s+(?:LOCAL\s+|SESSION\s+)?ROLE\b", re.IGNORECASE)
# By themselves, or with an effect on the session or the database that is not the schema's.
_ALONE = frozenset(
    b"abort begin call cluster commit copy deallocate discard end listen load notify prepare reindex release reset "
    b"rollback savepoint set show start unlisten vacuum".split()
)


@dataclass
class Recording:
    """What was sent to one schema while it was recorded.

    Attributes:
        statements: the schema editor's, deferred ones included, with their parameters merged in, in their order.
        obstacle: why they may not be sent to another schema; None where they may.
        introspected: the tables that Django has asked the catalog about meanwhile.
        applied: ``(app, name)`` of the rows that were added to ``django_migrations``.
        unapplied: those that were taken out of it.
    """

    statements: list[str] = field(default_factory=list)
    obstacle: str | None = None
    introspected: set[str] = field(default_factory=set)
    applied: list[Row] = field(default_factory=list)
    unapplied: list[Row] = field(default_factory=list)

    @property
    def script(self) -> str:
        """Return the statements as one text."""
        return SEPARATOR.join(self.statements)

    def refuse(self, reason: str) -> None:
        """Note an obstacle; the first one is kept."""
        if self.obstacle is None:
            self.obstacle = reason


@contextmanager
def record(connection: TenantDatabaseWrapperMixin) -> Iterator[Recording]:
    """Record what the schema editor of a connection sends, in the schema that is active."""
    target = active()
    watcher = _Watcher(connection, "" if target is None else connection.physical_schema(target.schema_name))
    connection.schema_watchers.append(watcher)
    try:
        with connection.execute_wrapper(watcher):
            yield watcher.recording
    finally:
        connection.schema_watchers.remove(watcher)


class _Watcher:
    """Sees all statements, and which of them are the schema editor's."""

    def __init__(self, connection: TenantDatabaseWrapperMixin, schema: str):
        self.recording = Recording()
        self._connection = connection
        self._own_name = re.compile(rf"(?<!\w){re.escape(schema)}(?!\w)")
        self._depth = 0
        self.is_paused = False

    @contextmanager
    def executing(self) -> Iterator[None]:
        """Be inside a statement of the schema editor, which is recorded and not refused."""
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1

    def takes_default(self, field: Any, value: Any, again: Any) -> None:
        """Refuse to replay a default that is another one when it is computed again."""
        default = field.default
        computed = callable(default) and default is not NOT_PROVIDED and default not in _PLAIN_DEFAULTS
        # Psycopg's wrappers, such as that of JSON, do not compare.
        same = getattr(value, "obj", value) == getattr(again, "obj", again)
        if computed or not same or getattr(field, "auto_now", False) or getattr(field, "auto_now_add", False):
            self.recording.refuse(f"The default of {field} is computed.")

    def __call__(self, execute: Callable[..., Any], sql: Any, params: Any, many: bool, context: Any) -> Any:
        if not self.is_paused:
            self._see(str(sql), params)
        try:
            return execute(sql, params, many, context)
        except Exception:
            self.recording.refuse(f"A statement failed: {_short(sql)}")
            raise

    def _see(self, text: str, params: Any) -> None:
        if self._depth:
            self._take(text, params)
        elif self._connection.is_introspecting:
            tables = [value for value in params or () if isinstance(value, str)]
            self.recording.introspected.update(tables)
            if not tables:
                self.recording.refuse("Django asked which tables there are.")
        elif _CONSTRAINTS.match(text):
            self.recording.statements.append(text)
        elif not _TRANSACTION.match(text):
            self.recording.refuse(f"It sends a statement past the schema editor: {_short(text)}")

    def _take(self, text: str, params: Any) -> None:
        self.recording.statements.append(text)
        if params is not None:
            self.recording.refuse(f"The parameters of a statement are not merged into it: {_short(text)}")
        elif self._own_name.search(text):
            self.recording.refuse(f"A statement has the schema's own name in it: {_short(text)}")
        elif reason := _obstacle_in(text):
            self.recording.refuse(f"{reason}: {_short(text)}")


def _obstacle_in(text: str) -> str | None:
    """Return why a statement may not be sent together with others to another schema; None where it may."""
    if _MOVES_PATH.search(text):
        return "A statement may change the search path"
    for _, words in split(text.encode()):
        if words[:2] == [b"set", b"constraints"]:
            continue
        if words[:1] and words[0] in _ALONE:
            return "A statement is of the session, or runs by itself only"
        if b"concurrently" in words or not {b"database", b"extension", b"system"}.isdisjoint(words[:2]):
            return "A statement is of the database, or runs by itself only"
    return None


def _short(sql: Any) -> str:
    text = " ".join(str(sql).split())
    return text if len(text) <= 80 else f"{text[:77]}..."


class ModuleRecorder(MigrationRecorder):
    """Django's recorder of applied migrations, whose own statements are no part of a recording."""

    def has_table(self) -> bool:
        """Return whether the schema has a ``django_migrations``."""
        with _paused(self.connection):
            return bool(super().has_table())

    def record_applied(self, app: str, name: str) -> None:
        """Add a row."""
        self.ensure_schema()
        with _paused(self.connection) as recordings:
            super().record_applied(app, name)
        for recording in recordings:
            recording.applied.append((app, name))

    def record_unapplied(self, app: str, name: str) -> None:
        """Take a row out."""
        with _paused(self.connection) as recordings:
            super().record_unapplied(app, name)
        for recording in recordings:
            recording.unapplied.append((app, name))


@contextmanager
def _paused(connection: Any) -> Iterator[list[Recording]]:
    watchers = [each for each in connection.schema_watchers if isinstance(each, _Watcher) and not each.is_paused]
    for watcher in watchers:
        watcher.is_paused = True
    try:
        yield [watcher.recording for watcher in watchers]
    finally:
        for watcher in watchers:
            watcher.is_paused = False


def obstacle_of(migration: Migration, *, backwards: bool = False) -> str | None:
    """Return why a migration has to be run in each schema by itself, as far as its operations tell; None if not so."""
    if not migration.atomic:
        return "It is not atomic."
    method = "unapply" if backwards else "apply"
    if getattr(type(migration), method) is not getattr(Migration, method):
        return f"It has a method {method}() of its own."
    for operation in _operations(migration.operations):
        code = getattr(operation, "reverse_code" if backwards else "code", None)
        if isinstance(operation, RunPython) and code is not RunPython.noop:
            return "It runs Python code."
    return None


def is_foreign(migration: Migration) -> bool:
    """Return whether a migration has operations that are not Django's, so that two recordings have to agree."""
    return any(not type(operation).__module__.startswith(_KNOWN) for operation in _operations(migration.operations))


def _operations(operations: Iterable[Operation]) -> Iterator[Operation]:
    for operation in operations:
        yield operation
        yield from _operations(getattr(operation, "database_operations", ()))
