"""Every way to send SQL carries its tenant."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import connection, transaction
from django.db.utils import ProgrammingError
from psycopg import sql

from example_project.notes.models import Note, Tag
from pg_tenants import schema_context, tenant_context
from pg_tenants.exceptions import PgTenantsError, SchemaDoesNotExist, UnsafeStatement
from tests.fix_wire import Wire


@pytest.mark.parametrize("count", [1, 5, 20])
def test_n_queries_take_n_round_trips(wire: Wire, acme: Any, count: int) -> None:
    """The prefix travels in the statement's own message, in autocommit."""
    with tenant_context(acme):
        Note.objects.count()
        wire.reset()
        for _ in range(count):
            assert [note.title for note in Note.objects.all()] == ["note of acme"]
        assert wire.round_trips == count
        assert [kind for kind, _ in wire.messages] == [b"Q"] * count


def test_a_transaction_adds_its_own_begin_and_commit_alone(wire: Wire, acme: Any) -> None:
    """In atomic() there are as many round trips as on Django's backend."""
    with tenant_context(acme):
        Note.objects.count()
        wire.reset()
        with transaction.atomic():
            Note.objects.count()
            with transaction.atomic():
                Note.objects.count()
        assert wire.round_trips == len(["BEGIN", "count", "SAVEPOINT", "count", "RELEASE", "COMMIT"])


def test_the_prefix_is_invisible(acme: Any, django_assert_num_queries: Any) -> None:
    """assertNumQueries and connection.queries show the user's statements, without the prefix."""
    with tenant_context(acme), django_assert_num_queries(2) as captured:
        Note.objects.count()
        Note.objects.first()
    assert all("search_path" not in query["sql"] for query in captured.captured_queries)


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT title FROM notes_note",
        b"SELECT title FROM notes_note",
        sql.SQL("SELECT title FROM {}").format(sql.Identifier("notes_note")),
        "SELECT title FROM notes_note WHERE title LIKE 'note%'",
        "  /* a comment; with a semicolon */ SELECT title FROM notes_note;",
        "SELECT 1; SELECT title FROM notes_note",
    ],
)
def test_execute_takes_every_kind_of_statement(acme: Any, globex: Any, statement: Any) -> None:
    """Text, bytes, composed SQL, a percent sign without parameters, comments and scripts run in the tenant."""
    for tenant in (acme, globex):
        with tenant_context(tenant), connection.cursor() as cursor:
            cursor.execute(statement)
            while cursor.nextset():
                pass
            assert cursor.fetchall() == [(f"note of {tenant.schema_name}",)]


def test_the_tenant_is_chosen_when_the_statement_is_sent(acme: Any, globex: Any) -> None:
    """A cursor made in one tenant and executed in another reads the other."""
    with tenant_context(acme):
        cursor = connection.cursor()
    with tenant_context(globex), cursor:
        cursor.execute("SELECT title FROM notes_note")
        assert cursor.fetchall() == [("note of globex",)]


def test_executemany_is_one_round_trip(wire: Wire, acme: Any) -> None:
    """All rows go in one pipeline behind one prefix."""
    with tenant_context(acme), connection.cursor() as cursor:
        cursor.execute("SELECT 1")
        wire.reset()
        cursor.executemany("INSERT INTO notes_tag (name) VALUES (%s)", [["a"], ["b"], ["c"]])
        assert wire.round_trips == 1
        assert cursor.rowcount == 3
    with tenant_context(acme):
        assert Tag.objects.count() == 3


def test_copy_out_and_in(wire: Wire, acme: Any, globex: Any) -> None:
    """COPY moves rows of the tenant alone."""
    with tenant_context(acme), connection.cursor() as cursor:
        with cursor.copy("COPY notes_tag (name) FROM STDIN") as copy:
            copy.write_row(["fast"])
            copy.write_row(["slow"])
        assert cursor.rowcount == 2
        wire.reset()
        with cursor.copy("COPY notes_tag (name) TO STDOUT") as copy:
            assert b"".join(bytes(part) for part in copy) == b"fast\nslow\n"
        assert wire.round_trips == 1
    with tenant_context(globex):
        assert Tag.objects.count() == 0


def test_stream(acme: Any) -> None:
    """stream() reads row by row in the tenant."""
    with tenant_context(acme), connection.cursor() as cursor:
        rows = cursor.cursor.stream("SELECT title FROM notes_note WHERE title <> %s", ["x"])
        assert list(rows) == [("note of acme",)]


