"""The leak storm: everything that may go wrong at once, and no row read or written in a wrong tenant.

The short form runs with the tests. The long one:
``PG_TENANTS_STORM=1000000 pytest tests/integration/test_storm.py -s``.
A table of the same name in ``public`` is the bait: whoever loses its tenant reads or writes there.
"""

from __future__ import annotations

import asyncio
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.db import DatabaseError, connections, transaction
from django.db.utils import NotSupportedError

from pg_tenants import schema_context, schemas
from pg_tenants.exceptions import SchemaDoesNotExist

STATEMENTS = int(os.environ.get("PG_TENANTS_STORM", "12000"))
TENANTS = 6
TABLE = "CREATE TABLE storm_row (id bigserial PRIMARY KEY, owner text NOT NULL, CHECK (owner <> 'forbidden'))"


class Storm:
    """What the workers share: the tenants, the counts, and what went wrong."""

    def __init__(self, total: int):
        self.left = total
        self.sent = 0
        self.leaks: list[str] = []
        self.unexpected: list[str] = []
        self.expected: Counter[str] = Counter()
        self.lock = threading.Lock()

    def take(self, count: int) -> bool:
        with self.lock:
            self.left -= count
            self.sent += count
            return self.left > 0 and not self.leaks and not self.unexpected


def make(name: str) -> None:
    with transaction.atomic():
        schemas.create(name)
        with schema_context(name), connections["default"].cursor() as cursor:
            cursor.execute(TABLE)
            cursor.execute("INSERT INTO storm_row (owner) VALUES (%s), (%s)", [name, name])


