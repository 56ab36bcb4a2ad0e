"""The three timeouts of an alias cut real statements, behind a pooler as well."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from django.db import DatabaseError, OperationalError, connections, transaction

from pg_tenants import sql, tenant_context
from tests.fix_alias import default_alias

LIMITS = {"statement_timeout_ms": 300, "lock_timeout_ms": 200, "idle_in_transaction_session_timeout_ms": 300}


@pytest.fixture(params=["direct", "pooler"])
def limited(request: pytest.FixtureRequest, acme: Any, make_alias: Any, server_params: dict[str, Any]) -> Any:
    """Return an alias with all three, straight to the server or through PgBouncer."""
    params = server_params
    if request.param == "pooler":
        params = request.getfixturevalue("pgbouncer_factory")().params
    return make_alias("limited", params=params, tenants=dict(LIMITS))


def run(alias: Any, sql: str, params: Any = None) -> Any:
    with alias.cursor() as cursor:
        cursor.execute(sql, params)
        return cursor.fetchone() if cursor.description else None


def test_a_statement_that_takes_too_long(acme: Any, limited: Any) -> None:
    """In autocommit and in a transaction; shorter ones go through."""
    with tenant_context(acme):
        for block in (False, True):
            started = time.monotonic()
            with pytest.raises(OperationalError, match="statement timeout"):
                if block:
                    with transaction.atomic(using="limited"):
                        run(limited, "SELECT 1")
                        run(limited, "SELECT pg_sleep(5)")
                else:
                    run(limited, "SELECT pg_sleep(5)")
            assert time.monotonic() - started < 3
        assert run(limited, "SELECT pg_sleep(0.01) IS NULL") == (False,)


def test_they_stay_after_a_transaction_of_psycopgs(acme: Any, limited: Any) -> None:
    """One that is rolled back takes them back, and the next statement brings them again."""
    with tenant_context(acme), transaction.atomic(using="limited"):
        for _ in range(2):
            with limited.connection.transaction(force_rollback=True):
                inside = run(limited, "SHOW statement_timeout")
            assert run(limited, "SHOW statement_timeout") == inside
        assert inside != ("0",)


def test_each_statement_has_the_whole_time(acme: Any, limited: Any) -> None:
    """The prefix and the statements of a script do not share it."""
    with tenant_context(acme):
        run(limited, "SELECT pg_sleep(0.2); SELECT pg_sleep(0.2); SELECT pg_sleep(0.2)")


def test_a_lock_that_is_waited_for_too_long(acme: Any, limited: Any, raw: Any) -> None:
    """PostgreSQL says that it was the lock."""
    from pg_tenants.schemas import tenant_connection

    name = tenant_connection().physical_schema("acme")
    with raw.transaction():
        raw.execute(f'LOCK TABLE "{name}".notes_note IN ACCESS EXCLUSIVE MODE')
        with tenant_context(acme), pytest.raises(OperationalError, match="lock timeout"):
            run(limited, "SELECT count(*) FROM notes_note")


def test_an_idle_transaction(acme: Any, limited: Any) -> None:
    """The server ends the session that waits inside a transaction."""
    with tenant_context(acme), pytest.raises(DatabaseError), transaction.atomic(using="limited"):
        run(limited, "SELECT 1")
        time.sleep(0.8)
        run(limited, "SELECT 1")
    limited.close()


def test_a_users_own_setting_counts_inside_a_transaction(acme: Any, limited: Any) -> None:
    """What is set in a transaction is not taken back by the next statement."""
    with tenant_context(acme), transaction.atomic(using="limited"):
        run(limited, "SET LOCAL statement_timeout = '5s'")
        run(limited, "SELECT pg_sleep(0.5)")


def test_after_a_savepoint(acme: Any, limited: Any) -> None:
    """Going back to a savepoint that was the transaction's first statement does not lose the limits."""
    with tenant_context(acme), pytest.raises(OperationalError, match="statement timeout"):
        with transaction.atomic(using="limited"):
            with pytest.raises(ZeroDivisionError), transaction.atomic(using="limited"):
                run(limited, "SELECT 1")
                raise ZeroDivisionError
            run(limited, "SELECT pg_sleep(5)")


def test_in_asynchronous_transactions(acme: Any, limited: Any) -> None:
    """From the first statement of each on, after other statements on the connection and after a savepoint."""

    async def too_long(*, undone: bool) -> None:
        async with sql.atransaction("limited"):
            with pytest.raises(ZeroDivisionError):
                async with sql.atransaction("limited"):
                    if undone:
                        await sql.aexecute("SELECT 1", using="limited")
                    raise ZeroDivisionError
            await sql.aexecute("SELECT pg_sleep(5)", using="limited")

    async def main() -> None:
        await sql.aexecute("SELECT 1", using="limited")
        for undone in (False, True):
            with pytest.raises(OperationalError, match="statement timeout"):
                await too_long(undone=undone)

    with tenant_context(acme):
        asyncio.run(main())


@pytest.mark.parametrize("binding", [False, True])
def test_with_server_side_binding(acme: Any, make_alias: Any, binding: bool) -> None:
    """Where the server binds parameters as well."""
    alias = make_alias("limited", server_side_binding=binding, tenants=dict(LIMITS))
    with tenant_context(acme):
        with pytest.raises(OperationalError, match="statement timeout"):
            run(alias, "SELECT pg_sleep(%s)", [5])
        with pytest.raises(OperationalError, match="statement timeout"):
            run(alias, "DO $$ BEGIN PERFORM pg_sleep(5); END $$")
        assert run(alias, "SELECT 1") == (1,)


def test_nothing_stays_on_the_session(acme: Any, make_alias: Any) -> None:
    """Not even after a statement that had to be sent alone."""
    alias = make_alias("limited", tenants={"statement_timeout_ms": 54321})
    with tenant_context(acme):
        run(alias, "SELECT 1")
        run(alias, "VACUUM notes_note")
    with alias.connection.cursor() as bare:
        assert bare.execute("SHOW statement_timeout").fetchone() == ("0",)


@pytest.fixture
def counted(acme: Any, wire: Any, server_params: dict[str, Any]) -> Iterator[Any]:
    with default_alias(server_params, wire.port, sslmode="disable", gssencmode="disable", tenants=dict(LIMITS)):
        yield wire


def test_they_cost_no_round_trip(acme: Any, counted: Any) -> None:
    """They ride in the statement's own message."""
    with tenant_context(acme):
        run(connections["default"], "SELECT 1")
        counted.reset()
        run(connections["default"], "SELECT 1")
        assert counted.round_trips == 1


def test_an_alias_without_tenants(make_alias: Any, settings: Any) -> None:
    """They do not depend on schemas."""
    alias = make_alias("limited", tenants=dict(LIMITS))
    del settings.PG_TENANTS
    with pytest.raises(OperationalError, match="statement timeout"):
        run(alias, "SELECT pg_sleep(5)")


def test_psycopgs_own_cursors_are_left_alone(make_alias: Any) -> None:
    """What Django did not make is not ours."""
    alias = make_alias("limited", tenants=dict(LIMITS))
    alias.ensure_connection()
    bare = psycopg.Cursor(alias.connection)
    assert bare.execute("SHOW statement_timeout").fetchone() == ("0",)
