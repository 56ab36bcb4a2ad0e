"""Tasks that share an asynchronous transaction: each nested one is a savepoint of its own, whatever the others do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterator
from typing import Any

import psycopg
import pytest
from django.db import ProgrammingError, connections
from django.db.utils import DatabaseError

from pg_tenants import readonly, sql, tenant_context
from pg_tenants.exceptions import UnsafeStatement

INSERT = "INSERT INTO {{tables.notes_tag}} (name) VALUES (%s)"
ALIAS = "shared"


@pytest.fixture
def run(make_alias: Any, acme: Any) -> Iterator[Any]:
    """Return what runs a coroutine in acme, on a pool of one connection, and gives the names of all tags after it."""
    make_alias(ALIAS, pool={"min_size": 1, "max_size": 1, "timeout": 20})

    async def main(work: Coroutine[Any, Any, Any]) -> list[str]:
        await work
        # The one connection is whole again: it begins, and ends, a transaction.
        async with sql.atransaction(ALIAS):
            rows = await sql.afetch_all("SELECT name FROM {{tables.notes_tag}} ORDER BY name", using=ALIAS)
        return [row["name"] for row in rows]

    def call(work: Coroutine[Any, Any, Any]) -> list[str]:
        with tenant_context(acme):
            return asyncio.run(main(work))

    return call


async def insert(name: str) -> None:
    await sql.aexecute(INSERT, [name], using=ALIAS)


async def nested(name: str, *, fails: bool = False, inside: Any = None) -> None:
    async with sql.atransaction(ALIAS):
        await insert(f"{name} begins")
        await asyncio.sleep(0)
        if inside is not None:
            await inside()
        await insert(f"{name} ends")
        if fails:
            raise ZeroDivisionError(name)


def test_siblings_that_are_nested(run: Any) -> None:
    """Those that fail are undone, and no other; an error that is swallowed leaves nothing behind."""

    async def work() -> None:
        async with sql.atransaction(ALIAS):
            found = await asyncio.gather(
                *(nested(f"task {number}", fails=number % 2 == 1) for number in range(6)), return_exceptions=True
            )
            assert [type(one) for one in found] == [type(None), ZeroDivisionError] * 3

    assert run(work()) == [f"task {number} {what}" for number in (0, 2, 4) for what in ("begins", "ends")]


def test_a_statement_beside_a_nested_one_that_fails(run: Any) -> None:
    """It is not rolled back with the other's savepoint."""

    async def work() -> None:
        async with sql.atransaction(ALIAS):
            await asyncio.gather(
                nested("undone", fails=True),
                *(insert(f"kept {number}") for number in range(3)),
                return_exceptions=True,
            )

    assert run(work()) == ["kept 0", "kept 1", "kept 2"]


def test_deeper_ones(run: Any) -> None:
    """Each level has siblings; one that fails takes what is inside it, and nothing beside it."""

    async def level(name: str, fails: bool) -> None:
        async def inside() -> None:
            await asyncio.gather(
                nested(f"{name}, in", fails=True), nested(f"{name}, on"), insert(name), return_exceptions=True
            )

        await nested(name, fails=fails, inside=inside)

    async def work() -> None:
        async with sql.atransaction(ALIAS):
            await asyncio.gather(level("a", False), level("b", True), level("c", False), return_exceptions=True)

    assert run(work()) == [
        f"{name}{what}" for name in "ac" for what in ("", " begins", " ends", ", on begins", ", on ends")
    ]


def test_siblings_in_two_tenants(run: Any, globex: Any) -> None:
    """Each works in its own."""

    async def there(name: str) -> None:
        async with tenant_context(globex):
            await nested(name)

    async def work() -> None:
        async with sql.atransaction(ALIAS):
            await asyncio.gather(nested("here"), there("there"), nested("lost", fails=True), return_exceptions=True)

    assert run(work()) == ["here begins", "here ends"]
    with tenant_context(globex):
        assert sql.fetch_value("SELECT string_agg(name, ', ' ORDER BY name) FROM notes_tag") == (
            "there begins, there ends"
        )


@pytest.mark.parametrize("handled", [False, True])
def test_a_task_group_that_fails(run: Any, handled: bool) -> None:
    """Its tasks are cancelled, in a savepoint or waiting for their turn; where that is handled, the rest is kept."""

    async def group() -> None:
        async def fails() -> None:
            await asyncio.sleep(0.2)
            raise ZeroDivisionError

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(nested("sleeping", inside=lambda: sql.aexecute("SELECT pg_sleep(30)", using=ALIAS)))
            tasks.create_task(nested("waiting"))
            tasks.create_task(insert("waiting, too"))
            tasks.create_task(fails())

    async def work() -> None:
        async with sql.atransaction(ALIAS):
            await insert("first")
            try:
                await group()
            except ExceptionGroup:
                if not handled:
                    raise
            await insert("last")

    async def outside() -> None:
        if handled:
            await work()
        else:
            with pytest.raises(ExceptionGroup):
                await work()

    assert run(outside()) == (["first", "last"] if handled else [])


def test_one_that_is_cancelled(run: Any) -> None:
    """In the middle of a statement, and while it waits; the others go on."""

    async def work() -> None:
        async with sql.atransaction(ALIAS):
            tasks = [
                asyncio.create_task(nested("a", inside=lambda: sql.aexecute("SELECT pg_sleep(30)", using=ALIAS))),
                asyncio.create_task(nested("b")),
                asyncio.create_task(nested("c")),
            ]
            await asyncio.sleep(0.2)
            tasks[1].cancel()
            await asyncio.sleep(0)
            tasks[0].cancel()
            found = await asyncio.gather(*tasks, return_exceptions=True)
            assert [type(one) for one in found] == [asyncio.CancelledError, asyncio.CancelledError, type(None)]

    assert run(work()) == ["c begins", "c ends"]


