"""The same functions, asynchronous: many at once on a pool, each with the tenant that is active where it is called."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from types import TracebackType
from typing import Any, TypeVar

from django.db import DEFAULT_DB_ALIAS

from pg_tenants.context import ActiveContext, active
from pg_tenants.sql._blocks import Lent, open_block
from pg_tenants.sql._pool import AsyncPool
from pg_tenants.sql._rows import (
    Columns,
    Params,
    as_dicts,
    as_models,
    columns_of,
    copy_statement,
    id_of,
    records_as_rows,
    rendered,
    row_of,
    with_returning,
)

__all__ = [
    "acopy_records",
    "aexecute",
    "aexecute_and_return_id",
    "aexecutemany",
    "afetch_all",
    "afetch_all_as_model",
    "afetch_as_model",
    "afetch_one",
    "afetch_val",
    "afetch_value",
]

T = TypeVar("T")


async def aexecute(sql: str, params: Params = None, *, using: str = DEFAULT_DB_ALIAS) -> int:
    """Run a statement, as ``execute`` does."""
    async with _Cursor(using) as (pool, cursor):
        await cursor.execute(rendered(sql, pool.source), params)
        return int(cursor.rowcount)


async def aexecutemany(sql: str, params: Iterable[Params], *, using: str = DEFAULT_DB_ALIAS) -> int:
    """Run a statement for each set of values, as ``executemany`` does."""
    async with _Cursor(using) as (pool, cursor):
        await cursor.executemany(rendered(sql, pool.source), params)
        return int(cursor.rowcount)


async def afetch_all(sql: str, params: Params = None, *, using: str = DEFAULT_DB_ALIAS) -> list[dict[str, Any]]:
    """Return all rows, as ``fetch_all`` does."""
    _, columns, rows = await _run(sql, params, using)
    return as_dicts(columns, rows)


async def afetch_one(sql: str, params: Params = None, *, using: str = DEFAULT_DB_ALIAS) -> dict[str, Any] | None:
    """Return the first row, as ``fetch_one`` does."""
    _, columns, rows = await _run(sql, params, using, most=1)
    return next(iter(as_dicts(columns, rows)), None)


async def afetch_value(sql: str, params: Params = None, *, using: str = DEFAULT_DB_ALIAS) -> Any:
    """Return the first column of the first row, as ``fetch_value`` does."""
    row = await afetch_one(sql, params, using=using)
    return None if row is None else next(iter(row.values()), None)


afetch_val = afetch_value


async def aexecute_and_return_id(sql: str, params: Params = None, *, using: str = DEFAULT_DB_ALIAS) -> Any:
    """Run an INSERT and return the ``id`` of its first row, as ``execute_and_return_id`` does."""
    return id_of(await afetch_one(with_returning(sql), params, using=using))


async def afetch_all_as_model(
    model: type[T], sql: str, params: Params = None, *, using: str = DEFAULT_DB_ALIAS
) -> list[T]:
    """Return all rows as instances of a model, as ``fetch_all_as_model`` does."""
    pool, columns, rows = await _run(sql, params, using)
    return as_models(model, columns, rows, pool.source)


async def afetch_as_model(
    model: type[T], sql: str, params: Params = None, *, using: str = DEFAULT_DB_ALIAS
) -> T | None:
    """Return the first row as an instance of a model, as ``fetch_as_model`` does."""
    pool, columns, rows = await _run(sql, params, using, most=1)
    return next(iter(as_models(model, columns, rows, pool.source)), None)


async def acopy_records(
    table: Any,
    records: Iterable[Sequence[Any] | Mapping[str, Any]] | AsyncIterable[Sequence[Any] | Mapping[str, Any]],
    *,
    columns: Sequence[str] | None = None,
    using: str = DEFAULT_DB_ALIAS,
) -> int:
    """Write records by COPY, as ``copy_records`` does; the records may come from an asynchronous iterable."""
    here = ActiveContext(active())
    source = aiter(records) if isinstance(records, AsyncIterable) else _asynchronous(records)
    try:
        first = await anext(source)
    except StopAsyncIteration:
        return 0
    names, mapped = records_as_rows(first, columns)
    async with AsyncExitStack() as stack:
        # A generator that reads another tenant's rows is inside that one's context now.
        with here:
            pool, cursor = await stack.enter_async_context(_Cursor(using))
            copy = await stack.enter_async_context(cursor.copy(copy_statement(table, names, pool.source)))
        await copy.write_row(row_of(first, names, mapped, 1))
        count = 1
        async for record in source:
            count += 1
            await copy.write_row(row_of(record, names, mapped, count))
    return count


async def _asynchronous(records: Iterable[Any]) -> AsyncIterator[Any]:
    for record in records:
        yield record


async def _run(sql: str, params: Params, using: str, most: int | None = None) -> tuple[AsyncPool, Columns, list[Any]]:
    async with _Cursor(using) as (pool, cursor):
        await cursor.execute(rendered(sql, pool.source), params)
        columns = columns_of(cursor)
        if not columns:
            return pool, columns, []
        return pool, columns, await (cursor.fetchall() if most is None else cursor.fetchmany(most))


class _Cursor(Lent):
    """Gives a cursor on the connection of the open transaction, or on one of its own; its errors are Django's."""

    _turn: AbstractAsyncContextManager[None] | None = None

    async def __aenter__(self) -> tuple[AsyncPool, Any]:
        block = open_block(self.using)
        if block is None:
            pool, connection = await super().__aenter__()
        else:
            self._turn = block.statement()
            await self._turn.__aenter__()
            self.pool = pool = block.pool
            connection = block.connection
        self.cursor = connection.cursor()
        return pool, self.cursor

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self.cursor.close()
        finally:
            if self._turn is not None:
                await self._turn.__aexit__(None, None, None)
            await super().__aexit__(kind, exc, trace)
        if exc is not None:
            self.pool.source.wrap_database_errors.__exit__(kind, exc, trace)
