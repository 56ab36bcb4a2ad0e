"""The kinds of cursors that carry the tenant: psycopg's classes, each with what it does differently mixed in."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext
from time import perf_counter
from typing import TYPE_CHECKING, Any, cast

from psycopg import AsyncCursor, AsyncServerCursor, ServerCursor, adapters, pq
from psycopg._queries import PostgresClientQuery, PostgresQuery
from psycopg.client_cursor import ClientCursorMixin

from pg_tenants.backends.cursor import INTRANS, MAY_COMMIT, Source, TenantCursorMixin
from pg_tenants.backends.prefix import Prefix, moving

if TYPE_CHECKING:
    from psycopg.abc import Params, PQGen, Query

__all__ = ["attach", "tenant_class"]

SERVER_CURSORS = (AsyncServerCursor, ServerCursor)
TIMESTAMPTZ = adapters.types["timestamptz"].oid


class _ServerBindingMixin(TenantCursorMixin):
    """For cursors that let the server bind parameters."""

    _merges = False

    def _convert_query(self, query: Query, params: Params | None = None) -> PostgresQuery:
        """Merge the parameters of CALL and DO: PostgreSQL 15 lets a procedure commit in a pipeline.

        It runs the rest of the procedure without the path.
        """
        if params is None or self.tenant_source.statement_prefix() is None:
            return super()._convert_query(query, params)
        given: Any = query
        text = given.encode() if isinstance(given, str) else given
        if not isinstance(text, bytes):
            text = super()._convert_query(query, params).query
        if not MAY_COMMIT.match(text):
            return super()._convert_query(query, params)
        return self._merged(query, params)

    def _maybe_prepare_gen(
        self, pgq: PostgresQuery, *, prepare: bool | None = None, binary: bool | None = None
    ) -> PQGen[None]:
        if self._conn._pipeline is not None:
            return super()._maybe_prepare_gen(pgq, prepare=prepare, binary=binary)
        # Without parameters, and unless asked to, nothing is prepared: the simple protocol is as fast and takes all.
        merged = isinstance(pgq, PostgresClientQuery)
        extended = prepare or self._wants_binary(binary) or (pgq.params and not merged)
        prefix = self._prefix_for(pgq.query)
        if prefix is None:
            # What goes bare is not prepared either, unless asked to.
            prepare = prepare if extended or self.tenant_source.statement_prefix() is None else False
            return super()._maybe_prepare_gen(pgq, prepare=prepare, binary=binary)
        return self._pipeline_gen(pgq, prefix, prepare, binary) if extended else self._message_gen(pgq, prefix)


class _ServerCursorMixin(TenantCursorMixin):
    """For cursors that are declared on the server."""

    _merges = False
    _declared: Prefix | None = None
    """The prefix that the cursor was declared with."""

    def _convert_query(self, query: Query, params: Params | None = None) -> PostgresQuery:
        """Merge the parameters of DECLARE, which shares a message with its prefix."""
        if params is None or self.tenant_source.statement_prefix() is None:
            return super()._convert_query(query, params)
        return self._merged(query, params)

    def _declare_gen(self, query: Query, params: Params | None = None, binary: bool | None = None) -> PQGen[None]:
        cursor: Any = super()
        with nullcontext() if self.tenant_source.slow_after is None else _Watch(self.tenant_source, query):
            yield from cursor._declare_gen(query, params, binary)
        self._declared = None if self._sent is None else cast(Any, self._conn).tenant_path

    def _own_path_gen(self) -> PQGen[None]:
        """Go back to the path of the declaration: functions that the query calls look names up when rows are made."""
        declared, conn = self._declared, cast(Any, self._conn)
        if declared is not None and conn.tenant_path is not declared and self._pgconn.transaction_status == INTRANS:
            prefix = declared if conn.tenant_path is None else moving(declared)
            yield from self._session_gen(prefix.simple, prefix)
            conn.tenant_path = declared

    def _fetch_gen(self, num: int | None) -> PQGen[list[Any]]:
        yield from self._own_path_gen()
        cursor: Any = super()
        return cast("list[Any]", (yield from cursor._fetch_gen(num)))

    def _scroll_gen(self, value: int, mode: str) -> PQGen[None]:
        yield from self._own_path_gen()
        cursor: Any = super()
        yield from cursor._scroll_gen(value, mode)


class _WatchedMixin(TenantCursorMixin):
    """Tells how long what is not sent by ``_execute_gen`` takes. Only cursors of a project that monitors have it."""

    def executemany(self, query: Query, *args: Any, **kwargs: Any) -> None:
        """Run a statement for each set of values; the time is that of all of them."""
        with _Watch(self.tenant_source, query):
            cast(Any, super()).executemany(query, *args, **kwargs)

    @contextmanager
    def copy(self, statement: Query, *args: Any, **kwargs: Any) -> Iterator[Any]:
        """Run COPY; the time is that of the whole context, with what its caller does in it."""
        with _Watch(self.tenant_source, statement), cast(Any, super()).copy(statement, *args, **kwargs) as copy:
            yield copy

    def stream(self, query: Query, *args: Any, **kwargs: Any) -> Iterator[Any]:
        """Yield rows as they come; the time lasts until the last one is taken, or the generator is closed."""
        with _Watch(self.tenant_source, query):
            yield from cast(Any, super()).stream(query, *args, **kwargs)


class _AsyncWatchedMixin(TenantCursorMixin):
    """The same for asynchronous cursors."""

    async def executemany(self, query: Query, *args: Any, **kwargs: Any) -> None:
        """Run a statement for each set of values; the time is that of all of them."""
        with _Watch(self.tenant_source, query):
            await cast(Any, super()).executemany(query, *args, **kwargs)

    @asynccontextmanager
    async def copy(self, statement: Query, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        """Run COPY; the time is that of the whole context, with what its caller does in it."""
        with _Watch(self.tenant_source, statement):
            async with cast(Any, super()).copy(statement, *args, **kwargs) as copy:
                yield copy

    async def stream(self, query: Query, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        """Yield rows as they come; the time lasts until the last one is taken, or the generator is closed."""
        with _Watch(self.tenant_source, query):
            async for row in cast(Any, super()).stream(query, *args, **kwargs):
                yield row


class _Watch:
    """Takes the time of one statement."""

    __slots__ = ("_query", "_source", "_started")

    def __init__(self, source: Source, query: Query):
        self._source, self._query, self._started = source, query, perf_counter()

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: object) -> None:
        self._source.observe(perf_counter() - self._started, self._query, error)


@functools.cache
def _tenant_class(base: Any, watched: bool) -> Any:
    mixin = TenantCursorMixin
    if issubclass(base, SERVER_CURSORS):
        mixin = _ServerCursorMixin
    elif not issubclass(base, ClientCursorMixin):
        mixin = _ServerBindingMixin
    mixins: tuple[Any, ...] = (mixin,)
    if watched:
        mixins = (_AsyncWatchedMixin if issubclass(base, AsyncCursor | AsyncServerCursor) else _WatchedMixin, mixin)
    return type(f"Tenant{base.__name__}", (*mixins, base), {"__module__": __name__})


def tenant_class(base: Any, source: Source) -> Any:
    """Return the class of cursors whose statements carry their tenant; each needs its ``tenant_source`` set."""
    return _tenant_class(base, source.slow_after is not None)


def attach(cursor: Any, source: Source) -> Any:
    """Turn a psycopg cursor that Django made into one whose statements carry their tenant, and return it.

    This is done to the cursor, not by ``cursor_factory``: cursors that Django or the pool make for their own use, in
    threads without a tenant, stay as they are.
    """
    watched = source.slow_after is not None
    try:
        cursor.__class__ = _tenant_class(cursor.__class__, watched)
    except TypeError:
        # Psycopg's own classes have slots alone, so theirs cannot be changed.
        cursor = _made_anew(cursor, watched)
    cursor.tenant_source = source
    return cursor


def _made_anew(cursor: Any, watched: bool) -> Any:
    cls: Any = type(cursor)
    named = {}
    if isinstance(cursor, SERVER_CURSORS):
        named = {"name": cursor.name, "scrollable": cursor.scrollable, "withhold": cursor.withhold}
    made = _tenant_class(cls, watched)(cursor.connection, **named)
    # What Django has registered on the cursor: the time zone of the alias, where the connection has another.
    loader = cursor.adapters.get_loader(TIMESTAMPTZ, pq.Format.TEXT)
    if loader is not made.adapters.get_loader(TIMESTAMPTZ, pq.Format.TEXT):
        made.adapters.register_loader(TIMESTAMPTZ, loader)
    cursor._closed = True
    return made
