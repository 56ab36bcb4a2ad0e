"""Running a migration that is not atomic so that a run that was broken off can be gone on with.

A row of ``django_migrations`` tells how many operations are done; it is written behind each of them. Django's own
operations on models and fields run in a transaction with that row, so that they are done and counted, or neither. What
has to run outside of transactions (concurrent indexes, RunSQL, RunPython) may have been done without being counted when
the process or the server was killed just then: it is run again, and where that fails, the error says so.
"""

from __future__ import annotations

import copy
import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext, suppress
from typing import Any, NamedTuple

from django.contrib.postgres.operations import AddConstraintNotValid, ValidateConstraint
from django.db import Error, transaction
from django.db.migrations.migration import Migration
from django.db.migrations.operations import fields, models

from pg_tenants.backends.base import TenantDatabaseWrapperMixin
from pg_tenants.exceptions import MigrationFailed
from pg_tenants.migrations._history import MARKS, TABLE, History
from pg_tenants.migrations._record import ModuleRecorder

__all__ = ["Pieces", "erase_marks", "has_own_way", "in_pieces", "refuse_other_way", "unfinished"]

_MARK = re.compile(r"(?P<name>.+) (?P<done>\d+) (?P<digest>[0-9a-f]{16})(?P<failed> failed)?")
_IN_TRANSACTION = (AddConstraintNotValid, ValidateConstraint)
_MODULES = (fields.__name__, models.__name__)


class Mark(NamedTuple):
    """A migration that was begun in a schema and not ended.

    Attributes:
        name: ``app.name``, with a minus if it is taken back.
        done: how many of its operations are done.
        digest: of what these are, so that a changed file is noticed.
        was_killed: whether the next operation was done as well is not known.
    """

    name: str
    done: int
    digest: str
    was_killed: bool

    @property
    def is_backwards(self) -> bool:
        """Whether it is taken back."""
        return self.name.startswith("-")

    def as_row(self) -> str:
        """Return it as ``django_migrations`` has it."""
        return f"{self.name} {self.done} {self.digest}{'' if self.was_killed else ' failed'}"


def unfinished(history: Iterable[tuple[str, str]]) -> list[Mark]:
    """Return the migrations that were begun and not ended, by what a schema has recorded."""
    rows = set(history)
    recorded = {f"{app}.{name}" for app, name in rows if app != MARKS}
    found = []
    for match in (_MARK.fullmatch(name) for app, name in rows if app == MARKS):
        if match is not None:
            mark = Mark(match["name"], int(match["done"]), match["digest"], not match["failed"])
            # Otherwise it was ended, and the run was killed before it could take the mark away.
            if (mark.name.removeprefix("-") in recorded) is mark.is_backwards:
                found.append(mark)
    return sorted(found)


def refuse_other_way(schema: str, history: History, *, backwards: bool) -> None:
    """Refuse to go back where a migration is half applied, and forwards where one is half taken back.

    What is done of it is left out when it comes again, and what it was done to might be gone by then.

    Raises:
        MigrationFailed: there is such a migration.
    """
    for mark in unfinished(history):
        if mark.done and mark.is_backwards is not backwards:
            name = mark.name.removeprefix("-")
            way, other = ("taken back", "apply") if mark.is_backwards else ("applied", "take back")
            raise MigrationFailed(
                f"The migration {name} is half {way} in the schema {schema!r}: {_count(mark.done)} done, the rest is "
                f"not. To {other} others meanwhile could break what is done. Run the command that was broken off once "
                "more, which goes on there; or do by hand what is left, and record that by --fake."
            )


def has_own_way(migration: Migration, *, backwards: bool) -> bool:
    """Return whether a migration has an ``apply()`` or ``unapply()`` of its own."""
    method = "unapply" if backwards else "apply"
    return getattr(type(migration), method) is not getattr(Migration, method)


