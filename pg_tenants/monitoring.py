"""What statements, connections and the server do, tenant by tenant.

``PG_TENANTS["MONITORING"]`` switches it on: ``True``, or ``{"slow_query_threshold_ms": 100}``. Counts are those of this
process since it began; what the database itself knows is the same in every process.
"""

from __future__ import annotations

import ipaddress
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from django.db import DEFAULT_DB_ALIAS, DatabaseError, connections

from pg_tenants.backends.base import TenantDatabaseWrapperMixin
from pg_tenants.context import no_schema
from pg_tenants.names import MARKER_TABLE
from pg_tenants.observations import Counts, store
from pg_tenants.schemas import tenant_connection

__all__ = [
    "Session",
    "TenantStats",
    "all_pools",
    "get_metrics",
    "get_slow_queries",
    "pool_stats",
    "reset",
    "sessions",
    "tenant_stats",
]

_POOL = {
    "min_size": "pool_min",
    "max_size": "pool_max",
    "size": "pool_size",
    "available": "pool_available",
    "waiting": "requests_waiting",
    "requests": "requests_num",
    "queued": "requests_queued",
    "failed": "requests_errors",
    "wait_ms": "requests_wait_ms",
    "usage_ms": "usage_ms",
    "connections_made": "connections_num",
    "connections_failed": "connections_errors",
    "connections_lost": "connections_lost",
}
"""Our names of what psycopg_pool counts."""

_SESSIONS = """
SELECT a.pid, a.state, a.application_name, extract(epoch FROM pg_catalog.now() - a.query_start)::float8,
    (SELECT n.nspname FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_class c ON c.oid = l.relation
        JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE l.pid = a.pid AND l.locktype = 'relation' AND pg_catalog.starts_with(c.relname::text, %s)
        LIMIT 1)
FROM pg_catalog.pg_stat_activity a
WHERE a.datname = pg_catalog.current_database() AND a.usesysid IS NOT NULL
    AND COALESCE(a.backend_type, 'client backend') = 'client backend' AND a.pid <> pg_catalog.pg_backend_pid()
ORDER BY a.pid
"""
_STATS = """
SELECT n.nspname, sum(pg_catalog.pg_total_relation_size(c.oid))::bigint,
    sum(greatest(s.n_live_tup, 0))::bigint, sum(s.n_dead_tup)::bigint,
    sum(coalesce(s.seq_scan, 0))::bigint, sum(coalesce(s.idx_scan, 0))::bigint,
    sum(s.n_tup_ins + s.n_tup_upd + s.n_tup_del)::bigint,
    sum(io.heap_blks_hit)::float8 / nullif(sum(io.heap_blks_hit + io.heap_blks_read), 0)
FROM pg_catalog.pg_class m
JOIN pg_catalog.pg_namespace n ON n.oid = m.relnamespace
JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relkind IN ('r', 'p', 'm')
LEFT JOIN pg_catalog.pg_stat_user_tables s ON s.relid = c.oid
LEFT JOIN pg_catalog.pg_statio_user_tables io ON io.relid = c.oid
WHERE m.relname = %s AND m.relkind = 'r'
GROUP BY n.nspname ORDER BY n.nspname
"""


def get_slow_queries(limit: int = 10) -> list[dict[str, Any]]:
    """Return slow statements of this process, slowest first, without their parameters.

    Args:
        limit: how many at most. The newest thousand are kept.

    Returns:
        dictionaries with ``sql``, ``schema``, ``alias``, ``ms``, ``at`` (seconds since 1970) and ``error``.
    """
    return [query.as_dict() for query in store.slow()[:limit]]


def get_metrics(using: str | None = None) -> dict[str, Any]:
    """Return what this process has counted, and how the pools, sessions and servers are now.

    Args:
        using: the database alias; None for all that have our backend.

    Returns:
        ``total`` and ``tenants`` (by schema; "" without one): ``queries``, ``failures``, ``slow``, ``total_ms``,
        ``average_ms``, ``slowest_ms``; ``slow_queries``: the ten slowest; ``databases``: by alias ``pool`` (None
        without one), ``failed_connections``, ``sessions`` (by state; None where the server does not answer) and
        ``server`` (``cpu_percent`` and ``memory_bytes`` of a PostgreSQL on this machine; None where they are unknown).
    """
    total, tenants = Counts(), dict[str, Counts]()
    for alias, schema, counts in store.counts():
        if using in (None, alias):
            total.add(counts)
            tenants.setdefault(schema or "", Counts()).add(counts)
    aliases = [alias for alias in connections if isinstance(connections[alias], TenantDatabaseWrapperMixin)]
    return {
        "total": total.as_dict(),
        "tenants": {name: counts.as_dict() for name, counts in sorted(tenants.items())},
        "slow_queries": get_slow_queries(),
        "databases": {alias: _database(alias) for alias in aliases if using in (None, alias)},
    }


def pool_stats(using: str = DEFAULT_DB_ALIAS) -> dict[str, int] | None:
    """Return how an alias's connection pool is used in this process; None where it has none.

    Returns:
        ``min_size``, ``max_size``, ``size``, ``available``, ``in_use`` (or being made), ``waiting``; and since the pool
        began ``requests``, ``queued``, ``failed``, ``wait_ms``, ``usage_ms``, ``connections_made``,
        ``connections_failed``, ``connections_lost``.
    """
    connection: Any = connections[using]
    pool = connection.pool
    if pool is None:
        return None
    stats = pool.get_stats()
    found = {name: int(stats.get(theirs, 0)) for name, theirs in _POOL.items()}
    return {**found, "in_use": found["size"] - found["available"]}


