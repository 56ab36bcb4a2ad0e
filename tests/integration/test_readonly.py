"""Read-only aliases and `readonly()`: PostgreSQL refuses the write, however it is sent."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.db import InternalError, connection, connections, transaction
from django.db.models import F
from psycopg import errors

from example_project.notes.models import Note
from pg_tenants import readonly, sql, tenant_context
from pg_tenants.exceptions import ConfigurationError, UnsafeStatement

REFUSED = "read-only transaction"


def write() -> None:
    Note.objects.update(title="changed")


def titles(tenant: Any) -> list[str]:
    with tenant_context(tenant):
        return list(Note.objects.values_list("title", flat=True))


def test_a_write_is_refused_and_reading_goes_on(acme: Any) -> None:
    """In autocommit, each statement carries it; after the context all is as before."""
    with tenant_context(acme):
        with readonly():
            assert Note.objects.count() == 1
            with pytest.raises(InternalError, match=REFUSED):
                write()
            with pytest.raises(InternalError, match=REFUSED):
                Note.objects.create(title="new", body="", author_id=1)
        write()
    assert titles(acme) == ["changed"]


def _many() -> None:
    with connection.cursor() as cursor:
        cursor.executemany("UPDATE notes_note SET title = %s", [("a",), ("b",)])


def _copy() -> None:
    with connection.cursor() as cursor, cursor.copy("COPY notes_tag (name) FROM STDIN") as copy:
        copy.write_row(("x",))


def _script() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1; UPDATE notes_note SET title = 'x'; SELECT 2")


def _alone() -> None:
    with connection.cursor() as cursor:
        cursor.execute("CREATE INDEX CONCURRENTLY by_body ON notes_note (body)")


def _server_side() -> None:
    with transaction.atomic(), connection.chunked_cursor() as cursor:
        cursor.execute("SELECT nextval('notes_note_id_seq')")
        cursor.fetchall()


@pytest.mark.parametrize("send", [write, _many, _copy, _script, _alone, _server_side])
def test_every_way_of_sending(acme: Any, send: Callable[[], None]) -> None:
    """None gets by, and none leaves the session read-only."""
    with tenant_context(acme):
        with readonly(), pytest.raises((InternalError, errors.ReadOnlySqlTransaction), match=REFUSED):
            send()
        write()
        with connection.cursor() as cursor:
            cursor.execute("SHOW default_transaction_read_only")
            assert cursor.fetchone() == ("off",)


def test_server_side_binding(acme: Any, make_alias: Any) -> None:
    """Where the server binds parameters, it rides in the same pipeline."""
    make_alias("binding", server_side_binding=True)
    with tenant_context(acme), readonly(using="binding"), pytest.raises(InternalError, match=REFUSED):
        Note.objects.using("binding").update(title="x")
    assert titles(acme) == ["note of acme"]


def test_an_open_transaction_goes_on_after_it(acme: Any) -> None:
    """A savepoint holds it: writes before and after are kept, what failed inside is undone."""
    with tenant_context(acme):
        with transaction.atomic():
            Note.objects.update(title="before")
            with readonly():
                assert Note.objects.get().title == "before"
            Note.objects.update(title=F("title"), body="after")
            with pytest.raises(InternalError, match=REFUSED), readonly():
                write()
        note = Note.objects.get()
    assert (note.title, note.body) == ("before", "after")


def test_a_transaction_inside(acme: Any) -> None:
    """It is refused in nested blocks as well, and after a savepoint that was rolled back."""
    with tenant_context(acme), readonly(), transaction.atomic():
        for _ in range(2):
            with pytest.raises(InternalError, match=REFUSED), transaction.atomic():
                write()
        assert Note.objects.count() == 1


def test_nested(acme: Any) -> None:
    """The innermost counts; each goes back to the one around."""
    with tenant_context(acme), readonly():
        with readonly(False):
            write()
            with readonly(), pytest.raises(InternalError, match=REFUSED):
                write()
        with pytest.raises(InternalError, match=REFUSED):
            write()
        with transaction.atomic():
            Note.objects.count()
            with pytest.raises(UnsafeStatement, match="around the transaction"), readonly(False):
                pass
    assert titles(acme) == ["changed"]


def test_an_alias_that_is_read_only(acme: Any, make_alias: Any) -> None:
    """By its setting; `readonly(False)` overrides it, and other aliases are not touched."""
    make_alias("replica", tenants={"readonly": True})
    with tenant_context(acme):
        notes = Note.objects.using("replica")
        assert notes.count() == 1
        with pytest.raises(InternalError, match=REFUSED):
            notes.update(title="x")
        with readonly(False, using="replica"):
            notes.update(title="allowed")
        with pytest.raises(InternalError, match=REFUSED), transaction.atomic(using="replica"):
            notes.update(title="x")
        write()
    assert titles(acme) == ["changed"]


def test_an_alias_with_no_tenants(acme: Any, make_alias: Any, settings: Any) -> None:
    """It does not depend on schemas."""
    alias = make_alias("plain", tenants={"readonly": True})
    del settings.PG_TENANTS
    with alias.cursor() as cursor:
        cursor.execute("SELECT 1")
        with pytest.raises(InternalError, match=REFUSED):
            cursor.execute("CREATE TABLE public.made ()")
    with readonly(), connection.cursor() as cursor, pytest.raises(InternalError, match=REFUSED):
        cursor.execute("CREATE TABLE public.made ()")


def test_as_a_decorator(acme: Any) -> None:
    """Of functions and of coroutine functions."""

    @readonly()
    def change() -> None:
        write()

    @readonly()
    async def achange() -> None:
        await Note.objects.aupdate(title="x")

    with tenant_context(acme):
        with pytest.raises(InternalError, match=REFUSED):
            change()
        with pytest.raises(InternalError, match=REFUSED):
            asyncio.run(achange())
    assert titles(acme) == ["note of acme"]


def test_tasks_have_it_each_for_themselves(acme: Any) -> None:
    """One task's read-only context does not reach another's statements."""

    async def reader(inside: asyncio.Event, written: asyncio.Event) -> None:
        async with readonly():
            inside.set()
            await written.wait()
            with pytest.raises(InternalError, match=REFUSED):
                await Note.objects.aupdate(title="x")

    async def writer(inside: asyncio.Event, written: asyncio.Event) -> None:
        await inside.wait()
        await Note.objects.aupdate(title="by the other task")
        written.set()

    async def both() -> None:
        events = asyncio.Event(), asyncio.Event()
        await asyncio.gather(reader(*events), writer(*events))
        await sync_to_async(connections.close_all)()

    with tenant_context(acme):
        asyncio.run(both())
    assert titles(acme) == ["by the other task"]


def test_behind_a_pooler(acme: Any, through_pgbouncer: Any) -> None:
    """Nothing stays on the server connections, which all clients share."""
    with tenant_context(acme):
        for _ in range(5):
            with readonly(), pytest.raises(InternalError, match=REFUSED):
                write()
            write()
            with readonly(), transaction.atomic(), pytest.raises(InternalError, match=REFUSED), transaction.atomic():
                write()
            with transaction.atomic():
                write()


def test_an_alias_of_another_backend(acme: Any, make_alias: Any) -> None:
    """Nothing there would refuse the write, so it is an error."""
    make_alias("django", engine="django.db.backends.postgresql")
    with (
        pytest.raises(ConfigurationError, match=r"Set it to 'pg_tenants\.backends\.postgresql'"),
        readonly(using="django"),
    ):
        pass


def test_in_an_asynchronous_transaction(acme: Any) -> None:
    """It makes a savepoint there as well: afterwards the transaction writes again."""
    change = "UPDATE {{tables.notes_note}} SET title = %s"

    async def main() -> None:
        async with sql.atransaction():
            await sql.aexecute(change, ["before"])
            async with readonly():
                assert await sql.afetch_value("SELECT title FROM {{tables.notes_note}}") == "before"
                with pytest.raises(InternalError, match=REFUSED):
                    async with sql.atransaction():
                        await sql.aexecute(change, ["inside"])
                with pytest.raises(UnsafeStatement, match="read-only already"):
                    async with readonly(False):
                        pass
            await sql.aexecute(change, ["after"])
            with pytest.raises(UnsafeStatement, match="Write 'async with"), readonly():
                pass
        async with readonly(), sql.atransaction(), readonly():
            with pytest.raises(InternalError, match=REFUSED):
                await sql.aexecute(change, ["never"])
            raise ZeroDivisionError

    with tenant_context(acme):
        with pytest.raises(ZeroDivisionError):
            asyncio.run(main())
    assert titles(acme) == ["after"]
