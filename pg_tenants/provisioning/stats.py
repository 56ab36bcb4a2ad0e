"""How large tenants are: for all of them in one statement."""

from __future__ import annotations

from typing import NamedTuple

from pg_tenants import schemas
from pg_tenants.context import no_schema

__all__ = ["Size", "sizes"]


class Size(NamedTuple):
    """How large a schema is.

    Attributes:
        bytes: what its tables take on disk, with indexes and TOAST.
        rows: about how many rows there are, by the server's statistics.
    """

    bytes: int
    rows: int


# What the statistics count is right to the last report of each session; where they were reset, the planner's is used.
_SIZES = """
SELECT n.nspname, sum(pg_catalog.pg_total_relation_size(c.oid))::bigint,
    sum(CASE WHEN s.live > 0 THEN s.live ELSE greatest(c.reltuples, 0) END)::bigint
FROM pg_catalog.pg_namespace n JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relkind IN ('r', 'm')
CROSS JOIN LATERAL (SELECT pg_catalog.pg_stat_get_live_tuples(c.oid) AS live) s
WHERE n.nspname = ANY (%s)
GROUP BY n.nspname
"""


def sizes(names: list[str], *, using: str) -> dict[str, Size]:
    """Return the size of each schema that is there, by its name.

    Args:
        names: schemas, as the project calls them.
        using: the database alias.
    """
    connection = schemas.tenant_connection(using)
    physical = {connection.physical_schema(name): name for name in names}
    with no_schema(), connection.cursor() as cursor:
        cursor.execute(_SIZES, [list(physical)])
        return {physical[name]: Size(size, rows) for name, size, rows in cursor.fetchall()}
