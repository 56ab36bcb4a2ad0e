"""The active schema: contexts, decorators, threads, tasks and generators."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import inspect
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest
from asgiref.sync import async_to_sync, iscoroutinefunction, markcoroutinefunction, sync_to_async

import pg_tenants
from pg_tenants import activate, current_schema, current_tenant, deactivate, schema_context, tenant_context
from pg_tenants.context import active, as_owner, bind, no_schema


@dataclass
class Tenant:
    """What a context needs of a tenant."""

    schema_name: str
    module: str = ""


ACME, GLOBEX = Tenant("acme", "tenant"), Tenant("globex")


@pytest.fixture(autouse=True)
def _nothing_active() -> Iterator[None]:
    deactivate()
    assert current_schema() is None
    yield
    left = current_schema()
    deactivate()
    assert left is None, "the test's code left a schema active"


def in_thread(function: Callable[[], Any]) -> Any:
    """Return what a bare thread gets."""
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(function()))
    thread.start()
    thread.join()
    return found[0]


# -- contexts ---------------------------------------------------------------------------------------------------------


def test_the_public_names() -> None:
    """They are the contract's, and importing them loads no models."""
    assert set(pg_tenants.__all__) == {
        "across_tenants",
        "activate",
        "afor_each_tenant",
        "current_schema",
        "current_tenant",
        "deactivate",
        "for_each_tenant",
        "readonly",
        "schema_context",
        "tenant_context",
    }
    code = "import pg_tenants, sys; sys.exit('django.db.models' in sys.modules or 'pg_tenants.models' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_nothing_is_active_at_first() -> None:
    """Neither a schema nor a tenant."""
    assert (active(), current_schema(), current_tenant()) == (None, None, None)


def test_a_tenant_is_active_inside_alone() -> None:
    """The context gives the tenant, and names its schema and module."""
    with tenant_context(ACME) as given:
        assert given is ACME
        assert current_tenant() is ACME
        assert current_schema() == "acme"
        target = active()
        assert target is not None
        assert (target.schema_name, target.module, target.tenant) == ("acme", "tenant", ACME)
    assert active() is None


def test_a_schema_by_name_has_no_tenant() -> None:
    """Inside a tenant's context too: the tenant around it is not the schema's."""
    with tenant_context(ACME), schema_context("billing", module="m") as given:
        assert given == "billing"
        assert current_schema() == "billing"
        assert current_tenant() is None
        target = active()
        assert target is not None
        assert target.module == "m"


def test_contexts_nest() -> None:
    """Each gives back what was active before, also the same one inside itself."""
    with tenant_context(ACME):
        with schema_context("public"):
            with tenant_context(ACME):
                assert current_schema() == "acme"
            assert current_schema() == "public"
            with no_schema():
                assert current_schema() is None
            assert current_schema() == "public"
        assert current_tenant() is ACME
    assert current_schema() is None


def test_one_instance_is_entered_again() -> None:
    """It keeps no state, so it may be entered inside itself and used again."""
    context = tenant_context(ACME)
    for _ in range(2):
        with context, schema_context("public"), context, context:
            assert current_schema() == "acme"
        assert current_schema() is None


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, GeneratorExit, asyncio.CancelledError])
def test_an_exception_leaves_the_context(error: type[BaseException]) -> None:
    """Of any kind, and it goes on."""
    with tenant_context(GLOBEX):
        with pytest.raises(error), tenant_context(ACME):
            raise error
        assert current_schema() == "globex"
    assert current_schema() is None


def test_a_context_remembers_the_name_that_it_was_made_with() -> None:
    """A tenant that is changed afterwards moves nothing."""
    tenant = Tenant("acme")
    with tenant_context(tenant):
        tenant.schema_name = "globex"
        assert current_schema() == "acme"


@pytest.mark.parametrize("value", ["acme", None, 7, Tenant(""), object(), Tenant(None)])  # type: ignore[arg-type]
def test_what_is_no_tenant_is_refused(value: Any) -> None:
    """When the context is made, not when it is entered."""
    with pytest.raises(TypeError, match="is no tenant"):
        tenant_context(value)


