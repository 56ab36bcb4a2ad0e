"""The same functions, asynchronous: many at once on a pool, each with the tenant that is active where it is called."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any, TypeVar

from django.db import DEFAULT_DB_ALIAS
from psycopg import OperationalError

from pg_tenants.databases import forget_password
from pg_tenants.exceptions import UnsafeStatement
from pg_tenants.sql._pool import AsyncPool, pool_of
from pg_tenants.sql._rows import (
    Params,
    as_dicts,
    as_models,
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
    "atransaction",
]

T = TypeVar("T")


class _Transaction:
    """The connection of an open transaction; tasks that it starts share it."""

    def __init__(self, pool: AsyncPool, connection: Any):
        self.pool, self.connection, self.ended = pool, connection, False


_open: ContextVar[Mapping[str, _Transaction]] = ContextVar("pg_tenants_transactions", default=MappingProxyType({}))


@asynccontextmanager
async def atransaction(using: str = DEFAULT_DB_ALIAS) -> AsyncIterator[None]:
    """Run the statements inside in one transaction: all of them or, after an exception, none.

    Inside another one it is a savepoint. It holds for this module's asynchronous functions; the ORM has connections of
    its own.

    Args:
        using: the database alias.
    """
    async with _connection(using) as (pool, connection):
        transaction = _Transaction(pool, connection)
        token = _open.set(MappingProxyType({**_open.get(), using: transaction}))
        try:
            with pool.source.wrap_database_errors:
                async with connection.transaction():
                    yield
        finally:
            transaction.ended = True
            _open.reset(token)


async def aexecute(sql: str, params: Params = None, *, using: str = DEFAULT_DB_ALIAS) -> int:
    """Run a statement, as ``execute`` does."""
    async with _cursor(using) as (pool, cursor):
        await cursor.execute(rendered(sql, pool.source), params)
        return int(cursor.rowcount)


async def aexecutemany(sql: str, params: Iterable[Params], *, using: str = DEFAULT_DB_ALIAS) -> int:
    """Run a statement for each set of values, as ``executemany`` does."""
    async with _cursor(using) as (pool, cursor):
        await cursor.executemany(rendered(sql, pool.source), params)
        return int(cursor.rowcount)


async def afetch_all(sql: str, params: Params = None, *, using: str = DEFAULT_DB_ALIAS) -> list[dict[str, Any]]:
    """Return all rows, as ``fetch_all`` does."""
    _, description, rows = await _run(sql, params, using)
    return as_dicts(description, rows)


async def afetch_one(sql: str, params: Params = None, *, using: str = DEFAULT_DB_ALIAS) -> dict[str, Any] | None:
    """Return the first row, as ``fetch_one`` does."""
    _, description, rows = await _run(sql, params, using, most=1)
    return next(iter(as_dicts(description, rows)), None)


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
    pool, description, rows = await _run(sql, params, using)
    return as_models(model, description, rows, pool.source)


async def afetch_as_model(
    model: type[T], sql: str, params: Params = None, *, using: str = DEFAULT_DB_ALIAS
) -> T | None:
    """Return the first row as an instance of a model, as ``fetch_as_model`` does."""
    pool, description, rows = await _run(sql, params, using, most=1)
    return next(iter(as_models(model, description, rows, pool.source)), None)


async def acopy_records(
    table: Any,
    records: Iterable[Sequence[Any] | Mapping[str, Any]] | AsyncIterable[Sequence[Any] | Mapping[str, Any]],
    *,
    columns: Sequence[str] | None = None,
    using: str = DEFAULT_DB_ALIAS,
) -> int:
    """Write records by COPY, as ``copy_records`` does; the records may come from an asynchronous iterable."""
    source = aiter(records) if isinstance(records, AsyncIterable) else _asynchronous(records)
    try:
        first = await anext(source)
    except StopAsyncIteration:
        return 0
    names, mapped = records_as_rows(first, columns)
    async with _cursor(using) as (pool, cursor), cursor.copy(copy_statement(table, names, pool.source)) as copy:
        await copy.write_row(row_of(first, names, mapped, 1))
        count = 1
        async for record in source:
            count += 1
            await copy.write_row(row_of(record, names, mapped, count))
    return count


async def _asynchronous(records: Iterable[Any]) -> AsyncIterator[Any]:
    for record in records:
        yield record


async def _run(sql: str, params: Params, using: str, most: int | None = None) -> tuple[AsyncPool, Any, list[Any]]:
    async with _cursor(using) as (pool, cursor):
        await cursor.execute(rendered(sql, pool.source), params)
        if cursor.description is None:
            return pool, None, []
        rows = await cursor.fetchall() if most is None else await cursor.fetchmany(most)
        return pool, cursor.description, rows


@asynccontextmanager
async def _cursor(using: str) -> AsyncIterator[tuple[AsyncPool, Any]]:
    async with _connection(using) as (pool, connection):
        with pool.source.wrap_database_errors:
            async with connection.cursor() as cursor:
                yield pool, cursor


@asynccontextmanager
async def _connection(using: str) -> AsyncIterator[tuple[AsyncPool, Any]]:
    """Give the connection of the open transaction, or one from the pool."""
    transaction = _open.get().get(using)
    if transaction is not None:
        if transaction.ended:
            raise UnsafeStatement(
                f"The transaction on {using!r} that this task was started in has ended. Await the task inside "
                "atransaction(), or start it outside."
            )
        yield transaction.pool, transaction.connection
        return
    pool = await pool_of(using)
    with pool.source.wrap_database_errors:
        try:
            connection = await pool.pool.getconn()
        except OperationalError as exc:
            forget_password(exc)
            raise type(exc)(f"{exc}\n{pool.hint(exc)}").with_traceback(exc.__traceback__) from exc.__cause__
    try:
        yield pool, connection
    finally:
        await pool.pool.putconn(connection)
