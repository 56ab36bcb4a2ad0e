"""What the catalog says of a schema's tables, as short texts to compare.

Only what Django's schema editor asks about: columns, constraints, indexes, and sequences that belong to a column.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

from psycopg import sql

__all__ = ["digest", "digest_query", "tables_of"]

# Of the tables of the first schema on the path. Names in definitions are written as that path needs them, so they are
# the same in all schemas of a module.
_TABLES = """
    SELECT t.relname AS name, pg_catalog.md5(pg_catalog.string_agg(l.line, '|' ORDER BY l.line COLLATE "C")) AS hash
    FROM pg_catalog.pg_class t CROSS JOIN LATERAL (
        SELECT pg_catalog.concat_ws(' ', 'table', t.relkind, t.relpersistence)
        UNION ALL
        SELECT pg_catalog.concat_ws(' ', 'column', a.attname, a.attnum, pg_catalog.format_type(a.atttypid, a.atttypmod),
            a.attnotnull, a.attidentity, a.attgenerated, a.attcollation, pg_catalog.pg_get_expr(d.adbin, d.adrelid))
        FROM pg_catalog.pg_attribute a
        LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
        WHERE a.attrelid = t.oid AND a.attnum > 0 AND NOT a.attisdropped
        UNION ALL
        SELECT pg_catalog.concat_ws(' ', 'constraint', c.conname, pg_catalog.pg_get_constraintdef(c.oid))
        FROM pg_catalog.pg_constraint c WHERE c.conrelid = t.oid
        UNION ALL
        SELECT pg_catalog.concat_ws(' ', 'index', x.relname, pg_catalog.pg_get_indexdef(i.indexrelid, 0, true),
            i.indisvalid, i.indisprimary)
        FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid WHERE i.indrelid = t.oid
        UNION ALL
        SELECT pg_catalog.concat_ws(' ', 'sequence', s.relname, p.refobjsubid, p.deptype)
        FROM pg_catalog.pg_depend p JOIN pg_catalog.pg_class s ON s.oid = p.objid AND s.relkind = 'S'
        WHERE p.refobjid = t.oid AND p.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
            AND p.classid = p.refclassid AND p.deptype IN ('a', 'i')
    ) l(line)
    WHERE t.relnamespace = pg_catalog.current_schema()::pg_catalog.regnamespace
        AND t.relkind IN ('r', 'p', 'v', 'm', 'f') {among}
    GROUP BY t.relname"""


def tables_of(connection: Any) -> dict[str, str]:
    """Return a hash of each table and view of the active schema."""
    with connection.cursor() as cursor:
        cursor.execute(_TABLES.replace("{among}", ""))
        return dict(cursor.fetchall())


def digest(tables: Mapping[str, str], names: Iterable[str]) -> str:
    """Return one text for some of the tables; those that are not there count as not there."""
    text = ",".join(f"{name}:{tables[name]}" for name in sorted(names, key=str.encode) if name in tables)
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def digest_query(names: Iterable[str]) -> str:
    """Return a query whose one value is what ``digest`` returns for these tables of the first schema on the path."""
    literals = ", ".join(sql.Literal(name).as_string() for name in sorted(names))
    tables = _TABLES.replace("{among}", f"AND t.relname IN ({literals})")
    return (
        "SELECT pg_catalog.md5(coalesce(pg_catalog.string_agg(f.name || ':' || f.hash, ',' "  # noqa: S608  # literals
        f"ORDER BY f.name COLLATE \"C\"), '')) FROM ({tables}) f"
    )