@pytest.mark.parametrize("value", ["", None, 7, ACME, b"acme"])
def test_what_is_no_name_is_refused(value: Any) -> None:
    """A tenant is none either; the message says what to use."""
    with pytest.raises(TypeError, match="tenant_context"):
        schema_context(value)


def test_activate_and_deactivate() -> None:
    """They last until the next one."""
    activate(ACME)
    assert current_tenant() is ACME
    activate("billing")
    assert (current_schema(), current_tenant()) == ("billing", None)
    deactivate()
    assert current_schema() is None
    for value in (None, 7, "", Tenant("")):
        with pytest.raises(TypeError):
            activate(value)
    assert current_schema() is None


def test_activate_inside_a_context_lasts_until_its_end() -> None:
    """The context around gives back what was active before it, whatever was activated inside."""
    activate("first")
    with tenant_context(ACME):
        activate(GLOBEX)
        assert current_schema() == "globex"
        with schema_context("public"):
            deactivate()
            assert current_schema() is None
            activate("other")
        assert current_schema() == "globex"
        deactivate()
        assert current_schema() is None
    assert current_schema() == "first"
    deactivate()


def test_an_exit_stack_takes_contexts() -> None:
    """And leaves them in reverse."""
    with contextlib.ExitStack() as stack:
        for name in ("a", "b", "c"):
            stack.enter_context(schema_context(name))
        assert current_schema() == "c"
    assert current_schema() is None


# -- decorators -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("context", [tenant_context(ACME), schema_context("acme")])
def test_a_decorated_function(context: Any) -> None:
    """It keeps its name, arguments and result, and leaves the context on exceptions."""

    @context
    def work(a: int, *, b: int = 2) -> tuple[str | None, int]:
        """Do it."""
        if a < 0:
            raise ValueError("negative")
        return current_schema(), a + b

    assert work(1, b=3) == ("acme", 4)
    assert (work.__name__, work.__doc__) == ("work", "Do it.")
    with pytest.raises(ValueError, match="negative"):
        work(-1)
    assert current_schema() is None


def test_a_decorated_function_calls_itself() -> None:
    """Recursion, with other contexts between, always comes back."""
    context = tenant_context(ACME)

    @context
    def work(depth: int) -> list[str | None]:
        if not depth:
            return [current_schema()]
        with schema_context(f"level{depth}"):
            below = work(depth - 1)
            return [*below, current_schema()]

    assert work(3) == ["acme", "level1", "level2", "level3"]


def test_a_decorated_method() -> None:
    """It is bound as any method."""

    class Worker:
        @tenant_context(ACME)
        def work(self) -> tuple[Any, str | None]:
            return self, current_schema()

    worker = Worker()
    assert worker.work() == (worker, "acme")


def test_a_decorated_coroutine_function() -> None:
    """It stays one, and the context lasts over its awaits."""

    @tenant_context(ACME)
    async def work() -> list[str | None]:
        first = current_schema()
        await asyncio.sleep(0)
        return [first, current_schema()]

    assert iscoroutinefunction(work)
    assert inspect.iscoroutinefunction(work)

    async def main() -> list[str | None]:
        found = await work()
        return [*found, current_schema()]

    assert asyncio.run(main()) == ["acme", "acme", None]


@pytest.mark.parametrize("kind", ["callable", "partial", "marked", "partial of callable"])
def test_callables_that_are_not_plain_functions(kind: str) -> None:
    """What they await runs inside, too."""

    class Callable:
        async def __call__(self) -> str | None:
            await asyncio.sleep(0)
            return current_schema()

    def marked() -> Any:
        return Callable()()

    functions: dict[str, Any] = {
        "callable": Callable(),
        "partial": functools.partial(Callable.__call__, Callable()),
        "marked": markcoroutinefunction(marked),
        "partial of callable": functools.partial(Callable()),
    }

    async def main() -> Any:
        return await tenant_context(ACME)(functions[kind])()

    assert asyncio.run(main()) == "acme"


def test_a_decorated_generator_never_shows_its_tenant() -> None:
    """Inside it its own is active, and outside what the consumer has; values, errors and the result pass through."""

    @tenant_context(ACME)
    def work() -> Any:
        seen = [current_schema()]
        try:
            sent = yield "first"
        except ValueError as exc:
            sent = exc
        seen.append(current_schema())
        try:
            yield sent
        finally:
            seen.append(current_schema())
        return seen

    assert inspect.isgeneratorfunction(work)
    with schema_context("billing"):
        generator = work()
        assert next(generator) == "first"
        assert current_schema() == "billing"
        with schema_context("public"):
            assert generator.send("hello") == "hello"
            assert current_schema() == "public"
    with pytest.raises(StopIteration) as stop:
        next(generator)
    assert stop.value.value == ["acme"] * 3
    generator = work()
    next(generator)
    error = ValueError()
    assert generator.throw(error) is error
    with pytest.raises(KeyError):
        generator.throw(KeyError("x"))
    assert current_schema() is None


def test_a_decorated_generator_keeps_contexts_of_its_own() -> None:
    """What it enters, or activates, lasts over its yields."""

    @tenant_context(ACME)
    def work() -> Iterator[str | None]:
        with schema_context("inner"):
            yield current_schema()
            yield current_schema()
        yield current_schema()
        activate("other")
        yield current_schema()
        yield current_schema()

    found = []
    for name in work():
        found.append(name)
        assert current_schema() is None
    assert found == ["inner", "inner", "acme", "other", "other"]


@pytest.mark.parametrize("how", ["close", "collect", "break"])
def test_a_decorated_generator_that_is_closed_early(how: str) -> None:
    """It cleans up inside its tenant."""
    seen: list[str | None] = []

    @tenant_context(ACME)
    def work() -> Iterator[int]:
        try:
            while True:
                yield 1
        finally:
            seen.append(current_schema())

    with schema_context("billing"):
        generator = work()
        next(generator)
        if how == "close":
            generator.close()  # type: ignore[attr-defined]
        elif how == "break":
            for _ in generator:
                break
        del generator
        gc.collect()
        assert seen == ["acme"]
        assert current_schema() == "billing"


def test_a_decorated_generator_that_never_ran() -> None:
    """It changes nothing when it is closed."""

    @tenant_context(ACME)
    def work() -> Iterator[int]:
        yield 1

    work().close()  # type: ignore[attr-defined]
    assert current_schema() is None


def test_a_decorated_generator_that_delegates_to_itself() -> None:
    """Each level has its own."""
    contexts = {name: schema_context(name) for name in "abc"}

    def level(names: str) -> Iterator[str | None]:
        @contexts[names[0]]
        def work() -> Iterator[str | None]:
            yield current_schema()
            if names[1:]:
                yield from level(names[1:])
            yield current_schema()

        return work()

    assert list(level("abc")) == ["a", "b", "c", "c", "b", "a"]


def test_a_decorated_generator_goes_from_thread_to_thread() -> None:
    """A server may take each part of a response in another thread."""

    @tenant_context(ACME)
    def work() -> Iterator[str | None]:
        for _ in range(4):
            yield current_schema()

    generator = work()
    with ThreadPoolExecutor(2) as pool:
        assert [pool.submit(next, generator).result() for _ in range(4)] == ["acme"] * 4
        assert pool.submit(current_schema).result() is None


def test_a_decorated_async_generator_never_shows_its_tenant() -> None:
    """As with a plain one; values, errors and early closing too."""
    seen: list[str | None] = []

    @tenant_context(ACME)
    async def work() -> Any:
        try:
            sent = yield current_schema()
            await asyncio.sleep(0)
            seen.append(current_schema())
            try:
                yield sent
            except ValueError:
                yield "caught"
        finally:
            await asyncio.sleep(0)
            seen.append(current_schema())

    assert inspect.isasyncgenfunction(work)

    async def main() -> None:
        async with schema_context("billing"):
            generator = work()
            assert await anext(generator) == "acme"
            assert current_schema() == "billing"
            assert await generator.asend("hello") == "hello"
            assert await generator.athrow(ValueError()) == "caught"
            assert current_schema() == "billing"
            await generator.aclose()
            assert current_schema() == "billing"
        assert seen == ["acme", "acme"]
        assert [part async for part in work()] == ["acme", None]

    asyncio.run(main())


