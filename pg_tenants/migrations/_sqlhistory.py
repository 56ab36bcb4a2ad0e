"""The record of the SQL files that were run in a schema: who, when, and with which text.

It is a table in the schema itself, so it is dropped, renamed and restored with it. Each run of a file adds a row. The
row of the run that made an applied file applied is in force; there is one at most for each file. That a file is applied
says ``django_migrations``, as of all migrations.

A run is recorded by statements that name no schema and read nothing into the program, sent by the schema editor. So
they are part of what may be sent to other schemas as it is.
"""

from __future__ import annotations

import getpass
import socket
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any, Literal

from django.db import DEFAULT_DB_ALIAS
from psycopg import sql

from pg_tenants import schemas
from pg_tenants.context import current_schema, schema_context
from pg_tenants.exceptions import SchemaDoesNotExist
from pg_tenants.migrations._sqlfiles import Key, SqlStep
from pg_tenants.modules import SQL_LABEL
from pg_tenants.names import SQL_HISTORY_TABLE
from pg_tenants.sqltext import quote

__all__ = ["Direction", "SqlRun", "begin_run", "checksums", "end_run", "in_force", "record_alone", "sql_history"]

Direction = Literal["up", "down"]

# Without a schema: it is made where statements make tables, which is in the active one, and then found there first.
_ENSURE = f"""
CREATE TABLE IF NOT EXISTS {SQL_HISTORY_TABLE} (
    step integer PRIMARY KEY,
    module text NOT NULL,
    name text NOT NULL,
    direction text NOT NULL CHECK (direction IN ('up', 'down')),
    faked boolean NOT NULL,
    in_force boolean NOT NULL,
    checksum text NOT NULL,
    role text NOT NULL,
    client text NOT NULL,
    started_at timestamptz NOT NULL,
    finished_at timestamptz
);
CREATE UNIQUE INDEX IF NOT EXISTS {SQL_HISTORY_TABLE}_in_force ON {SQL_HISTORY_TABLE} (module, name) WHERE in_force;
"""
_BEGIN = f"""
INSERT INTO {SQL_HISTORY_TABLE} (step, module, name, direction, faked, in_force, checksum, role, client, started_at)
SELECT coalesce(max(step), 0) + 1, {{module}}, {{name}}, {{direction}}, {{faked}}, false, {{checksum}}, session_user,
    {{client}}, clock_timestamp() FROM {SQL_HISTORY_TABLE};
"""  # noqa: S608  # literals
_END = f"""
UPDATE {SQL_HISTORY_TABLE} SET in_force = false WHERE module = {{module}} AND name = {{name}} AND in_force;
UPDATE {SQL_HISTORY_TABLE} SET in_force = (direction = 'up'), finished_at = clock_timestamp()
WHERE step = (SELECT max(step) FROM {SQL_HISTORY_TABLE});
"""  # noqa: S608  # literals


@dataclass(frozen=True, slots=True)
class SqlRun:
    """A row of a schema's record of SQL files.

    Attributes:
        module: the module whose file it was.
        name: the file's name without ``.sql``.
        direction: ``up``, or ``down`` for the file that takes it back.
        faked: it was recorded alone.
        in_force: it made the file what it is now, which is applied.
        checksum: of the text that was run.
        role: the database role that ran it.
        client: the user and the host of the process that ran it.
        started_at: when it began.
        finished_at: when it ended; None for a file outside a transaction that did not come to its end.
    """

    module: str
    name: str
    direction: str
    faked: bool
    in_force: bool
    checksum: str
    role: str
    client: str
    started_at: datetime
    finished_at: datetime | None

    def __str__(self) -> str:
        done = "recorded" if self.faked else "applied" if self.direction == "up" else "taken back"
        took = "did not come to its end" if self.milliseconds is None else f"took {self.milliseconds:.0f} ms"
        return f"{done} at {self.started_at:%Y-%m-%d %H:%M:%S} by {self.role} from {self.client}, {took}"

    @property
    def milliseconds(self) -> float | None:
        """How long it took; None where it did not come to its end."""
        return None if self.finished_at is None else (self.finished_at - self.started_at).total_seconds() * 1000


def in_force(schema: str) -> str:
    """Return a query of the applied files of a schema, by its name in the database: label, name and checksum."""
    table = f"{quote(schema)}.{SQL_HISTORY_TABLE}"
    return f"SELECT '{SQL_LABEL}' || module AS label, name, checksum FROM {table} WHERE in_force"  # noqa: S608  # quoted


def checksums(connection: Any) -> dict[Key, str]:
    """Return those of the files that the active schema has applied."""
    schema = current_schema()
    assert schema is not None
    if not schemas.table_exists(SQL_HISTORY_TABLE, using=connection.alias):
        return {}
    with connection.cursor() as cursor:
        cursor.execute(in_force(connection.physical_schema(schema)))
        return {(label, name): checksum for label, name, checksum in cursor.fetchall()}


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
        raise SchemaDoesNotExist(
            f"There is no schema {schema!r} of pg_tenants in the database, so it has no history. Name one that "
            "'list_tenants' shows, or a fixed module's."
        )
    if not schemas.table_exists(SQL_HISTORY_TABLE, schema=schema, using=using):
        return []
    columns = ", ".join(SqlRun.__dataclass_fields__)
    table = f"{quote(connection.physical_schema(schema))}.{SQL_HISTORY_TABLE}"
    with schema_context(schema), connection.cursor() as cursor:
        cursor.execute(f"SELECT {columns} FROM {table} ORDER BY step")  # noqa: S608  # quoted names
        return [SqlRun(*row) for row in cursor.fetchall()]


def begin_run(step: SqlStep, direction: Direction, *, faked: bool = False) -> str:
    """Return the statements that record the beginning of a run in the schema where they are sent."""
    return _ENSURE + _filled(_BEGIN, step, direction, faked)


def end_run(step: SqlStep, direction: Direction) -> str:
    """Return the statements that record its end: what counted as applied until now does not any more."""
    return _filled(_END, step, direction, False)


def record_alone(connection: Any, step: SqlStep, direction: Direction) -> None:
    """Record in the active schema that a file was run, or taken back, which it was not."""
    with connection.cursor() as cursor:
        cursor.execute(begin_run(step, direction, faked=True) + end_run(step, direction))


def _filled(text: str, step: SqlStep, direction: Direction, faked: bool) -> str:
    file = step.down if direction == "down" and step.down is not None else step.up
    values = {
        "module": step.module,
        "name": step.name,
        "direction": direction,
        "faked": faked,
        "checksum": file.checksum,
        "client": _client(),
    }
    return text.format(**{key: sql.quote(value) for key, value in values.items()})


@cache
def _client() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # A container's user may have no name.
        user = "?"
    return f"{user}@{socket.gethostname()}"