@pytest.mark.parametrize("atomic", [False, True])
def test_iterator_keeps_the_tenant_it_was_opened_in(acme: Any, globex: Any, atomic: bool) -> None:
    """A server-side cursor reads its own tenant after the context has changed."""
    with tenant_context(acme):
        Tag.objects.bulk_create(Tag(name=f"tag {number}") for number in range(50))
    with transaction.atomic() if atomic else tenant_context(acme):
        with tenant_context(acme):
            rows = Tag.objects.order_by("name").iterator(chunk_size=10)
            next(rows)
        with tenant_context(globex):
            assert Note.objects.get().title == "note of globex"
            assert len(list(rows)) == 49


def test_scrolling_runs_functions_in_the_tenant_of_the_cursor(acme: Any, globex: Any) -> None:
    """MOVE makes the rows that it passes, so functions in the query write where the cursor was declared."""
    for tenant in (acme, globex):
        with tenant_context(tenant), connection.cursor() as cursor:
            cursor.execute(
                "CREATE FUNCTION noted(what text) RETURNS text LANGUAGE plpgsql AS "
                "$$BEGIN INSERT INTO notes_tag (name) VALUES (what); RETURN what; END$$"
            )
    with transaction.atomic():
        with tenant_context(acme):
            rows = connection.chunked_cursor()
            rows.execute("SELECT noted('row ' || number) FROM generate_series(1, 5) number")
        with tenant_context(globex):
            assert not Tag.objects.exists()
            rows.cursor.scroll(2)
            assert not Tag.objects.exists()
            rows.close()
    with tenant_context(acme):
        assert Tag.objects.count() == 2


def test_savepoints_and_rollbacks(acme: Any, globex: Any) -> None:
    """After a rollback to a savepoint each statement still runs in the tenant that is active."""
    with transaction.atomic():
        with tenant_context(acme):
            with pytest.raises(ProgrammingError), transaction.atomic():
                connection.cursor().execute("SELECT nothing FROM notes_note")
            assert Note.objects.get().title == "note of acme"
        with tenant_context(globex):
            assert Note.objects.get().title == "note of globex"


@pytest.mark.parametrize(
    "noise", ["SET search_path = public", "BEGIN", "ROLLBACK", "COMMIT", "DISCARD ALL", "RESET ALL", "BEGIN; COMMIT"]
)
def test_sql_of_the_user_changes_nothing(acme: Any, noise: str) -> None:
    """A path that user SQL sets, raw transaction control and DISCARD ALL leave the next statement in its tenant."""
    with tenant_context(acme):
        with connection.cursor() as cursor:
            cursor.execute(noise)
        assert Note.objects.get().title == "note of acme"
        with connection.cursor() as cursor:
            cursor.execute("ROLLBACK")
        assert Note.objects.get().title == "note of acme"


@pytest.mark.parametrize("statement", ["VACUUM notes_note", "CREATE INDEX CONCURRENTLY note_x ON notes_note (title)"])
def test_statements_that_must_be_alone(acme: Any, raw: Any, statement: str) -> None:
    """They run in the tenant, and nothing of its path stays on the session."""
    with tenant_context(acme), connection.cursor() as cursor:
        cursor.execute(statement)
    with connection.connection.cursor() as bare:
        assert bare.execute("SHOW search_path").fetchone() == ('"$user", public',)
    locks = raw.execute(
        "SELECT count(*) FROM pg_locks JOIN pg_database d ON d.oid = database AND datname = current_database() "
        "WHERE locktype = 'advisory'"
    ).fetchone()
    assert locks == (0,)


def test_a_procedure_that_commits(acme: Any) -> None:
    """CALL of a procedure with COMMIT inside runs in the tenant."""
    with tenant_context(acme), connection.cursor() as cursor:
        cursor.execute(
            "CREATE PROCEDURE two() LANGUAGE plpgsql AS $$ BEGIN INSERT INTO notes_tag (name) VALUES ('one'); COMMIT; "
            "INSERT INTO notes_tag (name) VALUES ('two'); END $$"
        )
        cursor.execute("CALL two()")
        assert sorted(Tag.objects.values_list("name", flat=True)) == ["one", "two"]