def test_a_decorated_async_generator_keeps_contexts_of_its_own() -> None:
    """What it enters, or activates, lasts over its yields."""

    @tenant_context(ACME)
    async def work() -> AsyncIterator[str | None]:
        async with schema_context("inner"):
            yield current_schema()
            await asyncio.sleep(0)
            yield current_schema()
        yield current_schema()
        activate("other")
        yield current_schema()
        yield current_schema()

    async def main() -> list[str | None]:
        found = []
        async for name in work():
            found.append(name)
            assert current_schema() is None
        return found

    assert asyncio.run(main()) == ["inner", "inner", "acme", "other", "other"]


def test_a_generator_that_is_closed_inside_another_context_leaves_that_alone() -> None:
    """A plain generator that holds a context ends while its consumer is somewhere else: nothing moves there."""

    def work() -> Iterator[int]:
        with tenant_context(ACME):
            yield 1

    for close in (True, False):
        with schema_context("outer"):
            generator = work()
            next(generator)
            with schema_context("consumer"):
                if close:
                    generator.close()  # type: ignore[attr-defined]
                else:
                    del generator
                    gc.collect()
                assert current_schema() == "consumer"
            # The generator's own context is gone as well.
            assert current_schema() == "outer"
        assert current_schema() is None


def test_a_generator_that_is_closed_in_another_thread_changes_nothing_there() -> None:
    """That thread's tenant stays."""

    def work() -> Iterator[int]:
        with tenant_context(ACME):
            yield 1

    def consume() -> str | None:
        with schema_context("consumer"):
            generator.close()  # type: ignore[attr-defined]
            return current_schema()

    generator = work()
    next(generator)
    assert current_schema() == "acme"  # Python gives plain generators no context of their own
    assert in_thread(consume) == "consumer"
    deactivate()


# -- threads and tasks ------------------------------------------------------------------------------------------------


def test_a_bare_thread_has_no_tenant() -> None:
    """Unless its work is bound."""
    with tenant_context(ACME):
        assert in_thread(current_schema) is None
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(current_schema).result() is None
            assert pool.submit(bind(current_schema)).result() == "acme"
            assert pool.submit(current_schema).result() is None


def test_as_owner_keeps_what_is_active_where_it_is_entered() -> None:
    """Not what was active where it was made: as a decorator, or entered in another tenant."""
    decorated = as_owner()(current_tenant)
    with tenant_context(ACME):
        made = as_owner()
        assert decorated() is ACME
    with tenant_context(GLOBEX):
        with made:
            target = active()
            assert target is not None
            assert (target.tenant, target.as_owner) == (GLOBEX, True)
        assert current_tenant() is GLOBEX
    assert decorated() is None


def test_bind_holds_the_tenant_of_its_moment() -> None:
    """Nothing being active is held as well."""
    nothing = bind(current_schema)
    with tenant_context(ACME):
        bound, bound_tenant = bind(current_schema), bind(current_tenant)
        assert nothing() is None
        with schema_context("public"):
            assert bound() == "acme"
            assert current_schema() == "public"
    assert bound() == "acme"
    assert bound_tenant() is ACME
    assert in_thread(bound) == "acme"
    assert current_schema() is None

    async def work() -> str | None:
        return current_schema()

    with tenant_context(ACME):
        bound_async = bind(work)
    assert asyncio.run(bound_async()) == "acme"


def test_one_instance_in_many_threads() -> None:
    """Threads that enter and leave one context, in any order, never see each other's."""
    shared, start = tenant_context(ACME), threading.Barrier(8)

    def work(number: int) -> bool:
        start.wait()
        for _ in range(200):
            with schema_context(f"own{number}"):
                with shared:
                    if current_schema() != "acme":
                        return False
                if current_schema() != f"own{number}":
                    return False
        return current_schema() is None

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))


