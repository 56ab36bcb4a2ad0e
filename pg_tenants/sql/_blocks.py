"""Asynchronous transactions: which tasks share one, and whose turn it is on its connection.

Tasks that are started inside a transaction share its connection, and a savepoint holds for all that is sent on it. So
each block, the transaction or a savepoint in it, gives its turn to one at a time: to a statement, or to a block inside
for all the time that it is open. What siblings do meanwhile waits, instead of being rolled back with somebody else's
savepoint.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from contextvars import ContextVar
from functools import partial
from types import MappingProxyType, TracebackType
from typing import Any, cast

from django.db import DEFAULT_DB_ALIAS
from psycopg import Error, OperationalError, Rollback
from psycopg.pq import TransactionStatus

from pg_tenants.access import savepoints
from pg_tenants.databases import forget_password
from pg_tenants.exceptions import UnsafeStatement
from pg_tenants.sql._pool import AsyncPool, pool_of

__all__ = ["Block", "Lent", "atransaction", "open_block"]


class Block:
    """A transaction, or a savepoint in one, that is open on a connection.

    Attributes:
        pool: where the connection is from.
        connection: psycopg's.
        outer: the block around; None for the transaction itself.
    """

    def __init__(self, pool: AsyncPool, connection: Any, outer: Block | None = None):
        self.pool, self.connection, self.outer = pool, connection, outer
        self._ended = self._broken = False
        self._inner: Block | None = None
        self._turn = asyncio.Lock()
        self._user: object = None
        self._served = 0
        self._is_fed = False
        # The end of a block waits for the statement that is on its way, not for what tasks left behind have open.
        self._wire: asyncio.Lock = outer._wire if outer else asyncio.Lock()
        self._depth: int = outer._depth + 1 if outer else 0

    def check(self) -> None:
        """Refuse a task that has outlived the block, or one around it.

        Raises:
            UnsafeStatement: it has, or the transaction cannot be committed any more.
        """
        block: Block | None = self
        while block is not None:
            if block._ended:
                raise UnsafeStatement(
                    f"The transaction on {self._alias!r} that this task was started in has ended. Await the task "
                    "inside atransaction(), or start it outside."
                )
            if block._broken:
                raise UnsafeStatement(
                    f"A savepoint of the transaction on {self._alias!r} could not be ended, so all of it will be "
                    "rolled back. Let the error that told so leave the outermost atransaction()."
                )
            block = block.outer

    @property
    def _alias(self) -> str:
        return self.pool.source.alias

    @asynccontextmanager
    async def statement(self, *, is_fed: bool = False) -> AsyncIterator[None]:
        """Have the connection for one statement.

        Args:
            is_fed: code of the user's runs meanwhile, which gives it its rows.

        Raises:
            UnsafeStatement: the block has ended, or what others have open in it took too long.
        """
        async with self._use(), self._wire:
            self.check()
            self._is_fed = is_fed
            try:
                yield
            finally:
                self._is_fed = False

    @asynccontextmanager
    async def _use(self) -> AsyncIterator[None]:
        """Wait for the turn in this block; for one other's, as long as for a connection of the pool."""
        self.check()
        task = asyncio.current_task()
        if self._user is task:
            raise UnsafeStatement(
                f"The transaction on {self._alias!r} is in use by this task itself: it writes records by COPY, or has "
                "opened an atransaction() in another context. Read the records first, or outside the transaction."
            )
        seconds = self.pool.pool.timeout
        waiting = True
        while waiting:
            before = self._served
            try:
                async with asyncio.timeout(seconds):
                    await self._turn.acquire()
                waiting = False
            except TimeoutError as exc:
                if self._served != before or not (self._inner or self._is_fed):
                    continue  # The queue is long and goes on, or a statement takes its time, which awaits no task.
                what = "atransaction() inside" if self._inner else "acopy_records() in"
                raise UnsafeStatement(
                    f"Another task's {what} the same transaction on {self._alias!r} has been open for {seconds} s "
                    "(OPTIONS['pool']['timeout']), and this one waits for its end. If it awaits this task, neither can "
                    "go on: start the task inside that block, or await it outside."
                ) from exc
        self._user = task
        self._served += 1
        try:
            self.check()
            yield
        finally:
            self._user = None
            self._turn.release()

    # -- the transaction ----------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def whole(self) -> AsyncIterator[None]:
        """Run what is inside in a transaction."""
        transaction = self.connection.transaction()
        await transaction.__aenter__()
        try:
            try:
                yield
            except BaseException as exc:
                self._ended = True
                async with self._wire:
                    if not await transaction.__aexit__(type(exc), exc, exc.__traceback__):
                        raise
            else:
                self._ended = True
                async with self._wire:
                    refused = self._refused()
                    if refused is None:
                        await transaction.__aexit__(None, None, None)
                    else:
                        await transaction.__aexit__(type(refused), refused, None)
                        raise refused
        finally:
            if self.connection.pgconn.transaction_status != TransactionStatus.IDLE:
                # The end was not sent, because its task was cancelled once more. The server rolls back.
                await self.connection.close()

    def _refused(self) -> UnsafeStatement | None:
        """Return why a block that ended without an error cannot keep what it did."""
        if self._broken:
            return UnsafeStatement(
                f"A savepoint of the transaction on {self._alias!r} could not be ended, so all of it was rolled back. "
                "Run it again."
            )
        if self._inner is not None:
            return UnsafeStatement(
                f"atransaction() on {self._alias!r} ended while a task had another one open inside it, so it was "
                "rolled back. Await such tasks before its end."
            )
        if self.outer is None and self.connection.pgconn.transaction_status == TransactionStatus.INERROR:
            return UnsafeStatement(
                f"A statement in the transaction on {self._alias!r} failed and the error was handled inside, so "
                "PostgreSQL has rolled back all of it. Let the error leave atransaction(), or put the statement into "
                "an atransaction() of its own."
            )
        return None

    # -- savepoints ---------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def inside(self) -> AsyncIterator[Block]:
        """Run what is inside in a savepoint of this block."""
        async with self._use():
            block = self._inner = Block(self.pool, self.connection, self)
            try:
                async with self._wire:
                    await block._begin()
                try:
                    yield block
                except BaseException as exc:
                    await block._end(exc)
                    if not isinstance(exc, Rollback) or exc.transaction is not None:
                        raise
                else:
                    await block._end(None)
            finally:
                self._inner = None

    @property
    def _name(self) -> str:
        return f"pg_tenants_{self._depth}"

    async def _begin(self) -> None:
        self.check()
        # One whose task was cancelled meanwhile may be there all the same: it ends with the block around.
        await self._send(f"SAVEPOINT {self._name}")

    async def _end(self, exc: BaseException | None) -> None:
        """Keep what was done in the savepoint or, after an error, roll it back.

        Raises:
            UnsafeStatement: it ended without an error, and cannot be kept all the same.
        """
        self._ended = True
        outer = cast(Block, self.outer)
        try:
            async with self._wire:
                if outer._is_over:
                    # Its savepoint went with a block around.
                    if exc is None:
                        outer.check()
                    return
                refused: BaseException | None = self._refused() if exc is None else exc
                if refused is None:
                    try:
                        await self._send(f"RELEASE SAVEPOINT {self._name}")
                    except Error as failed:
                        refused = failed
                if refused is not None:
                    await self._send(f"ROLLBACK TO SAVEPOINT {self._name}")
                    await self._send(f"RELEASE SAVEPOINT {self._name}")
        except UnsafeStatement:
            raise
        except BaseException as failed:
            self._break()
            if exc is None or not isinstance(failed, Error):
                raise
            return  # The error of the block says more; that it could not be rolled back is said at the end.
        if exc is None and refused is not None:
            raise refused

    @property
    def _is_over(self) -> bool:
        return self._ended or self._broken or (self.outer is not None and self.outer._is_over)

    def _break(self) -> None:
        """Have the whole transaction rolled back: which savepoint is open is not known."""
        block: Block | None = self
        while block is not None:
            block._broken = True
            block = block.outer

    async def _send(self, command: str) -> None:
        async with self.connection.cursor() as cursor:
            await cursor.execute(command)


