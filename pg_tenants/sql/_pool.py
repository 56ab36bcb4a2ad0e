"""One pool of asynchronous connections for each alias and event loop, closed with its loop."""

from __future__ import annotations

import asyncio
import weakref
from contextlib import suppress
from contextvars import Context
from typing import Any, cast

from django.db import DEFAULT_DB_ALIAS, connections
from psycopg import AsyncClientCursor, AsyncConnection, AsyncCursor, OperationalError

from pg_tenants.backends.base import DATABASE, TenantDatabaseWrapperMixin
from pg_tenants.backends.connecting import connection_hint, watched_class
from pg_tenants.backends.cursor import TenantCursorMixin
from pg_tenants.backends.kinds import attach, tenant_class
from pg_tenants.backends.prefix import take_role
from pg_tenants.databases import password_of
from pg_tenants.exceptions import ConfigurationError

__all__ = ["AsyncPool", "apool", "apool_stats", "close_apool", "pool_of"]

_DEFAULTS = {"min_size": 0, "max_size": 10, "timeout": 30.0}


class _Connection(AsyncConnection[Any]):
    """A connection whose cursors carry the tenant."""

    source: TenantDatabaseWrapperMixin
    made: weakref.WeakSet[Any]
    is_closing = False

    @classmethod
    async def connect(cls, conninfo: str = "", **kwargs: Any) -> Any:
        """Connect, with the password of this moment; closed again where the pool is being closed."""
        password = cls.source.settings_dict["PASSWORD"]
        if callable(password):
            kwargs["password"] = password_of(password, cls.source.alias)
        connection = await super().connect(conninfo, **kwargs)
        if cls.is_closing:
            await connection.close()
        cls.made.add(connection)
        return connection

    def cursor(self, *args: Any, **kwargs: Any) -> Any:
        """Return a cursor whose statements carry their tenant."""
        cursor = super().cursor(*args, **kwargs)
        if isinstance(cursor, TenantCursorMixin):
            cursor.tenant_source = self.source
            return cursor
        return attach(cursor, self.source)


class AsyncPool:
    """The pool of one alias in one event loop.

    Attributes:
        source: a Django connection that is never opened: it knows the alias's options, and what goes before a
            statement.
        pool: psycopg's pool.
    """

    def __init__(self, alias: str):
        from psycopg_pool import AsyncConnectionPool  # noqa: PLC0415  # of psycopg's extra "pool"

        source: Any = connections.create_connection(alias)
        if not isinstance(source, TenantDatabaseWrapperMixin):
            raise ConfigurationError(
                f"DATABASES[{alias!r}] has the ENGINE {source.settings_dict['ENGINE']!r}. Set it to "
                "'pg_tenants.backends.postgresql', which asynchronous SQL needs."
            )
        source.read_options()
        self.source = source
        given = source.settings_dict["OPTIONS"].get("pool")
        options = {**_DEFAULTS, **(given if isinstance(given, dict) else {})}
        if source.settings_dict["CONN_HEALTH_CHECKS"]:
            options.setdefault("check", AsyncConnectionPool.check_connection)
        params = source.get_connection_params()
        params.pop("cursor_factory", None)
        for name in ("isolation_level", "assume_role", "server_side_binding"):
            params.pop(name, None)
        self._made: weakref.WeakSet[Any] = weakref.WeakSet()
        base = watched_class(_Connection)
        self._class: Any = type("_PoolConnection", (base,), {"source": source, "made": self._made})
        self.pool: Any = AsyncConnectionPool(
            connection_class=self._class,
            kwargs={**params, "autocommit": True, "cursor_factory": tenant_class(AsyncClientCursor, source)},
            configure=self._configure,
            open=False,
            **options,
        )

    async def _configure(self, connection: Any) -> None:
        if self.source.uses_roles and self.source.database_oid is None:
            async with AsyncCursor(connection) as cursor:
                await cursor.execute(DATABASE)
                self.source.database_oid = cast(Any, await cursor.fetchone())[0]
        if self.source.own_role:
            async with AsyncCursor(connection) as cursor:
                await cursor.execute(take_role(self.source.own_role, local=False).encode())
        zone = self.source.timezone_name
        if zone and connection.info.parameter_status("TimeZone") != zone:
            # Not by our cursor: nothing is active in the pool's own tasks.
            async with AsyncCursor(connection) as cursor:
                await cursor.execute("SELECT pg_catalog.set_config('TimeZone', %s, false)", [zone])

    async def close(self) -> None:
        """Close the pool and its connections."""
        # Where the loop ends, the pool's own tasks have been cancelled, and it stops before its connections are closed.
        self._class.is_closing = True
        with suppress(asyncio.CancelledError):
            await self.pool.close()
        for connection in list(self._made):
            await connection.close()

    def hint(self, exc: OperationalError) -> str:
        """Return what to do about a connection that failed."""
        return connection_hint(exc, self.source.settings_dict, self.source.alias)


_pools: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, AsyncPool]] = weakref.WeakKeyDictionary()
_closers: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Task[None]] = weakref.WeakKeyDictionary()


async def pool_of(alias: str) -> AsyncPool:
    """Return the pool of an alias in the loop that runs, opened."""
    loop = asyncio.get_running_loop()
    pools = _pools.get(loop)
    if pools is None:
        pools = _pools[loop] = {}
        # Tasks are cancelled before their loop ends. An asynchronous generator would be closed too late: a worker of a
        # pool that makes a connection at that moment takes no cancellation, only the pool's own word.
        _closers[loop] = loop.create_task(_close_at_the_end(loop), context=Context())
    pool = pools.get(alias)
    if pool is None:
        pool = pools[alias] = AsyncPool(alias)
    if pool.pool.closed:
        await pool.pool.open()
    return pool


async def _close_at_the_end(loop: asyncio.AbstractEventLoop) -> None:
    try:
        await loop.create_future()
    finally:
        for pool in _pools.pop(loop, {}).values():
            await pool.close()


async def apool(using: str = DEFAULT_DB_ALIAS) -> Any:
    """Return psycopg's ``AsyncConnectionPool`` of an alias in the loop that runs; its cursors carry the tenant."""
    return (await pool_of(using)).pool


async def apool_stats(using: str = DEFAULT_DB_ALIAS) -> dict[str, int]:
    """Return what psycopg's pool of an alias counts in the loop that runs."""
    return dict((await pool_of(using)).pool.get_stats())


async def close_apool(using: str = DEFAULT_DB_ALIAS) -> None:
    """Close the pool of an alias in the loop that runs, before the loop does; the next statement opens a new one."""
    pool = _pools.get(asyncio.get_running_loop(), {}).pop(using, None)
    if pool is not None:
        await pool.close()