class Pieces:
    """One migration in the schema that is active, operation by operation.

    Args:
        connection: where it runs.
        migration: what runs.
        operations: the migration's, in the order of running.
        backwards: it is taken back.
    """

    def __init__(
        self,
        connection: TenantDatabaseWrapperMixin,
        migration: Migration,
        operations: Sequence[Any],
        *,
        backwards: bool,
    ):
        self._connection, self._operations = connection, operations
        self._name = f"{'-' * backwards}{migration.app_label}.{migration.name}"
        self._key = (migration.app_label, migration.name)
        self._done = 0
        self._found: Mark | None = None

    def begin(self) -> None:
        """Look for what an earlier run has done, and write down that this one is at work.

        Raises:
            MigrationFailed: what is done is not in the file any more.
        """
        recorder = ModuleRecorder(self._connection)
        recorder.ensure_schema()
        rows = recorder.applied_migrations()
        self._found = next((mark for mark in unfinished(rows) if mark.name == self._name), None)
        if self._found is None:
            erase_marks(self._connection, *self._key)
            recorder.record_applied(MARKS, self._mark(0, was_killed=True))
            return
        self._done = self._found.done
        if self._done > len(self._operations) or self._found.digest != self._digest(self._done):
            raise MigrationFailed(
                f"{self._name} was broken off in an earlier run when {_count(self._done)} done, and its file has other "
                f"operations there now. Restore these; or do by hand what is left, and record it by {self._fake}."
            )
        if not self._found.was_killed:
            self._note(self._done, was_killed=True)

    def run(self, number: int, editor: Any, work: Callable[[], object]) -> None:
        """Run an operation, unless it is done.

        Args:
            number: its place in the order of running, from 0 on; the first one begins.
            editor: the schema editor that it uses.
            work: runs it.

        Raises:
            MigrationFailed: it failed and others are done, or may be; or what is done is not in the file any more.
            Exception: it failed, and nothing of the migration is done.
        """
        if number == 0:
            self.begin()
        if number < self._done:
            return
        connection, operation = self._connection, self._operations[number]
        in_transaction = type(operation) in _IN_TRANSACTION or type(operation).__module__ in _MODULES
        resumed = self._found is not None and self._found.was_killed and self._found.done == number
        # An index that is there already may be the killed run's. Where nothing was killed, it is somebody's.
        in_doubt = connection.remakes_indexes = resumed and not in_transaction
        try:
            with transaction.atomic(using=connection.alias) if in_transaction else nullcontext():
                work()
                # Behind each operation: one whose index or foreign key waits is not done.
                while editor.deferred_sql:
                    editor.execute(editor.deferred_sql.pop(0), None)
                self._note(number + 1, was_killed=True)
        except Exception as exc:  # noqa: BLE001  # whatever it is, it is raised again
            self._fail(number, exc, in_doubt=in_doubt)
        finally:
            connection.remakes_indexes = False

    def end(self) -> None:
        """Take the mark away, in the transaction that records the migration."""
        erase_marks(self._connection, *self._key)

    def _fail(self, number: int, exc: Exception, *, in_doubt: bool) -> None:
        with suppress(Error):
            if number:
                self._note(number, was_killed=in_doubt)
            elif not in_doubt:
                self.end()
        if not number and not in_doubt:
            raise exc
        operation = self._operations[number]
        lines = [f"{self._name}, operation {number + 1} of {len(self._operations)} ({_describe(operation)}): {exc}"]
        if number:
            lines.append(f"It is not atomic: {_count(number)} done and noted, and the next run goes on behind.")
        if in_doubt:
            lines.append(
                "An earlier run was killed in this operation, so it may be done already, in part or as a whole. Look "
                "at what it does ('sqlmigrate'); then undo what is there of it, and run the command again; or do by "
                f"hand what is left of the migration, and record it by {self._fake}."
            )
        raise MigrationFailed("\n".join(line.strip() for line in lines)) from exc

    @property
    def _fake(self) -> str:
        # Taken back, it is the migration before that is named; which one depends on the graph.
        target = f"{self._key[0]} {'<the one before>' if self._name.startswith('-') else self._key[1]}"
        return f"'migrate_schemas --schema … {target} --fake'"

    def _note(self, done: int, *, was_killed: bool) -> None:
        with self._connection.cursor() as cursor:
            cursor.execute(
                f"UPDATE {TABLE} SET name = %s WHERE app = %s AND pg_catalog.starts_with(name, %s)",  # noqa: S608
                [self._mark(done, was_killed=was_killed), MARKS, f"{self._name} "],
            )

    def _mark(self, done: int, *, was_killed: bool) -> str:
        return Mark(self._name, done, self._digest(done), was_killed).as_row()

    def _digest(self, done: int) -> str:
        text = "\n".join(f"{type(each).__qualname__} {_describe(each)}" for each in self._operations[:done])
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def erase_marks(connection: TenantDatabaseWrapperMixin, app: str, name: str) -> None:
    """Take away what tells that a migration was begun, forwards or backwards."""
    with connection.cursor() as cursor:
        cursor.execute(
            f"DELETE FROM {TABLE} WHERE app = %s AND (pg_catalog.starts_with(name, %s) "  # noqa: S608
            "OR pg_catalog.starts_with(name, %s))",
            [MARKS, f"{app}.{name} ", f"-{app}.{name} "],
        )


def in_pieces(connection: TenantDatabaseWrapperMixin, migration: Migration, *, backwards: bool) -> Migration:
    """Return a copy of a migration that runs operation by operation."""
    changed = copy.copy(migration)
    originals = migration.operations[::-1] if backwards else migration.operations
    pieces = Pieces(connection, migration, originals, backwards=backwards)
    method = "database_backwards" if backwards else "database_forwards"
    copies = []
    for number, original in enumerate(originals):
        operation = copy.copy(original)
        vars(operation)[method] = _by_pieces(pieces, number, getattr(original, method))
        copies.append(operation)
    vars(changed)["operations"] = copies[::-1] if backwards else copies
    return changed


def _by_pieces(pieces: Pieces, number: int, run: Callable[..., None]) -> Callable[..., None]:
    def run_piece(app_label: str, schema_editor: Any, before: Any, after: Any) -> None:
        pieces.run(number, schema_editor, lambda: run(app_label, schema_editor, before, after))

    return run_piece


def _describe(operation: Any) -> str:
    return str(operation.describe())


def _count(done: int) -> str:
    return "its first operation is" if done == 1 else f"its first {done} operations are"