def test_one_instance_in_many_tasks() -> None:
    """Tasks that enter and leave one context in interleaved order give back their own."""
    shared = tenant_context(ACME)

    async def work(number: int) -> list[str | None]:
        async with schema_context(f"own{number}"):
            await asyncio.sleep(0.001 * (number % 3))
            async with shared:
                await asyncio.sleep(0.001 * (5 - number % 5))
                inside = current_schema()
            await asyncio.sleep(0)
            return [inside, current_schema()]

    async def main() -> list[list[str | None]]:
        return await asyncio.gather(*map(work, range(20)))

    assert asyncio.run(main()) == [["acme", f"own{number}"] for number in range(20)]


def test_a_task_has_the_tenant_of_its_start() -> None:
    """And what it does is not seen outside."""

    async def work() -> str | None:
        await asyncio.sleep(0)
        before = current_schema()
        activate(GLOBEX)
        return before

    async def main() -> None:
        async with tenant_context(ACME):
            task = asyncio.create_task(work())
        assert current_schema() is None
        async with schema_context("public"):
            assert await task == "acme"
            assert current_schema() == "public"

    asyncio.run(main())


def test_asyncio_run_keeps_the_tenant() -> None:
    """A coroutine that is run from synchronous code inside a context is inside, and cannot change it outside."""

    async def work() -> str | None:
        found = current_schema()
        activate(GLOBEX)
        return found

    with tenant_context(ACME):
        assert asyncio.run(work()) == "acme"
        assert current_schema() == "acme"


def test_a_cancelled_task_leaves_the_context() -> None:
    """Its own and no other."""
    seen = []

    async def work() -> None:
        try:
            async with tenant_context(ACME):
                await asyncio.sleep(60)
        finally:
            seen.append(current_schema())

    async def main() -> None:
        task = asyncio.create_task(work())
        await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert seen == [None]


@pytest.mark.parametrize("sensitive", [True, False])
def test_sync_code_that_async_code_calls(sensitive: bool) -> None:
    """It has the caller's tenant, in whatever thread it runs, and gives back what it enters."""

    def work() -> list[str | None]:
        first = current_schema()
        with tenant_context(GLOBEX):
            second = current_schema()
        return [first, second, current_schema()]

    async def main() -> None:
        call = sync_to_async(work, thread_sensitive=sensitive)
        assert await call() == [None, "globex", None]
        async with tenant_context(ACME):
            assert await call() == ["acme", "globex", "acme"]
            assert current_schema() == "acme"
            assert await asyncio.gather(call(), call()) == [["acme", "globex", "acme"]] * 2
        assert await call() == [None, "globex", None]

    asyncio.run(main())


def test_async_code_that_sync_code_calls() -> None:
    """Also through both bridges at once."""

    async def work() -> list[str | None]:
        first = current_schema()
        async with tenant_context(GLOBEX):
            second = await sync_to_async(current_schema)()
            third = await sync_to_async(current_schema, thread_sensitive=False)()
        return [first, second, third, current_schema()]

    with tenant_context(ACME):
        assert async_to_sync(work)() == ["acme", "globex", "globex", "acme"]
        assert current_schema() == "acme"

    async def outer() -> list[str | None]:
        async with tenant_context(ACME):
            return await sync_to_async(async_to_sync(work))()

    assert asyncio.run(outer()) == ["acme", "globex", "globex", "acme"]


def test_asyncio_to_thread_keeps_the_tenant() -> None:
    """It copies the context."""

    async def main() -> str | None:
        async with tenant_context(ACME):
            return await asyncio.to_thread(current_schema)

    assert asyncio.run(main()) == "acme"


def test_an_async_context_is_left_on_an_exception() -> None:
    """As a synchronous one."""

    async def main() -> str | None:
        with pytest.raises(ValueError, match="x"):
            async with tenant_context(ACME):
                raise ValueError("x")
        return current_schema()

    assert asyncio.run(main()) is None