def test_a_procedure_that_commits_with_bound_parameters(make_alias: Any, acme: Any) -> None:
    """The same where the server binds the parameters."""
    bound = make_alias("bound", server_side_binding=True)
    with tenant_context(acme), bound.cursor() as cursor:
        cursor.execute(
            "CREATE PROCEDURE two(word text) LANGUAGE plpgsql AS $$ BEGIN INSERT INTO notes_tag (name) VALUES (word); "
            "COMMIT; INSERT INTO notes_tag (name) VALUES (word || '2'); END $$"
        )
        cursor.execute(" /* first */ CALL two(%s)", ["one"])
        for unsafe in (bound, connection):
            with unsafe.cursor() as other, pytest.raises(UnsafeStatement, match="in a pipeline"):
                other.executemany("CALL two(%s)", [["a"], ["b"]])
        assert sorted(Tag.objects.values_list("name", flat=True)) == ["one", "one2"]


@pytest.mark.parametrize("script", ["SELECT 1; COMMIT; SELECT 2", "ROLLBACK; SELECT 1", "END; SELECT 1"])
def test_a_script_that_would_leave_its_tenant_is_refused(acme: Any, script: str) -> None:
    """Statements after a COMMIT in the same message would run without a tenant."""
    with tenant_context(acme), connection.cursor() as cursor, pytest.raises(UnsafeStatement, match="without their"):
        cursor.execute(script)


def test_a_missing_schema_is_an_error_and_not_public(open_db: None) -> None:
    """Nothing falls back to another schema."""
    with schema_context("nowhere"):
        with pytest.raises(SchemaDoesNotExist, match="'nowhere'") as caught:
            Note.objects.count()
        assert isinstance(caught.value, ProgrammingError)
        with pytest.raises(PgTenantsError), connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM customers_tenant")


def test_without_a_tenant_its_tables_do_not_exist(acme: Any) -> None:
    """The error says that no tenant is active."""
    with pytest.raises(ProgrammingError, match='"notes_note" does not exist') as caught:
        Note.objects.count()
    assert "No tenant is active" in caught.value.__cause__.__notes__[0]


def test_a_schema_editor_whose_last_statements_fail(open_db: None) -> None:
    """No transaction stays open, in which all that follows would be, and its locks with it."""
    for in_transaction in (True, False):
        with pytest.raises(ProgrammingError, match="nowhere"):
            with connection.schema_editor(atomic=in_transaction) as editor:
                editor.execute("CREATE TABLE half_made (id int)")
                editor.deferred_sql += ["SELECT 1", "SELECT FROM nowhere", "SELECT 2"]
        assert (connection.in_atomic_block, connection.get_autocommit()) == (False, True)
        assert ("half_made" in connection.introspection.table_names()) is not in_transaction
    with connection.schema_editor() as editor:
        editor.deferred_sql.append("DROP TABLE half_made")
    assert "half_made" not in connection.introspection.table_names()


def test_error_positions_count_from_the_own_statement(acme: Any) -> None:
    """The caret, the line number and the position are those of the user's text."""
    with tenant_context(acme), connection.cursor() as cursor:
        with pytest.raises(ProgrammingError) as caught:
            cursor.execute("SELECT title,\n  nothing FROM notes_note")
        cause: Any = caught.value.__cause__
        assert cause.diag.statement_position == "17"
        assert str(caught.value).splitlines()[1:] == ["LINE 2:   nothing FROM notes_note", "          ^"]
        with pytest.raises(ProgrammingError, match=r"LINE 1: SELEC 1"):
            cursor.execute("SELEC 1")
        with pytest.raises(ProgrammingError) as caught:
            cursor.execute("SELECT 1\nFROM")
        assert str(caught.value) == "syntax error at end of input\nLINE 2: FROM\n            ^"
        cursor.execute("SELECT title FROM notes_note -- to the end")
        assert cursor.fetchall() == [("note of acme",)]


@pytest.mark.parametrize("text", ["", "-- a comment", ";"])
def test_an_empty_statement_is_no_error(acme: Any, text: str) -> None:
    """As on Django's backend."""
    with tenant_context(acme), connection.cursor() as cursor:
        cursor.execute(text)


def test_the_connections_own_path_is_never_a_tenants(acme: Any) -> None:
    """A cursor of psycopg's own, past Django, finds no tenant's table."""
    with tenant_context(acme):
        Note.objects.count()
        with connection.connection.cursor() as bare, pytest.raises(Exception, match="does not exist"):
            bare.execute("SELECT * FROM notes_note")
