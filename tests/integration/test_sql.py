"""`pg_tenants.sql`: templates, rows as dictionaries and models, COPY; on Django's connections and asynchronous."""

from __future__ import annotations

import asyncio
import dataclasses
import resource
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import psycopg
import pytest
from django.db import IntegrityError, OperationalError, ProgrammingError, connection, connections, transaction
from pydantic import BaseModel, ValidationError

from example_project.notes.models import Note, Tag
from pg_tenants import current_schema, readonly, schema_context, sql, tenant_context
from pg_tenants.exceptions import NoActiveTenant, RowMismatch, UnsafeStatement, WrongTenant
from tests.fix_alias import default_alias

INSERT = "INSERT INTO {{tables.notes_tag}} (name) VALUES (%s)"
ALL = "SELECT * FROM {{tables.notes_tag}} ORDER BY name"


class Both:
    """The functions of one kind, called the same way."""

    def __init__(self, kind: str):
        self.kind = kind

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if self.kind == "sync":
            return getattr(sql, name)  # type: ignore[no-any-return]
        function: Callable[..., Awaitable[Any]] = getattr(sql, f"a{name}")

        def call(*args: Any, **kwargs: Any) -> Any:
            async def run() -> Any:
                return await function(*args, **kwargs)

            return asyncio.run(run())

        return call


@pytest.fixture(params=["sync", "async"])
def db(request: pytest.FixtureRequest, acme: Any) -> Iterator[Any]:
    """Return the functions, with the tenant acme active."""
    with tenant_context(acme):
        yield Both(request.param)


@dataclasses.dataclass
class TagRow:
    id: int
    name: str
    colour: str = "none"


class TagModel(BaseModel):
    id: int
    name: str


# -- both kinds -------------------------------------------------------------------------------------------------------


def test_the_documents_functions(db: Any) -> None:
    """execute, executemany, fetch_one, fetch_all, fetch_value and fetch_val, with Django's placeholders."""
    assert db.execute(INSERT, ["b"]) == 1
    assert db.executemany(INSERT, [("a",), ("c",)]) == 2
    assert [row["name"] for row in db.fetch_all(ALL)] == ["a", "b", "c"]
    assert db.fetch_one(ALL)["name"] == "a"
    assert db.fetch_one("SELECT * FROM {{tables.notes_tag}} WHERE name = %(name)s", {"name": "x"}) is None
    count = "SELECT count(*) FROM {{tables.notes_tag}}"
    assert db.fetch_value(count) == db.fetch_val(count) == 3
    assert db.fetch_value("SELECT 1 WHERE false") is None
    assert db.execute("UPDATE {{tables.notes_tag}} SET name = name || %s WHERE name <> %s", ["!", "a"]) == 2


def test_execute_and_return_id(db: Any) -> None:
    """RETURNING id is added unless it is there; comments, semicolons and words in constants do not confuse it."""
    first = db.execute_and_return_id(INSERT, ["a"])
    for text in (
        f"{INSERT};",
        f"{INSERT} -- RETURNING nothing",
        f"{INSERT} /* ; */ ;  \n",
        f"{INSERT} RETURNING id",
        "INSERT INTO {{tables.notes_tag}} (name) SELECT %s || ' returning ' AS name",
        "WITH new AS (SELECT %s AS name) INSERT INTO {{tables.notes_tag}} (name) SELECT name FROM new",
    ):
        assert db.execute_and_return_id(text, [f"tag {hash(text)}"]) > first
    assert db.execute_and_return_id(f"{INSERT} RETURNING name", ["named"]) == "named"
    for text in ("SELECT 1", f"{INSERT}; SELECT 1", ""):
        with pytest.raises(UnsafeStatement, match="takes one INSERT"):
            db.execute_and_return_id(text, ["x"])


def test_json_is_decoded_and_types_are_djangos(db: Any) -> None:
    """Both kinds give the same values."""
    row = db.fetch_one("SELECT '{\"a\": [1]}'::jsonb AS j, '[2]'::json AS k, now() AS t, 1.50::numeric AS n, NULL AS z")
    assert (row["j"], row["k"], row["z"]) == ({"a": [1]}, [2], None)
    assert row["t"].tzinfo is not None
    assert str(row["t"].tzinfo) == connection.timezone_name
    assert str(row["n"]) == "1.50"


def test_two_columns_of_one_name(db: Any) -> None:
    """One would be lost, so it is an error."""
    with pytest.raises(RowMismatch, match="Name them with AS"):
        db.fetch_one("SELECT 1 AS id, 2 AS id")


def test_dataclasses_and_pydantic_models(db: Any) -> None:
    """Rows become instances; what does not fit says so."""
    db.executemany(INSERT, [("a",), ("b",)])
    rows = db.fetch_all_as_model(TagRow, "SELECT id, name FROM {{tables.notes_tag}} ORDER BY name")
    assert [(type(row), row.name, row.colour) for row in rows] == [(TagRow, "a", "none"), (TagRow, "b", "none")]
    assert db.fetch_as_model(TagModel, ALL).name == "a"
    assert db.fetch_as_model(TagModel, f"{ALL} OFFSET 9") is None
    with pytest.raises(RowMismatch, match=r"no field for \['extra'\], and there is no column for \['id'\]"):
        db.fetch_as_model(TagRow, "SELECT 'x' AS name, 1 AS extra")
    with pytest.raises(ValidationError):
        db.fetch_as_model(TagModel, "SELECT 'x' AS id, 'y' AS name")
    with pytest.raises(TypeError, match="no Django model, no dataclass"):
        db.fetch_as_model(dict, ALL)


def test_django_models(db: Any, acme: Any, globex: Any) -> None:
    """Instances know their tenant; other columns become attributes, and missing fields are loaded later."""
    db.execute(INSERT, ["a"])
    tag = db.fetch_as_model(Tag, "SELECT id, 1 + 1 AS two FROM {{tables.notes_tag}}")
    assert (tag.two, tag.name) == (2, "a")
    with pytest.raises(RowMismatch, match="no column 'id', the primary key of Tag"):
        db.fetch_as_model(Tag, "SELECT name FROM {{tables.notes_tag}}")
    (note,) = db.fetch_all_as_model(Note, "SELECT * FROM {{tables.notes_note}}")
    assert note == Note.objects.get()
    with tenant_context(globex), pytest.raises(WrongTenant):
        note.save()


@pytest.mark.parametrize("function", ["copy_records", "executemany"])
def test_records_of_another_tenant(db: Any, globex: Any, function: str) -> None:
    """A generator that reads them in that tenant's context does not lead what is written there."""

    def records() -> Iterator[Any]:
        with tenant_context(globex):
            for name in "abc":
                assert current_schema() == "globex"
                yield [name]
        yield ["d"]

    if function == "copy_records":
        assert db.copy_records("{{tables.notes_tag}}", records(), columns=["name"]) == 4
    else:
        assert db.executemany("INSERT INTO notes_tag (name) VALUES (%s)", records()) == 4
    assert current_schema() == "acme"
    assert [row["name"] for row in db.fetch_all(ALL)] == ["a", "b", "c", "d"]
    with tenant_context(globex):
        assert not Tag.objects.exists()


@pytest.mark.parametrize("table", ["notes_tag", Tag, "{{tables.notes_tag}}"])
def test_copy_records(db: Any, table: Any) -> None:
    """From sequences or dictionaries, by table, model or template; the count is returned."""
    assert db.copy_records(table, [("a",), ["b"]], columns=["name"]) == 2
    assert db.copy_records(table, ({"name": name} for name in "cd")) == 2
    assert db.copy_records(table, []) == 0
    assert db.fetch_value("SELECT string_agg(name, '' ORDER BY name) FROM {{tables.notes_tag}}") == "abcd"


@pytest.mark.parametrize(
    ("records", "columns", "part"),
    [
        ([("a",)], None, "Give columns"),
        ([("a",), ("b", "c")], ["name"], "Record 2"),
        ([{"name": "a"}, {"title": "b"}], None, r"Record 2 has \['title'\]"),
        ([{"name": "a"}, ("b",)], None, "Record 2 has tuple"),
        ([("a",), "b"], ["name"], "Record 2 is 'b'"),
    ],
)
def test_records_that_do_not_fit(db: Any, records: Any, columns: Any, part: str) -> None:
    """The error names the record, and none is written."""
    with pytest.raises(RowMismatch, match=part):
        db.copy_records("notes_tag", records, columns=columns)
    assert db.fetch_value("SELECT count(*) FROM {{tables.notes_tag}}") == 0


def test_errors_are_djangos(db: Any) -> None:
    """A violated constraint, a wrong name, a bad template."""
    db.execute(INSERT, ["a"])
    with pytest.raises(IntegrityError):
        db.execute(INSERT, ["a"])
    with pytest.raises(ProgrammingError):
        db.fetch_all("SELECT * FROM nowhere")
    with pytest.raises(IntegrityError):
        db.copy_records("notes_tag", [("x",), ("x",)], columns=["name"])
    with schema_context("public"), pytest.raises(NoActiveTenant):
        db.fetch_all(ALL)


def test_templates_stay_out_of_constants(db: Any) -> None:
    """In strings, quoted names, comments and dollar quotes they are text."""
    row = db.fetch_one("""SELECT '{{tables.x}}' AS a, $${{schema}}$$ AS "{{b}}" /* {{c}} */ -- {{d}}""")
    assert row == {"a": "{{tables.x}}", "{{b}}": "{{schema}}"}


def test_read_only(db: Any) -> None:
    """`readonly()` holds here as well."""
    with readonly(), pytest.raises(Exception, match="read-only transaction"):
        db.execute(INSERT, ["a"])


# -- Django's connections ---------------------------------------------------------------------------------------------


def test_in_a_transaction(acme: Any) -> None:
    """The functions take part in atomic()."""
    with tenant_context(acme):
        with pytest.raises(ZeroDivisionError), transaction.atomic():
            sql.execute(INSERT, ["a"])
            assert sql.fetch_value("SELECT count(*) FROM {{tables.notes_tag}}") == 1
            raise ZeroDivisionError
        assert sql.fetch_all(ALL) == []


def test_copy_takes_constant_memory(acme: Any) -> None:
    """A million records take no more than a thousand."""

    def records(number: int) -> Iterator[tuple[str]]:
        return ((f"tag {i} {'x' * 20}",) for i in range(number))

    with tenant_context(acme), transaction.atomic():
        sql.copy_records(Tag, records(1000), columns=["name"])
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        assert sql.copy_records(Tag, ((f"t{i}",) for i in range(200_000)), columns=["name"]) == 200_000
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        transaction.set_rollback(True)
    assert grown < 8 * 1024  # KiB; the records alone would take thirty times that


# -- asynchronous -----------------------------------------------------------------------------------------------------


def test_many_tenants_at_once(acme: Any, globex: Any) -> None:
    """Each task's statements run in its own tenant, on shared connections."""

    async def work(tenant: Any, number: int) -> None:
        with tenant_context(tenant):
            await sql.aexecute(INSERT, [f"{tenant.schema_name} {number}"])
            assert await sql.afetch_value("SELECT title FROM {{tables.notes_note}}") == f"note of {tenant.schema_name}"
            assert await sql.afetch_value("SELECT title FROM notes_note") == f"note of {tenant.schema_name}"

    async def main() -> None:
        await asyncio.gather(*(work((acme, globex)[number % 2], number) for number in range(60)))

    asyncio.run(main())
    for tenant in (acme, globex):
        with tenant_context(tenant):
            assert {tag.name.split()[0] for tag in Tag.objects.all()} == {tenant.schema_name}
            assert Tag.objects.count() == 30


def test_a_transaction(acme: Any, globex: Any) -> None:
    """All or nothing; inside another one it is a savepoint; it may move between tenants."""

    async def main() -> None:
        with pytest.raises(ZeroDivisionError):
            async with sql.atransaction():
                await sql.aexecute(INSERT, ["lost"])
                assert len(await sql.afetch_all(ALL)) == 1
                raise ZeroDivisionError
        assert await sql.afetch_all(ALL) == []
        async with sql.atransaction():
            await sql.aexecute(INSERT, ["kept"])
            with pytest.raises(ZeroDivisionError):
                async with sql.atransaction():
                    await sql.aexecute(INSERT, ["undone"])
                    raise ZeroDivisionError
            with tenant_context(globex):
                await sql.aexecute(INSERT, ["of globex"])
            # Tasks that it starts share its connection.
            await asyncio.gather(*(sql.aexecute(INSERT, [f"task {number}"]) for number in range(3)))

    with tenant_context(acme):
        asyncio.run(main())
        assert [row["name"] for row in sql.fetch_all(ALL)] == ["kept", "task 0", "task 1", "task 2"]
    with tenant_context(globex):
        assert [row["name"] for row in sql.fetch_all(ALL)] == ["of globex"]


def test_a_task_that_outlives_its_transaction(acme: Any) -> None:
    """It is told so, instead of using a connection that somebody else has by now."""

    async def late(go: asyncio.Event) -> None:
        await go.wait()
        await sql.afetch_all(ALL)

    async def main() -> None:
        go = asyncio.Event()
        async with sql.atransaction():
            task = asyncio.create_task(late(go))
            await sql.afetch_all(ALL)
        go.set()
        with pytest.raises(UnsafeStatement, match="has ended"):
            await task

    with tenant_context(acme):
        asyncio.run(main())


def test_a_cancelled_statement(acme: Any) -> None:
    """It is stopped on the server, and its connection serves the next one."""

    async def main() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(sql.afetch_value("SELECT pg_sleep(30)"), 0.2)
        assert await sql.afetch_value("SELECT count(*) FROM {{tables.notes_note}}") == 1
        query = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%%pg_sleep(30)%%' AND state = 'active'"
        assert await sql.afetch_value(f"{query} AND pid <> pg_backend_pid() AND %s", [True]) == 0

    with tenant_context(acme):
        asyncio.run(main())


def test_pools_end_with_their_loops(acme: Any, raw: Any) -> None:
    """One for each alias and loop; nothing is left on the server afterwards."""
    count = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
    connections.close_all()
    before = raw.execute(count).fetchone()[0]

    async def main() -> Any:
        await asyncio.gather(*(sql.afetch_value("SELECT 1") for _ in range(5)))
        # Psycopg 3.2.1 loses a connection whose making is cancelled, until the process ends.
        while (stats := await sql.apool_stats())["pool_available"] < stats["pool_size"]:
            await asyncio.sleep(0.01)
        assert await sql.apool() is await sql.apool()
        return await sql.apool()

    with tenant_context(acme):
        first, second = asyncio.run(main()), asyncio.run(main())
    assert first is not second
    assert first.closed
    assert second.closed
    for _ in range(50):
        if raw.execute(count).fetchone()[0] == before:
            break
        time.sleep(0.05)
    assert raw.execute(count).fetchone()[0] == before


def test_closing_by_hand(acme: Any) -> None:
    """The next statement opens a new pool."""

    async def main() -> None:
        pool = await sql.apool()
        await sql.close_apool()
        assert pool.closed
        assert await sql.afetch_value("SELECT 1") == 1

    asyncio.run(main())


def test_an_asynchronous_source_from_another_tenant(acme: Any, globex: Any) -> None:
    """What it has active while it is read does not lead what is written."""

    async def records() -> AsyncIterator[dict[str, str]]:
        async with tenant_context(globex):
            for name in "abc":
                assert current_schema() == "globex"
                yield {"name": name}

    async def main() -> None:
        assert await sql.acopy_records("{{tables.notes_tag}}", records()) == 3
        assert current_schema() == "acme"

    with tenant_context(acme):
        asyncio.run(main())
        assert Tag.objects.count() == 3
    with tenant_context(globex):
        assert not Tag.objects.exists()


def test_an_asynchronous_source_of_records(acme: Any) -> None:
    """Records may come from an asynchronous generator."""

    async def records() -> AsyncIterator[dict[str, str]]:
        for name in "abc":
            await asyncio.sleep(0)
            yield {"name": name}

    async def main() -> int:
        return await sql.acopy_records(Tag, records())

    with tenant_context(acme):
        assert asyncio.run(main()) == 3
        assert Tag.objects.count() == 3


def test_what_the_pool_allows(make_alias: Any, acme: Any, raw: Any) -> None:
    """As many queries run at once as the pool has connections, not as a thread limit allows."""
    size = 20
    make_alias("wide", tenants={}, pool={"min_size": size, "max_size": size})
    sleeping = (
        "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%pg_sleep(0.5)%'"
        " AND datname = current_database() AND pid <> pg_backend_pid()"
    )

    async def main() -> int:
        await (await sql.apool("wide")).wait()
        work = asyncio.gather(*(sql.aexecute("SELECT pg_sleep(0.5)", using="wide") for _ in range(3 * size)))
        most = 0
        while not work.done():
            most = max(most, raw.execute(sleeping).fetchone()[0])
            await asyncio.sleep(0.02)
        await work
        return most

    with tenant_context(acme):
        assert asyncio.run(main()) == size


def test_behind_a_pooler(acme: Any, globex: Any, through_pgbouncer: Any) -> None:
    """Two server connections, many tasks: no statement finds another tenant's rows."""

    async def work(tenant: Any) -> None:
        with tenant_context(tenant):
            for _ in range(10):
                found = await sql.afetch_value("SELECT title FROM notes_note")
                assert found == f"note of {tenant.schema_name}"

    async def main() -> None:
        await asyncio.gather(*(work(tenant) for tenant in (acme, globex) * 8))

    asyncio.run(main())


def test_one_round_trip(acme: Any, wire: Any) -> None:
    """The tenant rides in the statement's own message."""

    async def main() -> int:
        await sql.afetch_value("SELECT 1")
        wire.reset()
        await sql.afetch_value("SELECT count(*) FROM notes_note WHERE id > %s", [0])
        return int(wire.round_trips)

    with tenant_context(acme):
        assert asyncio.run(main()) == 1


def test_no_server(server_params: dict[str, Any], open_db: None) -> None:
    """The error says what to do."""

    async def main() -> None:
        await sql.afetch_value("SELECT 1")

    with default_alias({**server_params}, 1, pool={"min_size": 0, "max_size": 1, "timeout": 0.3}):
        with pytest.raises(OperationalError, match="Raise OPTIONS"):
            asyncio.run(main())


def test_psycopgs_pool_for_what_is_not_here(acme: Any) -> None:
    """Its connections carry the tenant in whatever is done with them."""

    async def main() -> None:
        pool = await sql.apool()
        async with pool.connection() as conn:
            assert isinstance(conn, psycopg.AsyncConnection)
            cursor = await conn.execute("SELECT title FROM notes_note")
            assert await cursor.fetchone() == ("note of acme",)
            async with conn.cursor() as cursor:
                assert [row async for row in cursor.stream("SELECT title FROM notes_note")] == [("note of acme",)]

    with tenant_context(acme):
        asyncio.run(main())