class Worker:
    """Runs one operation after the other on one alias, each in a random tenant."""

    def __init__(self, storm: Storm, alias: str, seed: int):
        self.storm, self.alias = storm, alias
        self.random = random.Random(seed)
        self.operations: list[Callable[[str], int]] = [
            self.read, self.read, self.read, self.write, self.write, self.where, self.failing, self.savepoints,
            self.two_tenants, self.many, self.copy, self.stream, self.iterate, self.raw_transaction, self.noise,
            self.script,
        ]  # fmt: skip

    def cursor(self) -> Any:
        return connections[self.alias].cursor()

    def schema(self) -> str:
        return f"storm_{self.random.randrange(TENANTS)}"

    def check(self, name: str, owners: Any, what: str) -> None:
        wrong = {owner for owner in owners if owner != name}
        if wrong:
            self.storm.leaks.append(f"{what} in {name} on {self.alias} saw {wrong}")

    def run(self) -> None:
        try:
            while self.step():
                if self.random.random() < 0.02:
                    connections[self.alias].close()
        finally:
            connections.close_all()

    def step(self) -> bool:
        name, operation = self.schema(), self.random.choice(self.operations)
        count = 1
        try:
            with schema_context(name):
                count = operation(name)
        except SchemaDoesNotExist:
            self.storm.expected["schema dropped"] += 1
        except NotSupportedError:
            self.storm.expected["refused behind the pooler"] += 1
        except (psycopg.errors.InvalidSchemaName, psycopg.errors.UndefinedTable) as exc:
            # stream() and copy() are psycopg's own, past Django's translation.
            assert getattr(exc, "tenant_schema", None) is not None
            self.storm.expected["schema dropped"] += 1
        except psycopg.errors.DeadlockDetected:
            self.storm.expected["deadlock"] += 1
        except DatabaseError as exc:
            if isinstance(exc.__cause__, psycopg.errors.DeadlockDetected):
                self.storm.expected["deadlock with a drop"] += 1
            else:
                self.storm.unexpected.append(f"{operation.__name__} on {self.alias}: {type(exc).__name__}: {exc}")
        except Exception as exc:  # noqa: BLE001  # whatever it is, the storm reports it
            self.storm.unexpected.append(f"{operation.__name__} on {self.alias}: {type(exc).__name__}: {exc}")
        connection = connections[self.alias]
        # A raw transaction that an error has cut short.
        if not connection.in_atomic_block and connection.connection is not None and not connection.connection.closed:
            if connection.connection.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
                connection.connection.rollback()
        return self.storm.take(count)

    # -- the operations: each returns how many statements it sent --------------------------------------------

    def read(self, name: str) -> int:
        with self.cursor() as cursor:
            cursor.execute("SELECT owner FROM storm_row LIMIT 20")
            self.check(name, [owner for (owner,) in cursor.fetchall()], "read")
        return 1

    def where(self, name: str) -> int:
        with self.cursor() as cursor:
            cursor.execute("SELECT current_schema(), %s", ["x; COMMIT; y"])
            self.check(name, [cursor.fetchone()[0]], "current_schema")
        return 1

    def write(self, name: str) -> int:
        with self.cursor() as cursor:
            cursor.execute("INSERT INTO storm_row (owner) VALUES (%s)", [name])
            cursor.execute("DELETE FROM storm_row WHERE id IN (SELECT min(id) FROM storm_row HAVING count(*) > 50)")
        return 2

    def failing(self, name: str) -> int:
        with self.cursor() as cursor:
            try:
                cursor.execute("INSERT INTO storm_row (owner) VALUES ('forbidden')")
            except SchemaDoesNotExist:
                raise
            except DatabaseError:
                self.storm.expected["constraint"] += 1
        return 1 + self.read(name)

    def savepoints(self, name: str) -> int:
        with transaction.atomic(using=self.alias):
            self.read(name)
            try:
                with transaction.atomic(using=self.alias), self.cursor() as cursor:
                    cursor.execute("INSERT INTO storm_row (owner) VALUES ('lost')")
                    cursor.execute("SELECT 1 / 0")
            except SchemaDoesNotExist:
                raise
            except DatabaseError:
                self.storm.expected["division"] += 1
            self.read(name)
        return 8

    def two_tenants(self, name: str) -> int:
        other = self.schema()
        with transaction.atomic(using=self.alias):
            self.write(name)
            with schema_context(other):
                self.read(other)
                self.write(other)
            self.read(name)
        return 8

    def many(self, name: str) -> int:
        with self.cursor() as cursor:
            cursor.executemany("INSERT INTO storm_row (owner) VALUES (%s)", [[name]] * 3)
            cursor.execute("DELETE FROM storm_row WHERE id IN (SELECT id FROM storm_row ORDER BY id OFFSET 40)")
        return 4

    def copy(self, name: str) -> int:
        with self.cursor() as cursor:
            with cursor.copy("COPY storm_row (owner) FROM STDIN") as copy:
                copy.write_row([name])
            with cursor.copy("COPY (SELECT owner FROM storm_row LIMIT 30) TO STDOUT") as copy:
                self.check(name, b"".join(bytes(part) for part in copy).decode().split(), "copy")
        return 2

    def stream(self, name: str) -> int:
        with self.cursor() as cursor:
            rows = cursor.cursor.stream("SELECT owner FROM storm_row WHERE owner <> %s LIMIT 20", ["x"])
            self.check(name, [owner for (owner,) in rows], "stream")
        return 1

    def iterate(self, name: str) -> int:
        other = self.schema()
        with connections[self.alias].chunked_cursor() as cursor:
            cursor.execute("SELECT owner FROM storm_row")
            first = cursor.fetchmany(2)
            with schema_context(other):
                try:
                    self.read(other)
                except SchemaDoesNotExist:
                    self.storm.expected["schema dropped"] += 1
                self.check(name, [owner for (owner,) in [*first, *cursor.fetchall()]], "iterator")
        return 5

    def raw_transaction(self, name: str) -> int:
        other = self.schema()
        with self.cursor() as cursor:
            cursor.execute("BEGIN")
            self.read(name)
            cursor.execute("SET LOCAL search_path = public")
            with schema_context(other):
                self.read(other)
            self.read(name)
            cursor.execute(self.random.choice(["ROLLBACK", "COMMIT", "END", "ABORT"]))
        return 6 + self.read(name)

    def noise(self, name: str) -> int:
        with self.cursor() as cursor:
            cursor.execute(
                self.random.choice(
                    ["SET search_path = public", "RESET ALL", "DISCARD ALL", "RESET search_path", "ROLLBACK"]
                )
            )
        return 1 + self.read(name)

    def script(self, name: str) -> int:
        with self.cursor() as cursor:
            cursor.execute("SELECT 1; SELECT ';'; SELECT owner FROM storm_row LIMIT 5")
            cursor.nextset()
            cursor.nextset()
            self.check(name, [owner for (owner,) in cursor.fetchall()], "script")
        return 3


async def tasks(storm: Storm, alias: str, seed: int) -> None:
    """Many asyncio tasks that enter and leave tenants around each other, through threads of both kinds."""

    async def task(number: int) -> None:
        worker = Worker(storm, alias, seed * 100 + number)
        going = True
        while going:
            name = worker.schema()
            async with schema_context(name):
                await asyncio.sleep(0)
                sensitive = worker.random.random() < 0.5
                going = await sync_to_async(worker_read, thread_sensitive=sensitive)(worker, name)
                if worker.random.random() < 0.1:
                    going = await sync_to_async(there_and_back)(worker, name)

    await asyncio.gather(*(task(number) for number in range(6)))


def worker_read(worker: Worker, name: str) -> bool:
    """Read in the tenant that the task entered; the context came along."""
    try:
        worker.read(name)
    except SchemaDoesNotExist:
        worker.storm.expected["schema dropped"] += 1
    except DatabaseError as exc:
        worker.storm.unexpected.append(f"async read: {exc}")
    finally:
        connections[worker.alias].close()
    return worker.storm.take(1)


def there_and_back(worker: Worker, name: str) -> bool:
    """Into async code and back to a thread."""

    @async_to_sync
    async def inside() -> bool:
        return await sync_to_async(worker_read)(worker, name)

    return inside()


@pytest.fixture
def storm_aliases(make_alias: Any, pgbouncer_factory: Any) -> Iterator[list[str]]:
    """Give a direct alias, a pooled one, one whose parameters the server binds, and one through PgBouncer."""
    make_alias("direct")
    make_alias("pooled", pool={"min_size": 1, "max_size": 3, "timeout": 60})
    make_alias("bound", server_side_binding=True, prepare_threshold=2)
    bouncer = pgbouncer_factory(pool_size=2)
    make_alias("bouncer", params=bouncer.params)
    make_alias("bouncer_bound", params=bouncer.params, server_side_binding=True)
    with connections["default"].cursor() as cursor:
        cursor.execute(TABLE)
        cursor.execute("INSERT INTO storm_row (owner) SELECT 'public' FROM generate_series(1, 3)")
    for number in range(TENANTS):
        make(f"storm_{number}")
    yield ["direct", "pooled", "bound", "bouncer", "bouncer_bound"]
    with connections["default"].cursor() as cursor:
        cursor.execute("DROP TABLE storm_row")
    for number in range(TENANTS):
        schemas.drop(f"storm_{number}", if_exists=True)


def remake(storm: Storm, stop: threading.Event) -> None:
    """Drop tenants and make them anew."""
    number = 0
    try:
        while not stop.wait(0.05):
            name, number = f"storm_{number % TENANTS}", number + 1
            try:
                schemas.drop(name)
                if number % 2:
                    time.sleep(0.01)
                make(name)
                storm.expected["remade"] += 1
            except DatabaseError as exc:
                if not isinstance(exc.__cause__, psycopg.errors.DeadlockDetected):
                    storm.unexpected.append(f"remake: {exc}")
                elif not schemas.exists(name):
                    make(name)
    finally:
        connections.close_all()


def test_no_statement_runs_in_a_wrong_tenant(storm_aliases: list[str], server_params: dict[str, Any]) -> None:
    """Threads, tasks, pools, PgBouncer, raw SQL, errors, dropped tenants: no row in a wrong place, no path left."""
    storm = Storm(STATEMENTS)
    threads = [
        threading.Thread(target=Worker(storm, alias, seed).run, name=f"{alias} {seed}")
        for seed, alias in enumerate(storm_aliases * 2)
    ]
    threads.append(threading.Thread(target=lambda: asyncio.run(tasks(storm, "direct", 77))))
    stop = threading.Event()
    remaking = threading.Thread(target=remake, args=(storm, stop))
    began = time.monotonic()
    for thread in [*threads, remaking]:
        thread.start()
    for thread in threads:
        thread.join()
    stop.set()
    remaking.join()
    print(f"{storm.sent} statements in {time.monotonic() - began:.0f} s; expected errors: {dict(storm.expected)}")
    assert storm.leaks == []
    assert storm.unexpected == []
    with psycopg.connect(**server_params, autocommit=True) as raw:
        for name in ["public", *(f"storm_{number}" for number in range(TENANTS))]:
            rows = raw.execute(f"SELECT DISTINCT owner FROM {name}.storm_row").fetchall()
            assert rows == [(name,)]
        assert raw.execute("SELECT count(*) FROM public.storm_row").fetchone() == (3,)
        locks = raw.execute(
            "SELECT count(*) FROM pg_locks JOIN pg_database d ON d.oid = database AND datname = current_database() "
            "WHERE locktype = 'advisory'"
        ).fetchone()
        assert locks == (0,)
    for alias in storm_aliases:
        for _ in range(6):
            connections[alias].ensure_connection()
            with connections[alias].connection.cursor() as bare:
                path = bare.execute("SHOW search_path").fetchone()[0]
                assert "storm" not in path
                bare.connection.rollback()
            connections[alias].close()
