"""Schemas that have the same way to go: one plan, one set of states, and each migration learned once.

The first schema of a track runs a migration as Django does, while what it sends is recorded. What may be sent elsewhere
goes to the other schemas as one message in one transaction: guards, the statements, and the rows of
``django_migrations``. Whatever may not runs in each schema, on states that are shared.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from threading import Lock, RLock
from typing import TYPE_CHECKING, Any

from django.db import DatabaseError, transaction
from django.db.migrations.migration import Migration
from django.db.migrations.operations import RunPython
from psycopg import sql

from pg_tenants.backends.base import TenantDatabaseWrapperMixin
from pg_tenants.context import ActiveContext
from pg_tenants.migrations._events import Event
from pg_tenants.migrations._executor import Key, ModuleExecutor
from pg_tenants.migrations._history import MARKS, TABLE, History
from pg_tenants.migrations._locks import Turns, is_worth_retrying, limits, migration_limits, nobody_waits, take_turn
from pg_tenants.migrations._pieces import Pieces, has_own_way, unfinished
from pg_tenants.migrations._record import SEPARATOR, ModuleRecorder, Recording, is_foreign, obstacle_of, record
from pg_tenants.migrations._signals import Signals
from pg_tenants.migrations._states import Plan, PlanStates, Step
from pg_tenants.migrations._tables import digest, digest_query, tables_of

if TYPE_CHECKING:
    from pg_tenants.migrations._targets import Target

__all__ = ["OWED", "AddedOperations", "HistoryMoved", "Track", "Worker"]

_GUARD = "pg_tenants_guard"
OWED: Key = (MARKS, "post_migrate")
"""The row that is there from a schema's first migration to the end of its ``post_migrate``, whatever is killed."""

_ATTEMPTS = 3
"""Schemas that a migration is recorded in, in the hope of one whose recording may be replayed."""

_LESSONS_KEPT = 16
"""Recordings of a migration for schemas with different catalogs."""


class HistoryMoved(Exception):
    """The schema has recorded something else than was known: another run is, or was, at work there."""


@dataclass(frozen=True)
class Worker:
    """One of those who run a fleet at the same time: a connection, and another one that holds the turns."""

    connection: TenantDatabaseWrapperMixin
    turns: Turns
    tell: Callable[[Event], None]

    @property
    def may_replay(self) -> bool:
        """Whether a message is a transaction of its own."""
        return not self.connection.in_atomic_block and self.connection.get_autocommit()


@dataclass(frozen=True)
class _Lesson:
    """A migration as statements.

    Attributes:
        script: the statements.
        tables: those that the statements depend on.
        expected: what the catalog has to say of them.
        body: what is sent between the prefix and its check.
    """

    script: str
    tables: frozenset[str]
    expected: str
    body: bytes


@dataclass
class _Stage:
    """One migration of the plan, and what is known of running it."""

    index: int
    migration: Migration
    is_backwards: bool
    rows: tuple[Key, ...]
    obstacle: str | None
    lessons: list[_Lesson] = field(default_factory=list)
    unconfirmed: list[_Lesson] = field(default_factory=list)
    attempts: int = 0
    lock: Any = field(default_factory=Lock)

    @property
    def name(self) -> str:
        """Return ``app.name``, with a minus if it is taken back."""
        return f"{'-' * self.is_backwards}{self.migration.app_label}.{self.migration.name}"

    @property
    def may_be_learned(self) -> bool:
        """Whether running it once more may spare others the trouble."""
        known = len(self.lessons)
        return self.obstacle is None and self.attempts < known + _ATTEMPTS and known < _LESSONS_KEPT


