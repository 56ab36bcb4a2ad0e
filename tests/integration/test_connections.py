"""The ways of sending on all kinds of connections: parameters bound by the server, prepared, pooled, PgBouncer."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from django.db import connection, connections, transaction
from django.db.utils import InternalError, NotSupportedError, ProgrammingError
from django.test import override_settings

from example_project.notes.models import Note, Tag
from pg_tenants import current_schema, schema_context, schemas, tenant_context
from pg_tenants.exceptions import SchemaDoesNotExist
from tests.fix_wire import Wire

TITLES = "SELECT title FROM notes_note WHERE title <> %s"


@pytest.mark.parametrize("options", [{}, {"prepare_threshold": 0}, {"prepare_threshold": 1}], ids=str)
@pytest.mark.parametrize("atomic", [False, True])
def test_parameters_bound_by_the_server(
    make_alias: Any, acme: Any, globex: Any, options: dict[str, Any], atomic: bool
) -> None:
    """With server_side_binding and prepared statements, each tenant reads and writes its own rows."""
    bound = make_alias("bound", server_side_binding=True, **options)
    for _ in range(4):
        for tenant in (acme, globex):
            with tenant_context(tenant), bound.cursor() as cursor:
                if atomic:
                    with transaction.atomic(using="bound"):
                        cursor.execute(TITLES, ["x"])
                else:
                    cursor.execute(TITLES, ["x"])
                assert cursor.fetchall() == [(f"note of {tenant.schema_name}",)]
                assert [n.title for n in Note.objects.using("bound").filter(title__startswith="note").iterator()] == [
                    f"note of {tenant.schema_name}"
                ]
                cursor.executemany("INSERT INTO notes_tag (name) VALUES (%s)", [[f"a{_}"], [f"b{_}"]])
    for tenant in (acme, globex):
        with tenant_context(tenant):
            assert Tag.objects.count() == 8


def test_bound_parameters_take_one_round_trip(wire: Wire, make_alias: Any, acme: Any) -> None:
    """Prefix and statement share a pipeline."""
    connection.settings_dict["OPTIONS"]["server_side_binding"] = True
    with tenant_context(acme), connection.cursor() as cursor:
        cursor.execute("SELECT 1")
        wire.reset()
        cursor.execute(TITLES, ["x"])
        assert cursor.fetchall() == [("note of acme",)]
        assert wire.round_trips == 1
        cursor.executemany("INSERT INTO notes_tag (name) VALUES (%s)", [["a"], ["b"]])
        assert wire.round_trips == 2


def test_server_cursors_with_bound_parameters(make_alias: Any, acme: Any) -> None:
    """They work without a tenant's prefix as they do with one, and say what is wrong in a failed transaction."""
    series = "SELECT n FROM generate_series(1, %s) n"
    plain = make_alias("plain", server_side_binding=True)
    with override_settings(PG_TENANTS=None), plain.chunked_cursor() as cursor:
        cursor.execute(series, [3])
        assert cursor.fetchall() == [(1,), (2,), (3,)]
    bound = make_alias("bound", server_side_binding=True, tenants={"schema": "acme"})
    with transaction.atomic(using="bound"):
        with pytest.raises(ProgrammingError), bound.cursor() as cursor:
            cursor.execute("SELECT nothing")
        with pytest.raises(InternalError, match="transaction is aborted"), bound.chunked_cursor() as cursor:
            cursor.execute(series, [3])
        transaction.set_rollback(True, using="bound")


def test_prepared_plans_are_not_shared_by_tenants(make_alias: Any, acme: Any, globex: Any) -> None:
    """Two tenants whose tables differ do not meet in one prepared statement."""
    bound = make_alias("bound", server_side_binding=True, prepare_threshold=0)
    with tenant_context(globex), connection.cursor() as cursor:
        cursor.execute("ALTER TABLE notes_tag ALTER name TYPE varchar(99)")
    for tenant in (acme, globex, acme, globex):
        with tenant_context(tenant), bound.cursor() as cursor:
            cursor.execute("INSERT INTO notes_tag (name) VALUES (%s) RETURNING *", [f"t{current_schema()}"[:30]])
            assert cursor.fetchone()[1] == f"t{tenant.schema_name}"
            cursor.execute("DELETE FROM notes_tag WHERE name <> %s", ["x"])


def test_errors_of_bound_statements(make_alias: Any, acme: Any) -> None:
    """An error in a pipeline is the statement's own, and the connection goes on."""
    bound = make_alias("bound", server_side_binding=True)
    with tenant_context(acme), bound.cursor() as cursor:
        with pytest.raises(ProgrammingError, match="nothing"):
            cursor.execute("SELECT nothing FROM notes_note WHERE title <> %s", ["x"])
        cursor.execute(TITLES, ["x"])
        assert cursor.fetchall() == [("note of acme",)]
    with schema_context("nowhere"), bound.cursor() as cursor, pytest.raises(SchemaDoesNotExist):
        cursor.execute(TITLES, ["x"])
    with schema_context("nowhere"), bound.cursor() as cursor, pytest.raises(SchemaDoesNotExist):
        cursor.executemany("INSERT INTO customers_tenant (name) VALUES (%s)", [["x"]])


def test_a_pipeline_of_the_user(acme: Any, globex: Any) -> None:
    """Statements in psycopg's pipeline mode run each in the tenant that was active when it was sent."""
    cursors = []
    connection.ensure_connection()
    with connection.connection.pipeline():
        for tenant in (acme, globex):
            with tenant_context(tenant):
                cursors.append(connection.create_cursor())
                cursors[-1].execute(TITLES, ["x"])
    assert [cursor.fetchall() for cursor in cursors] == [[("note of acme",)], [("note of globex",)]]


@pytest.mark.parametrize("pool", [{"min_size": 1, "max_size": 2}])
def test_a_pool_gives_back_connections_without_a_tenant(
    make_alias: Any, acme: Any, globex: Any, pool: dict[str, int]
) -> None:
    """Threads share Django's psycopg pool; nobody reads another's rows, and no path stays on a connection."""
    make_alias("pooled", pool=pool)

    def work(tenant: Any) -> set[str]:
        seen = set()
        try:
            for _ in range(60):
                with tenant_context(tenant):
                    seen.update(Note.objects.using("pooled").values_list("title", flat=True))
                connections["pooled"].close()
        finally:
            connections["pooled"].close()
        return seen

    with ThreadPoolExecutor(4) as executor:
        results = list(executor.map(work, [acme, globex, acme, globex]))
    assert results == [{"note of acme"}, {"note of globex"}] * 2
    connections["pooled"].ensure_connection()
    with connections["pooled"].connection.cursor() as bare:
        assert bare.execute("SHOW search_path").fetchone() == ('"$user", public',)


def test_reads_through_pgbouncer(through_pgbouncer: Any, acme: Any, globex: Any) -> None:
    """Eight threads over two server connections in transaction mode: no row of another tenant."""
    connection.close()
    wrong: list[str] = []

    def work(number: int) -> None:
        try:
            for turn in range(150):
                tenant = (acme, globex)[(number + turn) % 2]
                with tenant_context(tenant):
                    title = Note.objects.get().title
                    if title != f"note of {tenant.schema_name}":
                        wrong.append(title)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    with psycopg.connect(**through_pgbouncer.params, autocommit=True) as bare:
        assert {bare.execute("SHOW search_path").fetchone() for _ in range(20)} == {('"$user", public',)}


def test_iterator_behind_a_pooler_uses_no_server_cursor(through_pgbouncer: Any, acme: Any) -> None:
    """Outside a transaction a cursor's name could be met by another client; inside one it is safe."""
    with tenant_context(acme):
        assert connection.is_pooled()
        Tag.objects.bulk_create(Tag(name=f"tag {number}") for number in range(30))
        assert len(list(Tag.objects.iterator(chunk_size=5))) == 30
        with connection.chunked_cursor() as cursor:
            assert "ServerSide" not in type(cursor.cursor).__name__
        with transaction.atomic():
            with connection.chunked_cursor() as cursor:
                assert "ServerSide" in type(cursor.cursor).__name__
            assert len(list(Tag.objects.iterator(chunk_size=5))) == 30


def test_statements_that_must_be_alone_are_refused_behind_a_pooler(through_pgbouncer: Any, acme: Any) -> None:
    """They cannot carry their tenant there; the error says what to do."""
    with tenant_context(acme), connection.cursor() as cursor:
        with pytest.raises(NotSupportedError, match=r"behind a connection pooler.*connected directly"):
            cursor.execute("VACUUM notes_note")
        cursor.execute("SELECT title FROM notes_note")
        assert cursor.fetchall() == [("note of acme",)]


def test_a_direct_connection_is_not_taken_for_a_pooler(acme: Any) -> None:
    """And the setting overrides what is found out."""
    assert connection.is_pooled() is False
    connection.settings_dict["OPTIONS"]["tenants"] = {**connection.settings_dict["OPTIONS"]["tenants"], "pooler": True}
    try:
        assert connection.is_pooled() is True
    finally:
        connection.settings_dict["OPTIONS"]["tenants"] = {
            key: value for key, value in connection.settings_dict["OPTIONS"]["tenants"].items() if key != "pooler"
        }


def test_an_alias_bound_to_one_schema(make_alias: Any, acme: Any, globex: Any) -> None:
    """OPTIONS["tenants"]["schema"] decides alone; what is active does not matter."""
    make_alias("only_acme", tenants={"schema": "acme"})
    with tenant_context(globex):
        assert Note.objects.using("only_acme").get().title == "note of acme"
        assert Note.objects.get().title == "note of globex"
    assert Note.objects.using("only_acme").get().title == "note of acme"


@pytest.mark.parametrize("command", ["DISCARD ALL", "DEALLOCATE ALL", "ROLLBACK"])
def test_prepared_statements_are_forgotten_with_the_session(make_alias: Any, acme: Any, command: str) -> None:
    """DISCARD ALL, sent again and again, leaves no statement that the client takes for prepared."""
    bound = make_alias("bound", server_side_binding=True, prepare_threshold=1)
    with tenant_context(acme), bound.cursor() as cursor:
        for _ in range(4):
            cursor.execute(command)
            for _ in range(3):
                cursor.execute(TITLES, ["x"])
                assert cursor.fetchall() == [("note of acme",)]


def test_a_statement_is_not_prepared_where_its_schema_was_missing(make_alias: Any, acme: Any) -> None:
    """A pipeline that failed at the prefix leaves no statement that the client takes for prepared."""
    bound = make_alias("bound", server_side_binding=True, prepare_threshold=1)
    for _ in range(3):
        with schema_context("later"), bound.cursor() as cursor, pytest.raises(SchemaDoesNotExist):
            cursor.execute("SELECT %s::int", [1])
    schemas.create("later")
    try:
        for _ in range(3):
            with schema_context("later"), bound.cursor() as cursor:
                cursor.execute("SELECT %s::int", [1])
                assert cursor.fetchall() == [(1,)]
    finally:
        schemas.drop("later")