class Lent:
    """Gives a connection from the pool of an alias. (A generator would take twice as long.)"""

    def __init__(self, using: str):
        self.using, self.pool, self.lent = using, cast(AsyncPool, None), None

    async def __aenter__(self) -> tuple[AsyncPool, Any]:
        self.pool = await pool_of(self.using)
        with self.pool.source.wrap_database_errors:
            try:
                self.lent = await self.pool.pool.getconn()
            except OperationalError as exc:
                forget_password(exc)
                raise type(exc)(f"{exc}\n{self.pool.hint(exc)}").with_traceback(exc.__traceback__) from exc.__cause__
        return self.pool, self.lent

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.lent is not None:
            await self.pool.pool.putconn(self.lent)


_open: ContextVar[Mapping[str, Block]] = ContextVar("pg_tenants_transactions", default=MappingProxyType({}))


def open_block(using: str) -> Block | None:
    """Return the innermost block that is open on an alias here."""
    return _open.get().get(using)


@asynccontextmanager
async def atransaction(using: str = DEFAULT_DB_ALIAS) -> AsyncIterator[None]:
    """Run the statements inside in one transaction: all of them or, after an exception, none.

    Inside another one it is a savepoint. Tasks that are started inside take part, each statement and each further
    ``atransaction()`` in its turn. It holds for this module's asynchronous functions; the ORM has connections of its
    own.

    Args:
        using: the database alias.

    Raises:
        UnsafeStatement: at the end, where a task still has an ``atransaction()`` open inside, or a failed statement's
            error was handled inside; all is rolled back then. Also where another task's ``atransaction()`` in the same
            transaction is open for longer than the pool's ``timeout``.
    """
    outer = open_block(using)
    if outer is not None:
        with outer.pool.source.wrap_database_errors:
            async with outer.inside() as block, _opened(using, block):
                yield
        return
    async with Lent(using) as (pool, connection):
        block = Block(pool, connection)
        with pool.source.wrap_database_errors:
            async with block.whole(), _opened(using, block):
                yield


@asynccontextmanager
async def _opened(using: str, block: Block) -> AsyncIterator[None]:
    before = _open.get(), savepoints.get()
    _open.set(MappingProxyType({**before[0], using: block}))
    savepoints.set(MappingProxyType({**before[1], using: partial(atransaction, using)}))
    try:
        yield
    finally:
        # A generator that was closed in another context than the one that ran it has nothing to take back there.
        if open_block(using) is block:
            _open.set(before[0])
            savepoints.set(before[1])
