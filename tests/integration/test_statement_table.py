"""The table of docs/reference/statements.md is true."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.db import connection, transaction

from example_project.notes.models import Note, Tag
from pg_tenants import tenant_context
from tests.fix_wire import Wire

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "statements.md"
ROWS = {
    match.group(1): int(match.group(2))
    for match in re.finditer(r"^\| (.+?) \| (\d+) \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
}
QUERY = "SELECT title FROM notes_note WHERE title <> %s"


def execute(sql: str, params: list[Any] | None = None) -> Callable[[], None]:
    def send() -> None:
        with connection.cursor() as cursor:
            cursor.execute(sql, params)

    return send


def executemany() -> None:
    with connection.cursor() as cursor:
        cursor.executemany("INSERT INTO notes_tag (name) VALUES (%s)", [["x"], ["y"], ["z"]])


def callproc() -> None:
    with connection.cursor() as cursor:
        cursor.callproc("lower", ["X"])
        assert cursor.fetchone() == ("x",)


def copy_out() -> None:
    with connection.cursor() as cursor, cursor.copy("COPY notes_note (title) TO STDOUT") as copy:
        assert b"".join(bytes(part) for part in copy) == b"note of acme\n"


def copy_in() -> None:
    with connection.cursor() as cursor, cursor.copy("COPY notes_tag (name) FROM STDIN") as copy:
        copy.write_row(["x"])


def stream() -> None:
    with connection.cursor() as cursor:
        assert list(cursor.cursor.stream(QUERY, ["x"])) == [("note of acme",)]


def iterate() -> None:
    assert [note.title for note in Note.objects.iterator()] == ["note of acme"]


WAYS: dict[str, Callable[[], None]] = {
    "`execute`": execute(QUERY, ["x"]),
    "`execute` of a script": execute("SELECT 1; SELECT title FROM notes_note"),
    "`callproc`": callproc,
    "`execute` with `server_side_binding`": execute(QUERY, ["x"]),
    "`execute` prepared": execute(QUERY, ["x"]),
    "`executemany`": executemany,
    "`copy` out": copy_out,
    "`copy` in": copy_in,
    "`stream`": stream,
    "`iterator()` in autocommit": iterate,
    "`iterator()` in a transaction": iterate,
    "`VACUUM` and others that must be alone": execute("VACUUM notes_note"),
    "`SAVEPOINT`, `ROLLBACK`, `COMMIT` and the like": execute("SAVEPOINT a"),
    "`LISTEN`, `NOTIFY`": execute("NOTIFY news, 'x'"),
    "a query in another tenant, later in the transaction": execute(QUERY, ["x"]),
}


def test_every_row_is_tried() -> None:
    """No row of the table is without its trial, and none is invented here."""
    assert list(ROWS) == list(WAYS)


@pytest.mark.parametrize("way", WAYS)
def test_round_trips_are_as_the_table_says(wire: Wire, acme: Any, globex: Any, way: str) -> None:
    """Counted on the wire."""
    if "server_side_binding" in way or "prepared" in way:
        connection.settings_dict["OPTIONS"]["server_side_binding"] = True
    if "prepared" in way:
        connection.settings_dict["OPTIONS"]["prepare_threshold"] = 0
    connection.close()
    in_transaction = "transaction" in way or "SAVEPOINT" in way
    with tenant_context(acme):
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
            cursor.execute(QUERY, ["x"])
        connection.is_pooled()
        if not in_transaction:
            wire.reset()
            WAYS[way]()
            assert wire.round_trips == ROWS[way]
            return
        with transaction.atomic():
            Tag.objects.create(name="written")
            with tenant_context(globex if "another tenant" in way else acme):
                wire.reset()
                WAYS[way]()
                assert wire.round_trips == ROWS[way]


def test_iterator_takes_as_many_round_trips_as_djangos(
    wire: Wire, make_alias: Any, server_params: Any, acme: Any
) -> None:
    """The five are Django's own."""
    params = {**server_params, "port": wire.port}
    make_alias(
        "plain",
        params=params,
        engine="django.db.backends.postgresql",
        options="-c search_path=acme,public",
        sslmode="disable",
        gssencmode="disable",
    )
    assert Note.objects.using("plain").count() == 1
    wire.reset()
    assert len(list(Note.objects.using("plain").iterator())) == 1
    assert wire.round_trips == ROWS["`iterator()` in autocommit"]


def test_listen_hears_what_was_notified(acme: Any, raw: Any) -> None:
    """Channels belong to the database."""
    with tenant_context(acme), connection.cursor() as cursor:
        cursor.execute("LISTEN news")
        raw.execute("NOTIFY news, 'hello'")
        assert [n.payload for n in connection.connection.notifies(timeout=5, stop_after=1)] == ["hello"]
        cursor.execute("UNLISTEN news")
