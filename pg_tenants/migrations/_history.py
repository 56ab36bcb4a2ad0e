"""What each schema has recorded, read for all of them at once.

One statement says which schemas have a ``django_migrations``. Their rows are compared by a count and a sum of hashes, a
hundred schemas to a statement, and read in full once for each sum that differs.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from itertools import islice
from typing import Any

from django.db import DatabaseError, transaction
from django.db.migrations.recorder import MigrationRecorder

from pg_tenants.backends.prefix import quote
from pg_tenants.context import no_schema
from pg_tenants.names import MARKER_TABLE
from pg_tenants.schemas import tenant_connection

__all__ = ["MARKS", "TABLE", "History", "read_histories"]

History = frozenset[tuple[str, str]]
"""The ``(app, name)`` of the migrations that a schema has recorded."""

MARKS = "pg_tenants:unfinished"
"""The app of rows in ``django_migrations`` that say what a killed run has left to do."""

CHUNK = 100
"""Schemas in a statement. Each takes two locks, and all tables' locks share one table in the server."""

LOCK_TIMEOUT = "2s"
"""How long a statement waits for a schema whose history another session has locked."""

TABLE = MigrationRecorder.Migration._meta.db_table
_THERE = """
SELECT n.nspname, bool_or(c.relname = %s) FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relname IN (%s, %s) AND c.relkind = 'r' AND n.nspname = ANY (%s)
GROUP BY n.nspname HAVING bool_or(c.relname = %s)
"""


def read_histories(schemas: Collection[str], *, using: str) -> dict[str, History | None]:
    """Return what schemas have recorded.

    Args:
        schemas: their names.
        using: the database alias.

    Returns:
        the history of each schema, empty where it has no table for it; None for a schema that has to be looked at by
        itself: it is missing, has no marker, or could not be read.
    """
    connection = tenant_connection(using)
    names = {connection.physical_schema(schema): schema for schema in schemas}
    found: dict[str, History | None] = dict.fromkeys(schemas)
    with no_schema():
        with connection.cursor() as cursor:
            cursor.execute(_THERE, [TABLE, TABLE, MARKER_TABLE, list(names), MARKER_TABLE])
            there = dict(cursor.fetchall())
        found |= {names[name]: frozenset() for name, recorded in there.items() if not recorded}
        recorded = [name for name in names if there.get(name)]
        known: dict[tuple[int, Any], History] = {}
        for chunk in _chunks(recorded, CHUNK):
            for name, total in _sums(connection, chunk).items():
                if total not in known and (rows := _rows(connection, name)) is not None:
                    known[total] = rows
                found[names[name]] = known.get(total)
    return found


def _sums(connection: Any, names: list[str]) -> Mapping[str, tuple[int, Any]]:
    query = " UNION ALL ".join(
        # The number stands for the name, which may be long.
        f"SELECT {number}, count(*), sum(pg_catalog.hashtextextended(app || '.' || name, 0)) FROM {quote(name)}.{TABLE}"  # noqa: S608
        for number, name in enumerate(names)
    )
    rows = _read(connection, query)
    if rows is not None:
        return {names[number]: (count, total) for number, count, total in rows}
    if len(names) == 1:
        return {}
    # One of them has gone, is locked, or has another kind of table: the others are read without it.
    return {name: total for each in names for name, total in _sums(connection, [each]).items()}


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


def _chunks(items: Iterable[str], size: int) -> Iterable[list[str]]:
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk
