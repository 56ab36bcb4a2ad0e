"""How others fail at keeping tenants apart: the same situations, on every kind of connection.

Each test runs directly, with Django's psycopg pool, through PgBouncer in transaction mode, and with both; on PostgreSQL
18 and, by ``PG_TENANTS_TEST_VERSION``, on 15. A table in ``public`` of the name of a tenant's is the bait.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.db import connections, transaction
from django.db.utils import DatabaseError, ProgrammingError

from example_project.notes.models import Note, Tag
from pg_tenants import current_schema, schema_context, schemas, tenant_context
from pg_tenants.context import bind
from pg_tenants.exceptions import SchemaDoesNotExist

ALIAS = "other"


@pytest.fixture(params=["direct", "pool", "pgbouncer", "pgbouncer and pool"])
def transport(request: pytest.FixtureRequest, make_alias: Any, pgbouncer_factory: Any, raw: Any) -> Iterator[str]:
    """Give an alias of each kind, and the bait."""
    params = pgbouncer_factory(pool_size=2).params if "pgbouncer" in request.param else None
    options = {"pool": {"min_size": 1, "max_size": 4, "timeout": 30}} if "pool" in request.param.split(" ") else {}
    make_alias(ALIAS, params=params, **options)
    raw.execute("CREATE TABLE public.notes_note AS SELECT 1::bigint AS id, 'bait'::varchar AS title")
    yield request.param
    raw.execute("DROP TABLE public.notes_note")


def titles() -> list[str]:
    return list(Note.objects.using(ALIAS).values_list("title", flat=True))


def own(tenant: Any) -> list[str]:
    return [f"note of {tenant.schema_name}"]


def in_threads(works: list[Callable[[], Any]]) -> list[Any]:
    def run(work: Callable[[], Any]) -> Any:
        try:
            return work()
        finally:
            connections.close_all()

    with ThreadPoolExecutor(len(works)) as executor:
        return list(executor.map(run, works))


def test_reads_of_many_threads(transport: str, acme: Any, globex: Any) -> None:
    """1, 6: autocommit behind a pooler, and connections that come back from a pool."""

    def reader(tenant: Any) -> Callable[[], set[str]]:
        def read() -> set[str]:
            seen: set[str] = set()
            for _ in range(40):
                with tenant_context(tenant):
                    seen.update(titles())
                connections[ALIAS].close()
            return seen

        return read

    results = in_threads([reader(tenant) for tenant in (acme, globex) * 3])
    assert results == [set(own(acme)), set(own(globex))] * 3


def test_a_path_that_cannot_be_set(transport: str, acme: Any) -> None:
    """2, 7: the next query does not run in the tenant before, nor in public, whose table has the same name."""
    with tenant_context(acme):
        assert titles() == own(acme)
    schemas.create("short")
    with schema_context("short"), pytest.raises(DatabaseError):
        Tag.objects.using(ALIAS).count()
    schemas.drop("short")
    with schema_context("short"), pytest.raises(SchemaDoesNotExist):
        titles()
    with tenant_context(acme):
        assert titles() == own(acme)


@pytest.mark.parametrize("noise", ["SET search_path = public", "ROLLBACK", "RESET ALL", "BEGIN; COMMIT"])
def test_sql_of_the_user(transport: str, acme: Any, noise: str) -> None:
    """3: what user SQL does to the session changes nothing."""
    with tenant_context(acme):
        with connections[ALIAS].cursor() as cursor:
            cursor.execute(noise)
        assert titles() == own(acme)


def test_rollbacks(transport: str, acme: Any, globex: Any) -> None:
    """4: a rollback, or one to a savepoint, takes no path back that anybody trusts."""
    with tenant_context(acme):
        titles()
    with tenant_context(globex):
        with pytest.raises(ZeroDivisionError), transaction.atomic(using=ALIAS):
            titles()
            raise ZeroDivisionError
        assert titles() == own(globex)
        with transaction.atomic(using=ALIAS):
            with pytest.raises(ProgrammingError), transaction.atomic(using=ALIAS):
                connections[ALIAS].cursor().execute("SELECT nothing FROM notes_note")
            assert titles() == own(globex)
            with tenant_context(acme):
                assert titles() == own(acme)


def test_a_cursor_that_is_older_than_the_context(transport: str, acme: Any, globex: Any) -> None:
    """5: it runs in the tenant that is active when it is executed."""
    with tenant_context(acme):
        cursor = connections[ALIAS].cursor()
    with tenant_context(globex), cursor:
        cursor.execute("SELECT title FROM notes_note")
        assert [title for (title,) in cursor.fetchall()] == own(globex)


def test_one_context_in_two_threads(transport: str, acme: Any, globex: Any) -> None:
    """9: threads that share contexts and tenant objects do not restore each other's."""
    contexts = {tenant.schema_name: tenant_context(tenant) for tenant in (acme, globex)}
    barrier = threading.Barrier(2, timeout=30)

    def work(first: Any, second: Any) -> list[list[str]]:
        found = []
        with contexts[first.schema_name]:
            barrier.wait()
            found.append(titles())
            with contexts[second.schema_name]:
                barrier.wait()
                found.append(titles())
            barrier.wait()
            found.append(titles())
        assert current_schema() is None
        return found

    results = in_threads([lambda: work(acme, globex), lambda: work(globex, acme)])
    assert results == [[own(acme), own(globex), own(acme)], [own(globex), own(acme), own(globex)]]


