"""Statements run while their schema is dropped, renamed, or closed to the role: their own data or an error.

A table of the same name in ``public`` is the bait. ``PG_TENANTS_TRIES`` sets how many statements are tried at each;
``PG_TENANTS_PAUSE`` how many seconds another program keeps a schema renamed or closed. One that is away for less time
than a statement takes is the known gap of docs/explanation/mechanism.md.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from django.db import DatabaseError, connections, transaction

from pg_tenants import schema_context, schemas
from pg_tenants.exceptions import SchemaDoesNotExist, SchemaNotPermitted

TRIES = int(os.environ.get("PG_TENANTS_TRIES", "1500"))
PAUSE = float(os.environ.get("PG_TENANTS_PAUSE", "0.001"))
READ = "SELECT owner FROM victim_row"


def _make() -> None:
    with transaction.atomic():
        schemas.create("victim")
        with schema_context("victim"), connections["default"].cursor() as cursor:
            cursor.execute("CREATE TABLE victim_row AS SELECT 'victim' AS owner")
            cursor.execute("GRANT USAGE ON SCHEMA victim TO reader")
            cursor.execute("GRANT SELECT ON ALL TABLES IN SCHEMA victim TO reader")


@pytest.fixture
def victim(open_db: None, raw: Any) -> Iterator[None]:
    """Give a schema with a row that says so, a bait in ``public``, and a role that may read both."""
    raw.execute("CREATE TABLE public.victim_row AS SELECT 'public' AS owner")
    with contextlib.suppress(psycopg.errors.DuplicateObject):
        raw.execute("CREATE ROLE reader LOGIN PASSWORD 'reader'")
    raw.execute("GRANT SELECT ON public.victim_row TO reader")
    _make()
    yield
    schemas.drop("victim", if_exists=True)
    schemas.drop("elsewhere", if_exists=True)
    raw.execute("DROP TABLE public.victim_row")


def dropped(raw: Any) -> None:
    schemas.drop("victim")
    _make()


def dropped_by_others(raw: Any) -> None:
    raw.execute("DROP SCHEMA victim CASCADE")
    _make()


def renamed(raw: Any) -> None:
    schemas.rename("victim", "elsewhere")
    schemas.rename("elsewhere", "victim")


def renamed_by_others(raw: Any) -> None:
    raw.execute("ALTER SCHEMA victim RENAME TO elsewhere")
    time.sleep(PAUSE)
    raw.execute("ALTER SCHEMA elsewhere RENAME TO victim")


def closed(raw: Any) -> None:
    raw.execute("REVOKE USAGE ON SCHEMA victim FROM reader")
    time.sleep(PAUSE)
    raw.execute("GRANT USAGE ON SCHEMA victim TO reader")


def autocommit(cursor: Any) -> list[tuple[str]]:
    cursor.execute(READ)
    return cursor.fetchall()


def in_transaction(cursor: Any) -> list[tuple[str]]:
    with transaction.atomic(using="reader"):
        cursor.execute(READ)
        return cursor.fetchall()


def bound(cursor: Any) -> list[tuple[str]]:
    cursor.execute(READ + " WHERE owner <> %s", ["x"])
    return cursor.fetchall()


def many(cursor: Any) -> list[tuple[str]]:
    cursor.executemany(READ + " WHERE owner <> %s", [["x"], ["y"]])
    return [("victim",)]


@pytest.mark.parametrize("way", [autocommit, in_transaction, bound], ids=lambda way: way.__name__)
@pytest.mark.parametrize(
    "change", [dropped, dropped_by_others, renamed, renamed_by_others, closed], ids=lambda change: change.__name__
)
def test_own_data_or_an_error(
    victim: None,
    make_alias: Any,
    server_params: dict[str, Any],
    raw: Any,
    change: Callable[[Any], None],
    way: Callable[[Any], list[tuple[str]]],
) -> None:
    """Never the bait's row, whatever happens to the schema between the prefix and the statement."""
    params = {**server_params, "user": "reader", "password": "reader"}
    make_alias("reader", params=params, server_side_binding=way is bound)
    seen: Counter[str] = Counter()
    done = threading.Event()

    def read() -> None:
        try:
            for _ in range(TRIES // 3):
                try:
                    with schema_context("victim"), connections["reader"].cursor() as cursor:
                        seen.update(owner for (owner,) in way(cursor))
                except (SchemaDoesNotExist, SchemaNotPermitted):
                    seen["error"] += 1
                except DatabaseError as exc:
                    seen[f"{type(exc.__cause__).__name__}"] += 1
        finally:
            connections.close_all()

    def work() -> None:
        try:
            while not done.is_set():
                change(raw)
        finally:
            connections.close_all()

    readers = [threading.Thread(target=read) for _ in range(3)]
    worker = threading.Thread(target=work)
    for thread in [*readers, worker]:
        thread.start()
    for thread in readers:
        thread.join()
    done.set()
    worker.join()
    print(change.__name__, way.__name__, dict(seen))
    assert seen["public"] == 0
    assert sum(seen.values()) == TRIES // 3 * 3
    assert set(seen) <= {"public", "victim", "error", "UndefinedTable", "InsufficientPrivilege", "DeadlockDetected"}
