"""What each schema has recorded, read for all of them at once.

One statement says which schemas have a ``django_migrations``. Their rows are compared by a count and a sum of hashes, a
hundred schemas to a statement, and read in full once for each sum that differs. The checksums of SQL files are compared
in the same statements.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from itertools import islice
from typing import Any

from django.db import DatabaseError, transaction
from django.db.migrations.recorder import MigrationRecorder

from pg_tenants.backends.prefix import quote
from pg_tenants.context import no_schema
from pg_tenants.migrations._sqlhistory import in_force
from pg_tenants.migrations._sqlmigrations import sql_file_migrations
from pg_tenants.names import MARKER_TABLE, SQL_HISTORY_TABLE
from pg_tenants.schemas import tenant_connection

__all__ = ["MARKS", "TABLE", "History", "read_histories"]

History = frozenset[tuple[str, str]]
"""The ``(app, name)`` of the migrations that a schema has recorded."""

MARKS = "pg_tenants:unfinished"
"""The app of rows in ``django_migrations`` that say what a killed run has left to do."""

_Schema = tuple[str, bool]
"""A schema by its name in the database, and whether it has a record of SQL files."""

CHUNK = 100
"""Schemas in a statement. Each takes two locks, or five, and all tables' locks share one table in the server."""

LOCK_TIMEOUT = "2s"
"""How long a statement waits for a schema whose history another session has locked."""

TABLE = MigrationRecorder.Migration._meta.db_table
_THERE = """
SELECT n.nspname, bool_or(c.relname = %s), bool_or(c.relname = %s) FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relname IN (%s, %s, %s) AND c.relkind = 'r' AND n.nspname = ANY (%s)
GROUP BY n.nspname HAVING bool_or(c.relname = %s)
"""


def read_histories(schemas: Collection[str], *, using: str) -> dict[str, History | None]:
    """Return what schemas have recorded.

    Args:
        schemas: their names.
        using: the database alias.

    Returns:
        the history of each schema, empty where it has no table for it; None for a schema that has to be looked at by
        itself: it is missing, has no marker, could not be read, or has applied an SQL file that was changed since.
    """
    connection = tenant_connection(using)
    names = {connection.physical_schema(schema): schema for schema in schemas}
    found: dict[str, History | None] = dict.fromkeys(schemas)
    with no_schema():
        with connection.cursor() as cursor:
            tables = [TABLE, SQL_HISTORY_TABLE]
            cursor.execute(_THERE, [*tables, *tables, MARKER_TABLE, list(names), MARKER_TABLE])
            there = {name: tuple(flags) for name, *flags in cursor.fetchall()}
        found |= {names[name]: frozenset() for name, (recorded, _) in there.items() if not recorded}
        recorded = [(name, there[name][1]) for name in names if name in there and there[name][0]]
        known: dict[tuple[int, Any], History] = {}
        unchanged: dict[Any, bool] = {None: True}
        for chunk in _chunks(recorded, CHUNK):
            for name, (*total, files) in _sums(connection, chunk).items():
                if files not in unchanged:
                    unchanged[files] = _are_unchanged(connection, name)
                if (key := (total[0], total[1])) not in known and (rows := _rows(connection, name)) is not None:
                    known[key] = rows
                found[names[name]] = known.get(key) if unchanged[files] else None
    return found


def _are_unchanged(connection: Any, name: str) -> bool:
    """Return whether the SQL files that a schema has applied are what they were then."""
    rows = _read(connection, in_force(name))
    files = sql_file_migrations()
    return rows is not None and all(
        (label, file) not in files or files[label, file].step.up.accepts(checksum) for label, file, checksum in rows
    )


def _sums(connection: Any, names: list[_Schema]) -> Mapping[str, tuple[int, Any, Any]]:
    """Return how many rows schemas have, and the sums of hashes: of these, and of their SQL files with checksums."""
    query = " UNION ALL ".join(
        # The number stands for the name, which may be long.
        f"SELECT {number}, count(*), sum(pg_catalog.hashtextextended(app || '.' || name, 0)), "  # noqa: S608
        f"{_sum_of_files(name) if has_files else 'NULL::numeric'} FROM {quote(name)}.{TABLE}"
        for number, (name, has_files) in enumerate(names)
    )
    rows = _read(connection, query)
    if rows is not None:
        return {names[number][0]: (count, total, files) for number, count, total, files in rows}
    if len(names) == 1:
        return {}
    # One of them has gone, is locked, or has another kind of table: the others are read without it.
    return {name: total for each in names for name, total in _sums(connection, [each]).items()}


def _sum_of_files(name: str) -> str:
    text = "label || '.' || name || ' ' || checksum"
    return f"(SELECT sum(pg_catalog.hashtextextended({text}, 0)) FROM ({in_force(name)}) files)"  # noqa: S608


def _rows(connection: Any, name: str) -> History | None:
    rows = _read(connection, f"SELECT app, name FROM {quote(name)}.{TABLE}")  # noqa: S608  # quoted
    return None if rows is None else frozenset(rows)


def _read(connection: Any, query: str) -> list[Any] | None:
    try:
        with transaction.atomic(using=connection.alias), connection.cursor() as cursor:
            cursor.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'")
            cursor.execute(query)
            return list(cursor.fetchall())
    except DatabaseError:
        if connection.in_atomic_block and connection.needs_rollback:
            raise
        return None


def _chunks(items: Iterable[_Schema], size: int) -> Iterable[list[_Schema]]:
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk
