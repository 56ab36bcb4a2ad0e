"""Raw SQL in asynchronous code: ``pg_tenants.sql`` beside bare psycopg, bare asyncpg and pgdbm, in one process.

    pip install asyncpg pgdbm
    python -m tests.benchmarks.sql --url postgresql://postgres@127.0.0.1:5432/postgres

All have a pool of twenty connections and one event loop, and take turns in short batches; the ratios are of medians,
pair by pair of batches. Rows end as dictionaries. The bare drivers name the schema in the statement, as does pgdbm;
here the tenant goes before each statement, and a schema that is gone is an error. ``--sleep`` runs two hundred queries
of half a second on each.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import psycopg
from psycopg import conninfo
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool

from tests.benchmarks.requests import SETUP
from tests.benchmarks.requests_child import configure

POOL = 20
ONE = "SELECT id, text, number FROM {table} WHERE id = {p1}"
MANY = "SELECT id, text, number FROM {table} WHERE id <= {p1}"
INSERT = "INSERT INTO {table} (id, text, number) VALUES ({p1}, {p2}, {p3})"
RECORDS = [(number, "copied", number) for number in range(100_000, 110_000)]
COLUMNS = ["id", "text", "number"]


class System(NamedTuple):
    """A way to run SQL."""

    fetch_one: Callable[[int], Awaitable[Any]]
    fetch_all: Callable[[int], Awaitable[Any]]
    insert: Callable[[int], Awaitable[Any]]
    copy: Callable[[], Awaitable[Any]]
    sleep: Callable[[float], Awaitable[Any]]


def said(text: str, table: str, style: str) -> str:
    """Return a statement in a driver's style of placeholders."""
    names = {f"p{number}": "%s" if style == "%s" else f"${number}" for number in (1, 2, 3)}
    return text.format(table=table, **names)


async def bare_psycopg(url: str) -> System:
    """Open psycopg's own pool."""
    pool = AsyncConnectionPool(
        url, min_size=POOL, max_size=POOL, open=False, kwargs={"autocommit": True, "row_factory": dict_row}
    )
    await pool.open(wait=True)
    one, many, insert = (said(text, "acme.rows_row", "%s") for text in (ONE, MANY, INSERT))

    async def fetch_one(key: int) -> Any:
        async with pool.connection() as connection:
            return await (await connection.execute(one, [key])).fetchone()

    async def fetch_all(key: int) -> Any:
        async with pool.connection() as connection:
            return await (await connection.execute(many, [key])).fetchall()

    async def write(key: int) -> Any:
        async with pool.connection() as connection:
            await connection.execute(insert, [key, "new", key])

    async def copy() -> Any:
        async with pool.connection() as connection, connection.cursor() as cursor:
            async with cursor.copy("COPY acme.rows_row (id, text, number) FROM STDIN") as target:
                for record in RECORDS:
                    await target.write_row(record)

    async def sleep(seconds: float) -> Any:
        async with pool.connection() as connection:
            await connection.execute("SELECT pg_sleep(%s)", [seconds])

    return System(fetch_one, fetch_all, write, copy, sleep)


async def bare_asyncpg(url: str) -> System:
    """Open asyncpg's own pool."""
    pool = await importlib.import_module("asyncpg").create_pool(url, min_size=POOL, max_size=POOL)
    one, many, insert = (said(text, "acme.rows_row", "$") for text in (ONE, MANY, INSERT))

    async def fetch_one(key: int) -> Any:
        return dict(await pool.fetchrow(one, key))

    async def fetch_all(key: int) -> Any:
        return [dict(row) for row in await pool.fetch(many, key)]

    async def write(key: int) -> Any:
        await pool.execute(insert, key, "new", key)

    async def copy() -> Any:
        await pool.copy_records_to_table("rows_row", schema_name="acme", columns=COLUMNS, records=RECORDS)

    async def sleep(seconds: float) -> Any:
        await pool.execute("SELECT pg_sleep($1)", seconds)

    return System(fetch_one, fetch_all, write, copy, sleep)


async def pgdbm(url: str) -> System:
    """Open pgdbm on a shared pool, with a schema, as its guide does for tenants."""
    module = importlib.import_module("pgdbm")
    shared = await module.AsyncDatabaseManager.create_shared_pool(
        module.DatabaseConfig(connection_string=url, min_connections=POOL, max_connections=POOL)
    )
    manager = module.AsyncDatabaseManager(pool=shared, schema="acme")
    one, many, insert = (said(text, "{{tables.rows_row}}", "$") for text in (ONE, MANY, INSERT))

    async def fetch_one(key: int) -> Any:
        return await manager.fetch_one(one, key)

    async def fetch_all(key: int) -> Any:
        return await manager.fetch_all(many, key)

    async def write(key: int) -> Any:
        await manager.execute(insert, key, "new", key)

    async def copy() -> Any:
        await manager.copy_records_to_table("rows_row", records=RECORDS, columns=COLUMNS)

    async def sleep(seconds: float) -> Any:
        await manager.execute("SELECT pg_sleep($1)", seconds)

    return System(fetch_one, fetch_all, write, copy, sleep)


async def ours(_: str) -> System:
    """Open the pool of ``pg_tenants.sql``."""
    from pg_tenants import sql

    await (await sql.apool()).wait()
    one, many, insert = (said(text, "{{tables.rows_row}}", "%s") for text in (ONE, MANY, INSERT))

    async def fetch_one(key: int) -> Any:
        return await sql.afetch_one(one, [key])

    async def fetch_all(key: int) -> Any:
        return await sql.afetch_all(many, [key])

    async def write(key: int) -> Any:
        await sql.aexecute(insert, [key, "new", key])

    async def copy() -> Any:
        await sql.acopy_records("rows_row", RECORDS, columns=COLUMNS)

    async def sleep(seconds: float) -> Any:
        await sql.aexecute("SELECT pg_sleep(%s)", [seconds])

    return System(fetch_one, fetch_all, write, copy, sleep)


async def alone(function: Callable[[int], Awaitable[Any]], keys: range) -> None:
    """Run one after the other."""
    for key in keys:
        await function(key)


async def together(function: Callable[[int], Awaitable[Any]], keys: range) -> None:
    """Run all at once."""
    await asyncio.gather(*(function(key) for key in keys))


async def measure(systems: dict[str, System], url: str, rounds: int) -> None:
    """Let the systems take turns, and print a table of ratios to the first."""
    keys = range(1, 101)
    new = range(2_000, 2_100)
    work: dict[str, tuple[int, Callable[[System], Awaitable[Any]]]] = {
        "a row": (100, lambda system: alone(system.fetch_one, keys)),
        "100 rows": (20, lambda system: alone(lambda _: system.fetch_all(100), range(20))),
        "a row, 100 tasks at once": (100, lambda system: together(system.fetch_one, keys)),
        "an insert": (100, lambda system: alone(system.insert, new)),
        "COPY of 10,000 rows": (1, lambda system: system.copy()),
    }
    print("| | " + " | ".join(systems) + " |")
    print("|---" * (len(systems) + 1) + "|")
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as cleaner:
        for name, (count, function) in work.items():
            times: dict[str, list[float]] = {system: [] for system in systems}
            for turn in range(rounds + 1):
                for way, system in systems.items():
                    began = time.perf_counter()
                    await function(system)
                    if turn:
                        times[way].append((time.perf_counter() - began) / count)
                    await cleaner.execute("DELETE FROM acme.rows_row WHERE id > 1000")
            base = next(iter(times.values()))
            cells = [f"{statistics.median(base) * 1e6:,.0f} µs"]
            for way in list(systems)[1:]:
                pairs = zip(times[way], base, strict=True)
                cells.append(f"{statistics.median(mine / first for mine, first in pairs):.2f}")
            print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


async def sleepers(systems: dict[str, System]) -> None:
    """Run two hundred queries of half a second on each pool."""
    for name, system in systems.items():
        began = time.perf_counter()
        await asyncio.gather(*(system.sleep(0.5) for _ in range(200)))
        print(f"200 queries of 0.5 s on {POOL} connections, {name}: {time.perf_counter() - began:.2f} s", flush=True)


async def run(url: str, rounds: int, sleep: bool) -> None:
    """Open all that are installed, and measure."""
    from pg_tenants import schema_context

    async with schema_context("acme"):
        makers = {"psycopg": bare_psycopg, "pg_tenants": ours, "asyncpg": bare_asyncpg, "pgdbm": pgdbm}
        systems: dict[str, System] = {}
        for name, make in makers.items():
            try:
                systems[name] = await make(url)
            except ModuleNotFoundError as exc:
                print(f"{name} is left out: {exc}")
        await (sleepers(systems) if sleep else measure(systems, url, rounds))


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", required=True, help="a server where the schema acme may be made anew")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--sleep", action="store_true", help="run the two hundred queries of half a second")
    options = parser.parse_args()
    where = conninfo.conninfo_to_dict(options.url)
    with psycopg.connect(options.url, autocommit=True) as connection:
        connection.execute(SETUP.format("acme"))
    params = {"NAME": where["dbname"], "USER": where["user"], "PASSWORD": where.get("password", "")}
    params |= {"HOST": where["host"], "PORT": str(where["port"])}
    configure("pg_tenants", params, pool={"min_size": POOL, "max_size": POOL})
    asyncio.run(run(options.url, options.rounds, options.sleep))


if __name__ == "__main__":
    main()
