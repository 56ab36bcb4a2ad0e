"""The rows that a failed test saw, copied to schemas that stay.

They are read in the test's own transaction and written by another session, so the test and those behind it go on as
they would. The copies have columns and rows, for people to look at, and no constraints.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.db import DatabaseError, connections
from psycopg import pq

from pg_tenants.backends.prefix import quote
from pg_tenants.names import MARKER_TABLE
from pg_tenants.test._lock import literal, of_worker, turn
from pg_tenants.test.creation import creation_of

__all__ = ["PREFIX", "keep"]

PREFIX = "kept"
"""What the schemas begin with; a number follows, which is the test's."""

# A type of the tenant's own schema is not known to the copy, so its values are kept as text.
_COLUMNS = """
SELECT n.nspname, c.relname, a.attname,
    CASE WHEN tn.nspname = 'pg_catalog' THEN pg_catalog.format_type(a.atttypid, a.atttypmod) ELSE 'text' END
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
JOIN pg_catalog.pg_namespace tn ON tn.oid = t.typnamespace
WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition
    AND NOT pg_catalog.starts_with(c.relname::text, '{marker}') AND {of_worker}
ORDER BY n.nspname, c.relname, a.attnum
"""
_NUMBER = r"""
SELECT coalesce(max(substring(nspname FROM '^kept_([0-9]+)$')::int), 0) + 1 FROM pg_catalog.pg_namespace
"""

Tables = dict[tuple[str, str], list[tuple[str, str]]]


def keep(test: str) -> list[str]:
    """Copy the rows that a test sees in the worker's schemas, and return lines about it, for people.

    Args:
        test: the test's name, which the copies get as a comment.
    """
    lines = []
    for alias in connections:
        creation = creation_of(alias)
        if creation is None or creation.claim is None or connections[alias].connection is None:
            continue
        try:
            lines.append(_keep(connections[alias], creation.prefix, test))
        except DatabaseError as exc:
            lines.append(f"The rows of {alias!r} could not be kept: {str(exc).strip()}")
    return lines


def _keep(connection: Any, prefix: str, test: str) -> str:
    own = connection.connection
    if own.pgconn.transaction_status == pq.TransactionStatus.INERROR:
        return f"The rows of {connection.alias!r} were not kept: the test's transaction had failed, so they were gone."
    query = _COLUMNS.format(marker=MARKER_TABLE, of_worker=of_worker(prefix, "n.nspname"))
    with connection.without_prefix() as execute:
        tables: Tables = {}
        for schema, table, column, kind in execute(query).fetchall():
            tables.setdefault((schema, table), []).append((column, kind))
        with turn(connection, PREFIX) as write:
            number = write(_NUMBER).fetchone()[0]
            names = {schema: f"{PREFIX}_{number}{schema.removeprefix(prefix)}" for schema, _ in tables}
            names.setdefault(prefix, f"{PREFIX}_{number}")
            when = datetime.now().astimezone().isoformat(timespec="seconds")
            for name in names.values():
                write(f"CREATE SCHEMA {quote(name)}")
                write(f"COMMENT ON SCHEMA {quote(name)} IS {literal(f'{test} ({when})')}")
            for (schema, table), columns in tables.items():
                _copy(
                    execute, write, f"{quote(schema)}.{quote(table)}", f"{quote(names[schema])}.{quote(table)}", columns
                )
    database = connection.settings_dict["NAME"]
    return (
        f"Its rows are kept in the schemas {', '.join(sorted(names.values()))} of the database {database!r}; "
        "'manage.py test_schemas clean --kept' drops them."
    )


def _copy(read: Any, write: Any, source: str, target: str, columns: list[tuple[str, str]]) -> None:
    definition = ", ".join(f"{quote(name)} {kind}" for name, kind in columns)
    values = ", ".join(f"{quote(name)}::{kind}" for name, kind in columns)
    made = write(f"CREATE TABLE {target} ({definition})")
    if not columns:
        return
    rows = f"COPY (SELECT {values} FROM {source}) TO STDOUT"  # noqa: S608  # quoted
    with read("SELECT 1").copy(rows) as found, made.copy(f"COPY {target} FROM STDIN") as kept:
        for block in found:
            kept.write(block)