def test_the_whole_that_is_cancelled(run: Any) -> None:
    """Nothing is kept, at whatever moment; the connection serves the next one, or is replaced."""

    async def work() -> None:
        async def whole() -> None:
            async with sql.atransaction(ALIAS):
                await asyncio.gather(*(nested(f"task {number}") for number in range(3)))
                await asyncio.sleep(30)

        for moment in range(24):
            task = asyncio.create_task(whole())
            for _ in range(moment * 3):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            rest = [one for one in asyncio.all_tasks() if "nested" in repr(one)]
            await asyncio.gather(*rest, return_exceptions=True)

    assert run(work()) == []


def test_tasks_that_are_left_behind_by_an_error(run: Any) -> None:
    """gather() leaves the others running: all is rolled back, and they are refused, though their own block is open."""

    async def work() -> None:
        go, left = asyncio.Event(), []

        async def fails() -> None:
            await asyncio.sleep(0.1)
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            async with sql.atransaction(ALIAS):
                left = [asyncio.create_task(nested("left", inside=go.wait)), asyncio.create_task(nested("waits"))]
                await asyncio.gather(fails(), *left)
        # Somebody else has the connection by now.
        async with sql.atransaction(ALIAS):
            await insert("other")
            go.set()
            found = await asyncio.gather(*left, return_exceptions=True)
        assert [type(one) for one in found] == [UnsafeStatement] * 2
        assert all("has ended" in str(one) for one in found)

    assert run(work()) == ["other"]


@pytest.mark.parametrize("deep", [False, True])
def test_an_end_before_that_of_a_task(run: Any, deep: bool) -> None:
    """What is inside another's savepoint is not committed half done: it is an error, and all is rolled back."""

    async def work() -> None:
        go = asyncio.Event()

        async def whole() -> Any:
            async with sql.atransaction(ALIAS):
                await insert("lost")
                task = asyncio.create_task(nested("half", inside=go.wait))
                await asyncio.sleep(0.1)
            return task

        async def early() -> None:
            if deep:
                async with sql.atransaction(ALIAS):
                    with pytest.raises(UnsafeStatement, match="another one open inside"):
                        await whole()
                    await insert("kept")
            else:
                with pytest.raises(UnsafeStatement, match="another one open inside"):
                    await whole()

        await early()
        go.set()
        rest = [one for one in asyncio.all_tasks() if "nested" in repr(one)]
        assert [type(one) for one in await asyncio.gather(*rest, return_exceptions=True)] == [UnsafeStatement]

    assert run(work()) == (["kept"] if deep else [])


def test_a_block_that_waits_for_who_waits_for_it(run: Any) -> None:
    """Neither could go on; after the pool's timeout it is an error instead."""
    connections.settings[ALIAS]["OPTIONS"]["pool"]["timeout"] = 0.5

    async def work() -> None:
        async with sql.atransaction(ALIAS):
            task = asyncio.create_task(insert("outside"))
            with pytest.raises(UnsafeStatement, match=r"open for 0\.5 s .* If it awaits this task"):
                async with sql.atransaction(ALIAS):
                    await insert("lost")
                    await task
            await insert("kept")

    assert run(work()) == ["kept"]


def test_a_copy_from_the_same_transaction(run: Any) -> None:
    """Records cannot be read on the connection that writes them: said at once, not waited for."""

    async def records() -> AsyncIterator[Any]:
        yield ["first"]
        await sql.afetch_value("SELECT 1", using=ALIAS)
        yield ["second"]

    async def work() -> None:
        with pytest.raises(UnsafeStatement, match="in use by this task itself"):
            async with sql.atransaction(ALIAS):
                await sql.acopy_records("notes_tag", records(), columns=["name"], using=ALIAS)

    assert run(work()) == []


def test_an_error_that_was_handled_inside(run: Any) -> None:
    """PostgreSQL rolls back all of it, so COMMIT would lose the rest without a word; not so in a savepoint."""

    async def broken() -> None:
        with pytest.raises(ProgrammingError):
            await sql.aexecute("SELECT nothing", using=ALIAS)

    async def work() -> None:
        with pytest.raises(UnsafeStatement, match="rolled back all of it"):
            async with sql.atransaction(ALIAS):
                await insert("lost")
                await broken()
        async with sql.atransaction(ALIAS):
            await insert("kept")
            with pytest.raises(DatabaseError):
                async with sql.atransaction(ALIAS):
                    await insert("undone")
                    await broken()
            await insert("kept, too")

    assert run(work()) == ["kept", "kept, too"]


def test_psycopgs_rollback(run: Any) -> None:
    """It leaves the innermost block and undoes it, without an error."""

    async def work() -> None:
        async with sql.atransaction(ALIAS):
            await insert("kept")
            async with sql.atransaction(ALIAS):
                await insert("undone")
                raise psycopg.Rollback
            await insert("kept, too")
        async with sql.atransaction(ALIAS):
            await insert("undone")
            raise psycopg.Rollback

    assert run(work()) == ["kept", "kept, too"]


def test_read_only_beside_a_writer(run: Any) -> None:
    """readonly() is such a block as well: it makes no sibling's statement read-only."""

    async def reads() -> None:
        async with readonly(using=ALIAS):
            await asyncio.sleep(0)
            with pytest.raises(DatabaseError, match="read-only"):
                await insert("refused")
            raise ZeroDivisionError

    async def work() -> None:
        async with sql.atransaction(ALIAS):
            await asyncio.gather(reads(), nested("a"), insert("b"), reads(), insert("c"), return_exceptions=True)

    assert run(work()) == ["a begins", "a ends", "b", "c"]