def test_an_exception_inside(transport: str, acme: Any, globex: Any) -> None:
    """10: it leaves nothing active."""
    with tenant_context(globex):
        with pytest.raises(ZeroDivisionError), tenant_context(acme):
            raise ZeroDivisionError
        assert titles() == own(globex)
    assert current_schema() is None


def test_async_code(transport: str, acme: Any, globex: Any) -> None:
    """11: the async ORM, asyncio.run, sync_to_async of both kinds, and bare threads."""

    async def read(tenant: Any) -> list[list[str]]:
        async with tenant_context(tenant):
            found = [[note.title async for note in Note.objects.using(ALIAS)]]
            await asyncio.sleep(0)
            for sensitive in (True, False):
                found.append(await sync_to_async(closing(titles), thread_sensitive=sensitive)())
            await Tag.objects.using(ALIAS).acreate(name=tenant.schema_name)
            found.append([tag.name async for tag in Tag.objects.using(ALIAS)])
        return found

    def closing(work: Callable[[], list[str]]) -> Callable[[], list[str]]:
        def run() -> list[str]:
            try:
                return work()
            finally:
                connections[ALIAS].close()

        return run

    async def both() -> Any:
        return await asyncio.gather(read(acme), read(globex))

    found = asyncio.run(both())
    assert found == [[own(tenant)] * 3 + [[tenant.schema_name]] for tenant in (acme, globex)]
    with tenant_context(acme):
        context = copy_context()
        bare, carried, bound = in_threads([current_schema, lambda: context.run(titles), bind(titles)])
    assert (bare, carried, bound) == (None, own(acme), own(acme))


@pytest.mark.parametrize("robust", [False, True])
def test_on_commit(transport: str, acme: Any, globex: Any, robust: bool) -> None:
    """13: a callback runs in the tenant that it was registered in."""
    seen: list[Any] = []
    with transaction.atomic(using=ALIAS):
        for tenant in (acme, globex):
            with tenant_context(tenant):
                transaction.on_commit(lambda: seen.append((current_schema(), titles())), using=ALIAS, robust=robust)
        transaction.on_commit(lambda: seen.append(current_schema()), using=ALIAS, robust=robust)
    assert seen == [("acme", own(acme)), ("globex", own(globex)), None]


def test_two_aliases(transport: str, acme: Any, globex: Any) -> None:
    """16: a context is of no alias; leaving it restores the same for all."""
    with tenant_context(acme):
        assert titles() == own(acme)
        with tenant_context(globex):
            assert titles() == own(globex)
            assert Note.objects.get().title == "note of globex"
        assert titles() == own(acme)
        assert Note.objects.get().title == "note of acme"


def test_counts(transport: str, acme: Any, django_assert_num_queries: Any) -> None:
    """33: five counts are five statements."""
    with tenant_context(acme), django_assert_num_queries(5, using=ALIAS):
        for _ in range(5):
            Note.objects.using(ALIAS).count()
