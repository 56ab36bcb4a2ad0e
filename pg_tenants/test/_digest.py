"""What is in schemas, as a hash: whether one that an earlier run has left is as it was made.

Rows and definitions count; values of sequences do not, since a test that is rolled back moves them, too.
"""

from __future__ import annotations

import hashlib
from typing import Any

from pg_tenants.backends.prefix import quote
from pg_tenants.names import MARKER_TABLE
from pg_tenants.test._lock import literal

__all__ = ["digests", "mark", "marks"]

_MARK = "pg_tenants: "
_DEFINITIONS = """
SELECT n.nspname, sum(pg_catalog.hashtextextended(item, 0)) FROM pg_catalog.pg_namespace n, LATERAL (
    SELECT pg_catalog.concat_ws(' ', c.relname, c.relkind,
        (SELECT pg_catalog.string_agg(pg_catalog.concat_ws(' ', a.attname, a.atttypid, a.atttypmod, a.attnotnull,
            a.attidentity, pg_catalog.pg_get_expr(d.adbin, d.adrelid)), ',' ORDER BY a.attnum)
         FROM pg_catalog.pg_attribute a
         LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
         WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped)) AS item
    FROM pg_catalog.pg_class c WHERE c.relnamespace = n.oid AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'i')
    UNION ALL SELECT pg_catalog.concat_ws(' ', conname, contype, condeferrable) FROM pg_catalog.pg_constraint
        WHERE connamespace = n.oid
    UNION ALL SELECT pg_catalog.concat_ws(' ', t.tgname, t.tgenabled) FROM pg_catalog.pg_trigger t
        JOIN pg_catalog.pg_class c ON c.oid = t.tgrelid WHERE c.relnamespace = n.oid AND NOT t.tgisinternal
    UNION ALL SELECT pg_catalog.concat_ws(' ', proname, prosrc) FROM pg_catalog.pg_proc WHERE pronamespace = n.oid
) items
WHERE n.nspname = ANY ({names}) GROUP BY n.nspname
"""
_TABLES = """
SELECT n.nspname, c.relname FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = ANY ({names}) AND c.relkind = 'r'
    AND NOT pg_catalog.starts_with(c.relname::text, '{marker}') ORDER BY 1, 2
"""


def digests(execute: Any, names: list[str]) -> dict[str, str]:
    """Return the hash of each schema, by its name in the database."""
    listed = "ARRAY[" + ", ".join(map(literal, names)) + "]::text[]"
    found = {name: [str(total)] for name, total in execute(_DEFINITIONS.format(names=listed))}
    tables = execute(_TABLES.format(names=listed, marker=MARKER_TABLE))
    rows = " UNION ALL ".join(
        # The number stands for the names, which may be long.
        f"SELECT {number}, count(*), sum(pg_catalog.hashtextextended(t::text, 0)) FROM {quote(schema)}.{quote(table)} t"  # noqa: S608
        for number, (schema, table) in enumerate(tables)
    )
    for number, count, total in execute(rows) if rows else ():
        if count:
            found[tables[number][0]].append(f"{tables[number][1]} {count} {total}")
    return {name: "; ".join([parts[0], *sorted(parts[1:])]) for name, parts in found.items()}


def mark(execute: Any, made_by: dict[str, str]) -> None:
    """Note on schemas what made them and what is in them now.

    Args:
        execute: sends a statement.
        made_by: what made each schema, by its name in the database.
    """
    for name, digest in digests(execute, list(made_by)).items():
        execute(f"COMMENT ON SCHEMA {quote(name)} IS {literal(f'{_MARK}{made_by[name]} {_short(digest)}')}")


def marks(execute: Any, names: list[str]) -> dict[str, str]:
    """Return what made each schema that is as it was noted, by its name in the database."""
    listed = "ARRAY[" + ", ".join(map(literal, names)) + "]::text[]"
    comments = "SELECT nspname, pg_catalog.obj_description(oid, 'pg_namespace') FROM pg_catalog.pg_namespace"
    noted = {
        name: comment.removeprefix(_MARK).split(" ")
        for name, comment in execute(f"{comments} WHERE nspname = ANY ({listed})")
        if comment and comment.startswith(_MARK)
    }
    found = digests(execute, list(noted)) if noted else {}
    return {name: parts[0] for name, parts in noted.items() if parts[1:] == [_short(found.get(name, ""))]}


def _short(digest: str) -> str:
    return hashlib.sha256(digest.encode()).hexdigest()[:32]
