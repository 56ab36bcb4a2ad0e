"""SQL files as migrations: a node for each in the graph of Django's, so that one plan has both."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

from django.db import DatabaseError, transaction
from django.db.migrations import Migration
from django.db.migrations.operations.base import Operation
from psycopg import errors as e

from pg_tenants.conf import nearest
from pg_tenants.exceptions import MigrationFailed
from pg_tenants.migrations._sqlfiles import Key, SqlFile, SqlStep, sql_steps, without_concurrently
from pg_tenants.migrations._sqlhistory import Direction, begin_run, end_run
from pg_tenants.modules import registry
from pg_tenants.sqltemplates import render

__all__ = ["RunSqlFile", "SqlFileMigration", "refuse_unknown_references", "sql_file_migrations"]

_NOT_IN_TRANSACTION = (e.ActiveSqlTransaction, e.InvalidTransactionTermination)


class SqlFileMigration(Migration):
    """The migration of one number of a module's SQL files.

    Attributes:
        step: the files.
    """

    initial = False

    def __init__(self, label: str, step: SqlStep, before: SqlStep | None):
        super().__init__(step.name, label)
        self.step = step
        # What other migrations have as attributes of their classes.
        vars(self).update(
            atomic=step.up.atomic and (step.down is None or step.down.atomic),
            dependencies=[*step.up.after, *([(label, before.name)] if before else [])],
            run_before=list(step.up.before),
            operations=[RunSqlFile(step)],
        )

    @property
    def is_placed(self) -> bool:
        """Whether the file says what it comes after or before."""
        return bool(self.step.up.after or self.step.up.before)


class RunSqlFile(Operation):
    """Runs a file, or the one that takes it back, in the active schema, and records that there.

    Its text may name the schema, so it is rendered and run for each schema by itself.
    """

    reduces_to_sql = True

    def __init__(self, step: SqlStep):
        self.step = step

    def __repr__(self) -> str:
        down = "" if self.step.down else f" without {self.step.name}.down.sql"
        return f"<SQL file {self.step.up.path.name}{down}>"

    @property
    def reversible(self) -> bool:  # type: ignore[override]
        """Whether there is a file that takes it back."""
        return self.step.down is not None

    def state_forwards(self, app_label: str, state: Any) -> None:
        """Change nothing: models are Django's migrations' to change."""

    def database_forwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:
        """Run the file.

        Raises:
            MigrationFailed: it has no statement, or one that PostgreSQL does not run in a transaction.
        """
        if not self.step.up.statements:
            raise MigrationFailed(f"The file {self.step.up.path} has no statement. Write it, or remove it.")
        self._run(self.step.up, "up", schema_editor)

    def database_backwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:
        """Run the file that takes it back."""
        assert self.step.down is not None
        if self.step.down.statements or not schema_editor.collect_sql:
            self._run(self.step.down, "down", schema_editor)

    def describe(self) -> str:
        """Return what it does."""
        return f"SQL file {self.step.up.path.name}"

    def _run(self, file: SqlFile, direction: Direction, schema_editor: Any) -> None:
        connection = schema_editor.connection
        text = render(file.text, connection)
        if schema_editor.collect_sql:
            schema_editor.execute(text, params=None)
            return
        inside = connection.in_atomic_block
        with transaction.atomic(using=connection.alias) if file.atomic and not inside else nullcontext():
            schema_editor.execute(begin_run(self.step, direction), params=None)
            if file.atomic or inside:
                _run_whole(file, text if file.atomic else without_concurrently(text), schema_editor)
            else:
                _run_parts(file, schema_editor)
            schema_editor.execute(end_run(self.step, direction), params=None)


def _run_whole(file: SqlFile, text: str, schema_editor: Any) -> None:
    if not file.statements:
        return
    try:
        with _located(file, text, 1):
            schema_editor.execute(text, params=None)
    except DatabaseError as exc:
        if not isinstance(exc.__cause__, _NOT_IN_TRANSACTION):
            raise
        remedy = (
            "Put the line '-- pg_tenants: atomic=false' at the top of the file, and nothing else into it."
            if file.atomic
            else "It cannot be part of making a tenant, which is one transaction."
        )
        raise MigrationFailed(f"{exc}. PostgreSQL does not run this inside a transaction. {remedy}") from exc


def _run_parts(file: SqlFile, schema_editor: Any) -> None:
    parts = list(file.parts())
    for number, (line, statement) in enumerate(parts, 1):
        text = render(statement, schema_editor.connection)
        with _located(file, text, line, f"Statement {number} of {len(parts)} failed; {_kept(number - 1)}"):
            schema_editor.execute(text, params=None)


def _kept(count: int) -> str:
    done = "nothing was done" if not count else f"the {count} before it are done" if count > 1 else "the first is done"
    return (
        f"{done}, and the file is not recorded. The next run begins at the first statement, so make each one that can "
        "be run again (IF NOT EXISTS, IF EXISTS). An index that CREATE INDEX CONCURRENTLY has left invalid is made "
        "anew."
    )


@contextmanager
def _located(file: SqlFile, text: str, first_line: int, more: str = "") -> Iterator[None]:
    """Say in a database error in which file, and on which line where PostgreSQL tells, it is."""
    try:
        yield
    except DatabaseError as exc:
        diagnostics = getattr(exc.__cause__, "diag", None)
        position = diagnostics.statement_position if diagnostics else None
        line = first_line + text.count("\n", 0, int(position) - 1) if position else first_line if more else None
        where = f"{file.path}, line {line}" if line else f"{file.path}"
        message = f"{where}: {str(exc).strip()}" + (f"\n{more}" if more else "")
        raise type(exc)(message).with_traceback(exc.__traceback__) from exc.__cause__


def sql_file_migrations() -> dict[Key, SqlFileMigration]:
    """Return the SQL files of all modules as migrations.

    Raises:
        MigrationFailed: a folder is missing, or a file cannot be run as it is.
    """
    found: dict[Key, SqlFileMigration] = {}
    for module in registry() or ():
        before: SqlStep | None = None
        for step in sql_steps(module) if module.sql_migrations else ():
            found[module.sql_label, step.name] = SqlFileMigration(module.sql_label, step, before)
            before = step
    return found


def refuse_unknown_references(known: Mapping[Key, Migration]) -> None:
    """Refuse SQL files that are to run after or before a migration that does not exist.

    Args:
        known: all migrations, SQL files included.

    Raises:
        MigrationFailed: there is one.
    """
    replaced = {key for migration in known.values() for key in migration.replaces}
    for migration in known.values():
        if not isinstance(migration, SqlFileMigration):
            continue
        for key in (*migration.step.up.after, *migration.step.up.before):
            if key not in known and key not in replaced:
                names = [f"{app}.{name}" for app, name in known if app == key[0]] or list({app for app, _ in known})
                raise MigrationFailed(
                    f"The file {migration.step.up.path} names the migration '{key[0]}.{key[1]}', and there is none. "
                    f"{nearest(f'{key[0]}.{key[1]}' if '.' in names[0] else key[0], names)}"
                )
