"""The record of the SQL files that were run in a schema: what is applied, and all that was ever done.

It is a table in the schema itself, so it is dropped, renamed and restored with it. Each run of a file adds a row. The
row by which a file counts as applied is in force; there is one at most for each file.
"""

from __future__ import annotations

import getpass
import socket
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any

from django.db import DEFAULT_DB_ALIAS, transaction
from django.db.migrations.recorder import MigrationRecorder

from pg_tenants import schemas
from pg_tenants.context import current_schema, schema_context
from pg_tenants.exceptions import SchemaDoesNotExist
from pg_tenants.migrations._sqlfiles import Key, SqlStep
from pg_tenants.modules import SQL_LABEL
from pg_tenants.names import SQL_HISTORY_TABLE
from pg_tenants.sqltext import quote

__all__ = ["IN_FORCE", "SqlRecorder", "SqlRun", "recorded", "sql_history", "without_checksum", "write"]

IN_FORCE = f"""
SELECT '{SQL_LABEL}' || module, name || ' ' || checksum FROM {{schema}}.{SQL_HISTORY_TABLE} WHERE in_force
"""  # noqa: S608  # a quoted name
"""What is applied in a schema, as ``django_migrations`` has it, but with the checksum behind each name."""

_CREATE = """
CREATE TABLE {table} (
    step integer PRIMARY KEY,
    module text NOT NULL,
    name text NOT NULL,
    direction text NOT NULL CHECK (direction IN ('up', 'down')),
    faked boolean NOT NULL,
    in_force boolean NOT NULL,
    checksum text NOT NULL,
    role text NOT NULL,
    client text NOT NULL,
    finished_at timestamptz NOT NULL,
    milliseconds integer NOT NULL
);
CREATE UNIQUE INDEX {index} ON {table} (module, name) WHERE in_force
"""
_ADD = """
INSERT INTO {table} (step, module, name, direction, faked, in_force, checksum, role, client, finished_at, milliseconds)
SELECT coalesce(max(step), 0) + 1, %s, %s, %s, %s, %s, %s, session_user, %s, pg_catalog.clock_timestamp(), %s FROM {table}
"""


@dataclass(frozen=True, slots=True)
class SqlRun:
    """A row of a schema's record of SQL files.

    Attributes:
        module: the module whose file it was.
        name: the file's name without ``.sql``.
        direction: ``up``, or ``down`` for the file that takes it back.
        faked: it was recorded alone.
        in_force: by this row the file counts as applied.
        checksum: of the text that was run.
        role: the database role that ran it.
        client: the user and the host of the process that ran it.
        finished_at: when it ended.
        milliseconds: how long it took.
    """

    module: str
    name: str
    direction: str
    faked: bool
    in_force: bool
    checksum: str
    role: str
    client: str
    finished_at: datetime
    milliseconds: int


def without_checksum(entry: str) -> tuple[str, str]:
    """Return the name and the checksum of an entry of a history."""
    name, _, checksum = entry.partition(" ")
    return name, checksum


def recorded(connection: Any) -> list[Key]:
    """Return which files the active schema has applied, as a history has them."""
    if not schemas.table_exists(SQL_HISTORY_TABLE, using=connection.alias):
        return []
    with connection.cursor() as cursor:
        cursor.execute(IN_FORCE.format(schema=_schema(connection)))
        return list(cursor.fetchall())


def sql_history(schema: str, *, using: str = DEFAULT_DB_ALIAS) -> list[SqlRun]:
    """Return all runs of SQL files in a schema, the first one first.

    Args:
        schema: a tenant's or a fixed module's schema.
        using: the database alias.

    Raises:
        SchemaDoesNotExist: there is no such schema.
    """
    connection = schemas.tenant_connection(using)
    if not schemas.is_ready(schema, using=using):
        raise SchemaDoesNotExist(f"There is no schema {schema!r} of pg_tenants in the database, so it has no history.")
    if not schemas.table_exists(SQL_HISTORY_TABLE, schema=schema, using=using):
        return []
    columns = ", ".join(SqlRun.__dataclass_fields__)
    with schema_context(schema), connection.cursor() as cursor:
        cursor.execute(f"SELECT {columns} FROM {_table(connection)} ORDER BY step")  # noqa: S608  # a quoted name
        return [SqlRun(*row) for row in cursor.fetchall()]


def write(connection: Any, step: SqlStep, direction: str, *, faked: bool = False, seconds: float = 0.0) -> None:
    """Record a run in the active schema; what counted as applied until now does not any more."""
    table = _table(connection)
    file = step.down if direction == "down" and step.down is not None else step.up
    with transaction.atomic(using=connection.alias, savepoint=False):
        there = schemas.table_exists(SQL_HISTORY_TABLE, using=connection.alias)
        with connection.cursor() as cursor:
            if not there:
                cursor.execute(_CREATE.format(table=table, index=quote(f"{SQL_HISTORY_TABLE}_in_force")))
            cursor.execute(
                f"UPDATE {table} SET in_force = false WHERE module = %s AND name = %s AND in_force",  # noqa: S608
                [step.module, step.name],
            )
            values = [step.module, step.name, direction, faked, direction == "up", file.checksum, _client()]
            cursor.execute(_ADD.format(table=table), [*values, round(seconds * 1000)])


def _schema(connection: Any) -> str:
    # Named, so that another schema's table on the path is never taken for it.
    schema = current_schema()
    assert schema is not None
    return quote(connection.physical_schema(schema))


def _table(connection: Any) -> str:
    return f"{_schema(connection)}.{SQL_HISTORY_TABLE}"


@cache
def _client() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # A container's user may have no name.
        user = "?"
    return f"{user}@{socket.gethostname()}"


class SqlRecorder(MigrationRecorder):
    """Django's recorder, which records SQL files in their own table.

    A file that was run has recorded itself, in its own transaction; what is left is what is only to be recorded.
    """

    def __init__(self, connection: Any, steps: dict[Key, SqlStep]):
        super().__init__(connection)
        self._steps = steps

    def record_applied(self, app: str, name: str) -> None:
        """Record that a migration was applied."""
        self._record(app, name, "up", super().record_applied)

    def record_unapplied(self, app: str, name: str) -> None:
        """Record that a migration was unapplied."""
        self._record(app, name, "down", super().record_unapplied)

    def _record(self, app: str, name: str, direction: str, otherwise: Any) -> None:
        step = self._steps.get((app, name))
        if step is None:
            otherwise(app, name)
            return
        applied = (app, name) in {(label, without_checksum(entry)[0]) for label, entry in recorded(self.connection)}
        if applied != (direction == "up"):
            write(self.connection, step, direction, faked=True)