def all_pools() -> dict[str, dict[str, int]]:
    """Return ``pool_stats`` of the aliases that have a pool."""
    aliases = [alias for alias in connections if isinstance(connections[alias], TenantDatabaseWrapperMixin)]
    return {alias: stats for alias in aliases if (stats := pool_stats(alias)) is not None}


def reset() -> None:
    """Forget what this process has counted."""
    store.reset()


@dataclass(frozen=True, slots=True)
class Session:
    """A session of the database.

    Attributes:
        pid: its process on the server.
        state: PostgreSQL's word: ``active``, ``idle``, ``idle in transaction``, …; None, as ``seconds``, where it is
            another login's and this one has neither its rights nor those of ``pg_read_all_stats``.
        application: its ``application_name``.
        seconds: since when its last statement began.
        schema: the schema, by its name in the database, whose statement or transaction it is in; None for none.
    """

    pid: int
    state: str | None
    application: str
    seconds: float | None
    schema: str | None


def sessions(using: str = DEFAULT_DB_ALIAS) -> list[Session]:
    """Return the other sessions of an alias's database, each with the tenant that it works for.

    Every statement of a tenant holds a lock on the schema's marker, so this holds for each way of sending.
    """
    with no_schema(), tenant_connection(using).cursor() as cursor:
        cursor.execute(_SESSIONS, [MARKER_TABLE])
        return [Session(*row) for row in cursor.fetchall()]


@dataclass(frozen=True, slots=True)
class TenantStats:
    """What the database knows of one schema.

    Attributes:
        schema: its name in the database.
        size: bytes of its tables with their indexes.
        rows: living rows, as PostgreSQL estimates them.
        dead_rows: dead rows, estimated.
        seq_scans: scans of whole tables since the server's counters were reset.
        index_scans: scans by index.
        writes: rows inserted, updated and deleted.
        cache_hits: which part of the blocks came from memory, from 0 to 1; None before any was read.
        active: sessions that run a statement for it now.
        idle_in_transaction: sessions that wait inside a transaction for it.
    """

    schema: str
    size: int
    rows: int
    dead_rows: int
    seq_scans: int
    index_scans: int
    writes: int
    cache_hits: float | None
    active: int = 0
    idle_in_transaction: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return asdict(self)


def tenant_stats(using: str = DEFAULT_DB_ALIAS) -> list[TenantStats]:
    """Return what an alias's database knows of each schema, sorted by name; in two statements for all."""
    with no_schema(), tenant_connection(using).cursor() as cursor:
        cursor.execute(_STATS, [MARKER_TABLE])
        rows = cursor.fetchall()
    states: dict[tuple[str | None, str | None], int] = {}
    for session in sessions(using):
        key = session.schema, session.state
        states[key] = states.get(key, 0) + 1
    found = []
    for name, *numbers, hits in rows:
        size, living, dead, scans, index_scans, writes = (value or 0 for value in numbers)
        busy = states.get((name, "active"), 0), states.get((name, "idle in transaction"), 0)
        found.append(TenantStats(name, size, living, dead, scans, index_scans, writes, hits, *busy))
    return found


def _database(alias: str) -> dict[str, Any]:
    found: dict[str, Any] = {
        "pool": pool_stats(alias),
        "failed_connections": store.failed_connections.get(alias, 0),
        "sessions": None,
        "server": {"cpu_percent": None, "memory_bytes": None},
    }
    try:
        states: dict[str, int] = {}
        for session in sessions(alias):
            states[session.state or "unknown"] = states.get(session.state or "unknown", 0) + 1
        found["sessions"] = states
        found["server"] = _server(alias)
    except DatabaseError:
        # Whoever looks at metrics while the server is away wants those that there are.
        pass
    return found


def _server(alias: str) -> dict[str, float | int | None]:
    unknown: dict[str, float | int | None] = {"cpu_percent": None, "memory_bytes": None}
    try:
        import psutil  # noqa: PLC0415  # of the extra "server"
    except ImportError:
        return unknown
    connection: Any = tenant_connection(alias)
    if not _is_local(str(connection.connection.info.hostaddr or "")):
        return unknown
    with no_schema(), connection.cursor() as cursor:
        cursor.execute("SELECT pg_catalog.pg_backend_pid()")
        pid = cursor.fetchone()[0]
    try:
        postmaster = psutil.Process(pid).parent()
        if postmaster is None or not postmaster.name().startswith(("postgres", "postmaster")):
            return unknown
        used, memory = 0.0, 0
        for process in [postmaster, *postmaster.children()]:
            with suppress(psutil.Error):
                times = process.cpu_times()
                used += times.user + times.system
                memory += _memory(process)
        return {"cpu_percent": _percent(alias, used, postmaster.create_time()), "memory_bytes": memory}
    except psutil.Error:
        return unknown


_last: dict[str, tuple[float, float]] = {}


def _percent(alias: str, used: float, began: float) -> float:
    """Return the share of one processor that was used since it was asked for last, at first since the server began."""
    now = time.time()
    before, then = _last.get(alias, (0.0, began))
    _last[alias] = used, now
    # Processes that have ended take their time with them.
    return round(100 * max(used - before, 0.0) / max(now - then, 0.001), 1)


def _memory(process: Any) -> int:
    """Return the bytes that a process has; of what is shared its part, where the system tells it."""
    try:
        full = process.memory_full_info()
    except OSError:
        full = process.memory_info()
    return int(getattr(full, "pss", 0) or full.rss)


def _is_local(address: str) -> bool:
    if not address or address.startswith("/"):
        return True
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False