class Track:
    """The schemas with the same apps and the same history.

    Args:
        executor: knows the graph and the history.
        plan: what is to be run.
        history: what the schemas have recorded.
        size: how many schemas there are.
        signals: sends the signals of the plan.
    """

    def __init__(self, executor: ModuleExecutor, plan: Plan, history: History, size: int, signals: Signals):
        self._executor, self._history, self._size, self._signals = executor, history, size, signals
        self.plan = plan
        self._states = PlanStates(executor, plan)
        self._stages = [
            _Stage(
                index,
                migration,
                backwards,
                tuple(executor.rows_of(migration)),
                obstacle_of(migration, backwards=backwards),
            )
            for index, (migration, backwards) in enumerate(plan)
        ]
        self._own_operations = [list(migration.operations) for migration, _ in plan]
        self._operations: list[list[str]] | None = None
        self._setting_out = RLock()

    @property
    def names(self) -> list[str]:
        """Return the migrations of the plan as ``app.name``; with a minus, if they are taken back."""
        return [stage.name for stage in self._stages]

    @property
    def is_backwards(self) -> bool:
        """Whether the plan takes migrations back."""
        return self._states.is_backwards

    @property
    def missing_squashes(self) -> list[Key]:
        """Return squashed migrations that are not recorded although all that they replace is, or will be."""
        applied = set(self._history)
        for stage in self._stages:
            (applied.difference_update if stage.is_backwards else applied.update)(stage.rows)
        return self._executor.missing_squashes(applied)

    @property
    def has_work(self) -> bool:
        """Whether anything is to be done in the schemas."""
        return bool(self._stages or self.missing_squashes)

    def run(self, worker: Worker, target: Target, done: list[str], *, is_owed: bool) -> None:
        """Bring one schema to the end of the plan.

        Args:
            worker: who does it.
            target: the schema.
            done: is added what was run.
            is_owed: its ``post_migrate`` has not been sent after an earlier run.

        Raises:
            HistoryMoved: the schema is not at the beginning of the track, or not any more.
            Exception: whatever a migration raises; that migration is rolled back if it is atomic.
        """
        with ActiveContext(target.active):
            if self._stages:
                worker.tell(Event(kind="start", target=target))
                self._set_out(worker)
            elif is_owed:
                self._signals.learn(self._states.after)
            for stage in self._stages:
                self._pass(stage, worker, target)
                done.append(stage.name)
                verb = "Unapplied" if stage.is_backwards else "Applied"
                name = stage.name.removeprefix("-")
                worker.tell(Event(kind="migration", target=target, migrations=(stage.name,), detail=f"{verb} {name}"))
            if squashes := self.missing_squashes:
                self._note_squashes(worker, target, squashes)
            if self._stages or is_owed:
                self._arrive(worker, target)

    def end(self) -> None:
        """Send what waited until all schemas were done."""
        self._signals.end(self._states.after)

    # -- before and after ---------------------------------------------------------------------------------------------

    def _set_out(self, worker: Worker) -> None:
        """Send ``pre_migrate``; its receivers may add operations to the plan, and add the same for each schema."""
        plan = []
        for (migration, backwards), operations in zip(self.plan, self._own_operations, strict=True):
            mine = copy.copy(migration)
            mine.operations = list(operations)  # type: ignore[misc]
            plan.append((mine, backwards))
        with self._setting_out if self._operations is None else nullcontext():
            self._signals.send_before(plan, self._states.before())
            if self._operations is None:
                self._adopt(plan)
        if self._described(plan) != self._operations:
            raise AddedOperations

    def _adopt(self, plan: Plan) -> None:
        for (migration, _), (mine, _) in zip(self.plan, plan, strict=True):
            migration.operations = mine.operations  # type: ignore[misc]
        for stage in self._stages:
            stage.obstacle = obstacle_of(stage.migration, backwards=stage.is_backwards)
        self._signals.learn(self._states.after)
        self._operations = self._described(plan)

    @staticmethod
    def _described(plan: Plan) -> list[list[str]]:
        return [[f"{type(each)} {each.describe()}" for each in migration.operations] for migration, _ in plan]

    def _arrive(self, worker: Worker, target: Target) -> None:
        if self._stages and not self._signals.calls_djangos:
            self._signals.send_after(self._states.after())
            if not self._signals.is_shared:
                with worker.connection.cursor() as cursor:
                    cursor.execute(f"DELETE FROM {TABLE} WHERE (app, name) = {_literals(OWED)}")  # noqa: S608
            return
        with worker.turns.of(target.schema), worker.connection.cursor() as cursor:
            cursor.execute(f"SELECT FROM {TABLE} WHERE (app, name) = (%s, %s)", OWED)
            if cursor.fetchone() is None:
                return  # Another run has done it.
            if not self._stages:
                cursor.execute(self._signals.script or "SELECT")
            self._signals.send_after(self._states.after())
            cursor.execute(f"DELETE FROM {TABLE} WHERE (app, name) = (%s, %s)", OWED)  # noqa: S608

    def _note_squashes(self, worker: Worker, target: Target, squashes: list[Key]) -> None:
        with worker.turns.of(target.schema), transaction.atomic(using=worker.connection.alias):
            recorder = ModuleRecorder(worker.connection)
            known = recorder.applied_migrations()
            for app, name in squashes:
                if (app, name) not in known:
                    recorder.record_applied(app, name)

    # -- one migration in one schema ----------------------------------------------------------------------------------

    def _pass(self, stage: _Stage, worker: Worker, target: Target) -> None:
        tried: set[int] = set()
        if self._replay_any(stage, worker, target, tried):
            return
        learning = self._size > 1 and worker.may_replay and stage.may_be_learned
        # Others wait for what the first one learns, and look again.
        with stage.lock if learning else nullcontext():
            if learning and self._replay_any(stage, worker, target, tried):
                return
            with worker.turns.of(target.schema):
                self._run(stage, worker, target, learning=learning and stage.may_be_learned)

    def _replay_any(self, stage: _Stage, worker: Worker, target: Target, tried: set[int]) -> bool:
        if not worker.may_replay:
            return False
        for lesson in list(stage.lessons):
            if id(lesson) in tried:
                continue
            tried.add(id(lesson))
            if _replay(lesson, worker, target):
                return True
        return False

    def _run(self, stage: _Stage, worker: Worker, target: Target, *, learning: bool) -> None:
        """Run a migration as Django's executor does, and record what it sends if that may be of use."""
        connection = worker.connection
        with nobody_waits(connection) if connection.in_atomic_block else migration_limits(connection):
            self._run_within(stage, connection, learning)

    def _run_within(self, stage: _Stage, connection: TenantDatabaseWrapperMixin, learning: bool) -> None:
        marks = self._check_history(stage, connection)
        if not stage.migration.atomic or stage.name in marks:
            self._run_in_pieces(stage, connection)
            return
        stage.attempts += learning
        tables = tables_of(connection) if learning else {}
        recording: Recording | None = None
        with transaction.atomic(using=connection.alias):
            with (
                record(connection) if learning else nullcontext() as recording,
                connection.schema_editor(atomic=True) as editor,
            ):
                self._operate(stage, editor)
            # In the same transaction: Django records some migrations after theirs, and may be killed in between.
            self._note(stage, connection)
        if connection.in_atomic_block:
            connection.check_constraints()
        if recording is not None:
            self._learn(stage, recording, tables)

    def _run_in_pieces(self, stage: _Stage, connection: TenantDatabaseWrapperMixin) -> None:
        """Run a migration that is not atomic, or was not when it was broken off."""
        is_whole = has_own_way(stage.migration, backwards=stage.is_backwards)
        operations = [] if is_whole else [step.operation for step in self._states.steps(stage.index)]
        pieces = Pieces(connection, stage.migration, operations, backwards=stage.is_backwards)
        if not operations:
            pieces.begin()
        with connection.schema_editor(atomic=False) as editor:
            self._operate(stage, editor, pieces)
        with transaction.atomic(using=connection.alias):
            self._note(stage, connection)
            pieces.end()

    def _operate(self, stage: _Stage, editor: Any, pieces: Pieces | None = None) -> None:
        migration = stage.migration
        if has_own_way(migration, backwards=stage.is_backwards):
            run_whole = migration.unapply if stage.is_backwards else migration.apply
            run_whole(self._states.start(stage.index), editor)
            return
        for number, step in enumerate(self._states.steps(stage.index)):
            work = partial(self._step, stage, step, editor)
            if pieces is None:
                work()
            else:
                pieces.run(number, editor, work)

    def _step(self, stage: _Stage, step: Step, editor: Any) -> None:
        operation, migration = step.operation, stage.migration
        if isinstance(operation, RunPython):
            self._states.settle(step.before)
        # As Migration.apply() has it.
        is_atomic = operation.atomic or (migration.atomic and operation.atomic is not False)
        run = operation.database_backwards if stage.is_backwards else operation.database_forwards
        with (
            transaction.atomic(using=editor.connection.alias)
            if is_atomic and not editor.atomic_migration
            else nullcontext()
        ):
            run(migration.app_label, editor, step.before, step.after)

    def _learn(self, stage: _Stage, recording: Recording, tables: dict[str, str]) -> None:
        if recording.obstacle is not None:
            return
        script = recording.script
        needed = frozenset[str]()
        if recording.introspected:
            mentioned = {name for name in tables if f'"{name}"' in script}
            needed = frozenset(recording.introspected | mentioned)
        expected = digest(tables, needed)
        lesson = _Lesson(script, needed, expected, self._body(stage, script, needed, expected).encode())
        if is_foreign(stage.migration):
            same = [each for each in stage.unconfirmed if each == lesson]
            stage.unconfirmed.append(lesson)
            if not same:
                return
        stage.lessons.append(lesson)
        self._states.forget(stage.index)

    # -- the record ---------------------------------------------------------------------------------------------------

    def _expected(self, stage: _Stage) -> History:
        """Return what a schema has recorded when it comes to a migration of the plan."""
        found = set(self._history)
        for earlier in self._stages[: stage.index]:
            (found.difference_update if earlier.is_backwards else found.update)(earlier.rows)
        return frozenset(found)

    def _check_history(self, stage: _Stage, connection: TenantDatabaseWrapperMixin) -> set[str]:
        """Refuse a schema that is not where it should be; return the names of migrations that were broken off there."""
        expected = self._expected(stage)
        recorder = ModuleRecorder(connection)
        # Asked for where it may be missing: the path would lead to another schema's.
        recorder._has_table = bool(expected)  # type: ignore[attr-defined]
        found = set(recorder.applied_migrations())
        if {key for key in found if key[0] != MARKS} != expected:
            raise HistoryMoved
        return {mark.name for mark in unfinished(found)}

    def _note(self, stage: _Stage, connection: TenantDatabaseWrapperMixin) -> None:
        """Write what is to be written in the transaction of a migration."""
        if not self._expected(stage):
            ModuleRecorder(connection).ensure_schema()
        with connection.cursor() as cursor:
            for statement in self._notes(stage):
                cursor.execute(statement)

    def _notes(self, stage: _Stage) -> Iterable[str]:
        rows = ", ".join(_literals(row) for row in stage.rows)
        if stage.is_backwards:
            yield f"DELETE FROM {TABLE} WHERE (app, name) IN ({rows})"  # noqa: S608  # literals
        else:
            added = ", ".join(_literals(row, "pg_catalog.now()") for row in stage.rows)
            yield f"INSERT INTO {TABLE} (app, name, applied) VALUES {added}"  # noqa: S608
        is_first, is_last = stage.index == 0, stage.index == len(self._stages) - 1
        owed = _literals(OWED)
        if is_first and not (is_last and self._signals.is_shared):
            yield (
                f"INSERT INTO {TABLE} (app, name, applied) SELECT {owed[1:-1]}, pg_catalog.now() "  # noqa: S608
                f"WHERE NOT EXISTS (SELECT FROM {TABLE} WHERE (app, name) = {owed})"
            )
        if is_last and self._signals.script:
            yield self._signals.script
        if is_last and self._signals.is_shared:
            yield f"DELETE FROM {TABLE} WHERE (app, name) = {owed}"  # noqa: S608

    def _body(self, stage: _Stage, script: str, tables: frozenset[str], expected: str) -> str:
        rows = ", ".join(_literals(row) for row in stage.rows)
        expected_rows = self._expected(stage)
        known, present = len(expected_rows), len(expected_rows.intersection(stage.rows))
        marks, mark = sql.Literal(MARKS).as_string(), sql.Literal(f"{stage.name} ").as_string()
        # A plain text instead of a computed one would be cast, and fail, when the query is planned. The table is looked
        # for in the schema, as the path would lead to another one's.
        history = (
            f"SELECT CASE WHEN count(*) FILTER (WHERE app <> {marks}) = {known} "  # noqa: S608  # literals
            f"AND count(*) FILTER (WHERE (app, name) IN ({rows})) = {present} "
            f"AND count(*) FILTER (WHERE app = {marks} AND pg_catalog.starts_with(name, {mark})) = 0 "
            f"AND EXISTS (SELECT FROM pg_catalog.pg_class WHERE relname = '{TABLE}' "
            "AND relnamespace = pg_catalog.current_schema()::pg_catalog.regnamespace) "
            f"THEN 0 ELSE ('{_GUARD} history ' || count(*))::pg_catalog.int4 END FROM {TABLE}"
        )
        parts = [history]
        if tables:
            failure = f"('{_GUARD} catalog ' || found)::pg_catalog.int4"
            question = f"({digest_query(tables)}) f (found)"
            parts.append(f"SELECT CASE WHEN found = '{expected}' THEN 0 ELSE {failure} END FROM {question}")  # noqa: S608
        return SEPARATOR.join([*parts, script, *self._notes(stage)])


class AddedOperations(HistoryMoved):
    """Receivers of ``pre_migrate`` have added other operations for this schema than for the first one."""


def _replay(lesson: _Lesson, worker: Worker, target: Target) -> bool:
    """Send a migration to a schema as one message, which is one transaction; return False where it does not fit."""
    connection = worker.connection
    prefix = connection.statement_prefix()
    assert prefix is not None
    timeouts = limits(connection)
    # The turn comes before the prefix: whoever waits for it holds nothing that others wait for.
    before = f"{take_turn(target.schema)}; {timeouts}; ".encode()
    message = before + prefix.simple + f"{timeouts};\n".encode() + lesson.body + prefix.check
    try:
        with connection.without_prefix() as execute:
            execute(message)  # type: ignore[arg-type]
    except DatabaseError as exc:
        if is_worth_retrying(exc) or connection.connection is None or connection.connection.closed:
            raise
        # Rolled back. What is wrong is for Django's own way to find out.
        return False
    return True


def _literals(values: Iterable[str], *more: str) -> str:
    return "(" + ", ".join([*(sql.Literal(value).as_string() for value in values), *more]) + ")"
