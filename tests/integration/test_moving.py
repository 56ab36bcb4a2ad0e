"""Transactions that move from one tenant to another."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import connection, transaction

from example_project.notes.models import Note, Tag
from pg_tenants import tenant_context
from tests.fix_wire import Wire

TRIGGER = """
CREATE FUNCTION log_tag() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO notes_tag (name) VALUES ('log of ' || NEW.title || ' in ' || current_schema());
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER log_tag AFTER INSERT ON notes_note DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION log_tag();
"""


@pytest.fixture
def triggers(acme: Any, globex: Any) -> tuple[Any, Any]:
    for tenant in (acme, globex):
        with tenant_context(tenant), connection.cursor() as cursor:
            cursor.execute(TRIGGER)
    return acme, globex


def _write(title: str) -> None:
    Note.objects.create(title=title, body="", author_id=1)


def _tags(tenant: Any) -> list[str]:
    with tenant_context(tenant):
        return sorted(Tag.objects.values_list("name", flat=True))


def test_deferred_triggers_fire_in_the_tenant_that_they_belong_to(triggers: tuple[Any, Any]) -> None:
    """A trigger of acme never writes to globex, whichever came last before COMMIT."""
    acme, globex = triggers
    with transaction.atomic():
        for tenant, title in ((acme, "one"), (globex, "two"), (acme, "three")):
            with tenant_context(tenant):
                _write(title)
    assert _tags(acme) == ["log of one in acme", "log of three in acme"]
    assert _tags(globex) == ["log of two in globex"]


def test_they_wait_for_the_end_of_a_transaction_of_one_tenant(triggers: tuple[Any, Any]) -> None:
    """In one tenant nothing fires early."""
    acme, _ = triggers
    with tenant_context(acme), transaction.atomic():
        _write("one")
        _write("two")
        assert Tag.objects.count() == 0
    assert len(_tags(acme)) == 2


def test_they_survive_a_rollback_to_a_savepoint(triggers: tuple[Any, Any]) -> None:
    """What was fired in a savepoint that is rolled back waits again, for its own tenant."""
    acme, globex = triggers
    with transaction.atomic():
        with tenant_context(acme):
            _write("one")
        with pytest.raises(ZeroDivisionError), transaction.atomic(), tenant_context(globex):
            _write("lost")
            raise ZeroDivisionError
        with tenant_context(globex):
            _write("two")
    assert _tags(acme) == ["log of one in acme"]
    assert _tags(globex) == ["log of two in globex"]


def test_they_survive_a_transaction_of_psycopgs(triggers: tuple[Any, Any]) -> None:
    """Its ROLLBACK TO goes through no cursor, and takes the path back all the same."""
    acme, globex = triggers
    with transaction.atomic():
        with tenant_context(acme):
            _write("one")
        with pytest.raises(ZeroDivisionError), connection.connection.transaction(), tenant_context(globex):
            _write("lost")
            raise ZeroDivisionError
        with tenant_context(globex):
            _write("two")
        with connection.connection.transaction(force_rollback=True), tenant_context(acme):
            _write("lost, too")
        with tenant_context(globex), connection.connection.transaction():
            _write("three")
    assert _tags(acme) == ["log of one in acme"]
    assert _tags(globex) == ["log of three in globex", "log of two in globex"]


def test_reading_by_a_server_cursor_is_no_move(triggers: tuple[Any, Any]) -> None:
    """Psycopg's FETCH and CLOSE, which go the same way, fire nothing early."""
    acme, _ = triggers
    with tenant_context(acme), transaction.atomic():
        _write("one")
        assert len(list(Note.objects.iterator(chunk_size=1))) == 2
        assert Tag.objects.count() == 0
    assert len(_tags(acme)) == 1


def test_without_a_tenant_they_fire_before(triggers: tuple[Any, Any]) -> None:
    """A statement without a tenant is a move, too."""
    acme, _ = triggers
    with transaction.atomic():
        with tenant_context(acme):
            _write("one")
        type(acme).objects.count()
    assert _tags(acme) == ["log of one in acme"]


def test_foreign_keys_stay_deferred(acme: Any, globex: Any) -> None:
    """PostgreSQL's own deferred checks wait for COMMIT, though the transaction moves."""
    with transaction.atomic():
        with tenant_context(acme):
            note = Note.objects.create(title="early", body="", author_id=77)
        with tenant_context(globex):
            assert Note.objects.count() == 1
        with tenant_context(acme):
            Note.objects.filter(pk=note.pk).update(author_id=1)


def test_moving_takes_no_round_trip(wire: Wire, acme: Any, globex: Any) -> None:
    """Firing rides in the message of the next statement."""
    Note.objects.none()
    connection.ensure_connection()
    with transaction.atomic():
        with tenant_context(acme):
            _write("one")
        wire.reset()
        with tenant_context(globex):
            Note.objects.count()
        assert wire.round_trips == 1


def test_rows_of_an_open_cursor_are_made_in_its_own_tenant(acme: Any, globex: Any) -> None:
    """Functions in a server-side cursor's query read the tenant it was declared in, after the context has changed."""
    for tenant in (acme, globex):
        with tenant_context(tenant), connection.cursor() as cursor:
            cursor.execute(
                "CREATE FUNCTION titles() RETURNS text LANGUAGE plpgsql VOLATILE AS "
                "$$ BEGIN RETURN (SELECT min(title) FROM notes_note); END $$"
            )
    with transaction.atomic():
        with tenant_context(acme):
            rows = connection.chunked_cursor()
            rows.execute("SELECT titles() FROM generate_series(1, 100)")
            first = rows.fetchmany(10)
        with tenant_context(globex):
            assert Note.objects.get().title == "note of globex"
            rest = rows.fetchmany(90)
            assert Note.objects.get().title == "note of globex"
        rows.close()
    assert set(first + rest) == {("note of acme",)}


def test_executemany_and_copy_move_too(triggers: tuple[Any, Any]) -> None:
    """Every way of sending fires what waits before it moves."""
    acme, globex = triggers
    with transaction.atomic():
        with tenant_context(acme):
            _write("one")
        with tenant_context(globex), connection.cursor() as cursor:
            cursor.executemany("INSERT INTO notes_tag (name) VALUES (%s)", [["x"], ["y"]])
        with tenant_context(acme):
            _write("two")
        with tenant_context(globex), connection.cursor() as cursor:
            with cursor.copy("COPY notes_tag (name) FROM STDIN") as copy:
                copy.write_row(["z"])
    assert _tags(acme) == ["log of one in acme", "log of two in acme"]
    assert _tags(globex) == ["x", "y", "z"]
