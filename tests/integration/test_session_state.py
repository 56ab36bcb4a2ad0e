"""What one tenant's statements leave on a connection that is kept, and what the next tenant's make of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from django.db import connection, connections, transaction
from django.db.utils import ProgrammingError

from example_project.notes.models import Note, Tag
from pg_tenants import catalog, schemas, sql, tenant_context

TITLES = "SELECT title FROM notes_note"
HIDING = "CREATE TEMP TABLE notes_note AS SELECT 1::bigint AS id, 'temporary'::varchar AS title"


def run(statement: str, using: str = "default") -> list[Any]:
    with connections[using].cursor() as cursor:
        cursor.execute(statement)
        return list(cursor.fetchall()) if cursor.description else []


# -- temporary tables -------------------------------------------------------------------------------------------------


def _iterated(using: str) -> list[Any]:
    return [(title,) for title in Note.objects.using(using).values_list("title", flat=True).iterator()]


def _copied(using: str) -> list[Any]:
    with connections[using].cursor() as cursor, cursor.copy("COPY notes_note (title) TO STDOUT") as copy:
        return [(bytes(part).decode().strip(),) for part in copy]


def _streamed(using: str) -> list[Any]:
    with connections[using].cursor() as cursor:
        return list(cursor.cursor.stream(TITLES))


def _in_transaction(using: str) -> list[Any]:
    with transaction.atomic(using=using):
        run("SELECT 1", using)
        return run(TITLES, using)


def _by_parameters(using: str) -> list[Any]:
    return list(Note.objects.using(using).exclude(title="x").values_list("title"))


READS: dict[str, Callable[[str], list[Any]]] = {
    "execute": lambda using: run(TITLES, using),
    "parameters": _by_parameters,
    "in a transaction": _in_transaction,
    "iterator": _iterated,
    "copy": _copied,
    "stream": _streamed,
    "function": lambda using: run("SELECT title FROM pg_temp.titles() AS title", using),
}
FUNCTION = (
    f"CREATE FUNCTION pg_temp.titles() RETURNS SETOF varchar LANGUAGE plpgsql AS $$ BEGIN RETURN QUERY {TITLES}; END $$"
)


@pytest.mark.parametrize("binding", [False, True])
@pytest.mark.parametrize("way", READS)
def test_a_temporary_table_hides_no_tenants_table(
    make_alias: Any, acme: Any, globex: Any, way: str, binding: bool
) -> None:
    """Whoever has left it on the session, each tenant reads its own, by every way of sending."""
    make_alias("kept", server_side_binding=binding)
    with tenant_context(acme):
        run(HIDING, "kept")
        run(FUNCTION, "kept")
    for tenant in (globex, acme):
        with tenant_context(tenant):
            assert READS[way]("kept") == [(f"note of {tenant.schema_name}",)]


def test_nor_does_it_take_their_writes(acme: Any, globex: Any) -> None:
    """Rows, new tables, and what goes alone end in the tenant's schema."""
    with tenant_context(acme):
        run("CREATE TEMP TABLE notes_tag (id bigint, name varchar, more int)")
    with tenant_context(globex):
        Tag.objects.create(name="one")
        Tag.objects.bulk_create([Tag(name="two"), Tag(name="three")])
        with connection.cursor() as cursor:
            cursor.executemany("INSERT INTO notes_tag (name) VALUES (%s)", [["four"], ["five"]])
            cursor.execute("CREATE TABLE made ()")
            cursor.execute("CREATE INDEX CONCURRENTLY notes_tag_alone ON notes_tag (name)")
        assert Tag.objects.count() == 5
        assert run("SELECT count(*) FROM pg_temp.notes_tag") == [(0,)]
        assert schemas.table_exists("made")
        index = "SELECT schemaname FROM pg_indexes WHERE indexname = 'notes_tag_alone'"
        assert run(index) == [(schemas.tenant_connection().physical_schema("globex"),)]


def test_nor_in_tables_of_fixed_modules(acme: Any) -> None:
    """They are looked for before it as well, with a tenant and without."""
    with tenant_context(acme):
        run("CREATE TEMP TABLE customers_tenant (schema_name varchar)")
        assert run("SELECT schema_name FROM customers_tenant") == [("acme",)]
    assert [tenant.schema_name for tenant in type(acme).objects.all()] == ["acme"]


def test_nor_on_asynchronous_connections(make_alias: Any, acme: Any, globex: Any) -> None:
    """Their pool hands the session to the next tenant."""
    make_alias("kept", pool={"min_size": 1, "max_size": 1})

    async def main() -> Any:
        async with tenant_context(acme):
            await sql.aexecute(HIDING, using="kept")
        async with tenant_context(globex):
            return await sql.afetch_value(TITLES, using="kept")

    assert asyncio.run(main()) == "note of globex"


def test_introspection_and_descriptions_see_the_tenants_table(acme: Any) -> None:
    """The columns are those of the tenant's table, and definitions name it without its schema, as ever."""
    name = schemas.tenant_connection().physical_schema("acme")
    with tenant_context(acme):
        run("CREATE VIEW titles AS SELECT title FROM notes_note")
        with connection.cursor() as cursor:
            before = connection.introspection.get_table_description(cursor, "notes_note")
            described = catalog.describe(name)
            run(HIDING)
            assert connection.introspection.get_table_description(cursor, "notes_note") == before
        assert catalog.describe(name) == described


def test_a_temporary_table_of_a_name_of_its_own(acme: Any, globex: Any) -> None:
    """It works as ever, and belongs to the session: the next tenant finds it, unless it ended with its transaction."""
    with tenant_context(acme):
        run("CREATE TEMP TABLE report AS SELECT title FROM notes_note")
        assert run("SELECT title FROM report") == [("note of acme",)]
        with transaction.atomic():
            run("CREATE TEMP TABLE passing ON COMMIT DROP AS SELECT title FROM notes_note")
            assert run("SELECT title FROM passing") == [("note of acme",)]
    with tenant_context(globex):
        assert run("SELECT title FROM report") == [("note of acme",)]
        with pytest.raises(ProgrammingError, match='"passing" does not exist'):
            run("SELECT title FROM passing")
        run("DISCARD TEMP")
        with pytest.raises(ProgrammingError, match='"report" does not exist'):
            run("SELECT title FROM report")


# -- plans ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["auto", "force_generic_plan", "force_custom_plan"])
def test_a_statement_prepared_by_sql(acme: Any, globex: Any, mode: str) -> None:
    """EXECUTE reads the tenant that is active then: PostgreSQL analyses it anew when the path is another one."""
    with tenant_context(acme):
        run(f"SET plan_cache_mode = {mode}")
        run("PREPARE titles (text) AS SELECT title FROM notes_note WHERE title <> $1")
    for _ in range(4):
        for tenant in (acme, globex):
            with tenant_context(tenant):
                for _ in range(6):
                    assert run("EXECUTE titles ('x')") == [(f"note of {tenant.schema_name}",)]
    with pytest.raises(ProgrammingError, match='"notes_note" does not exist'):
        run("EXECUTE titles ('x')")


BODIES = {
    "plpgsql": f"LANGUAGE plpgsql AS $$ BEGIN RETURN ({TITLES}); END $$",
    "plpgsql, stable": f"LANGUAGE plpgsql STABLE AS $$ DECLARE t text; BEGIN {TITLES} INTO t; RETURN t; END $$",
    "SQL": f"LANGUAGE sql AS '{TITLES}'",
    "SQL, inlined": f"LANGUAGE sql STABLE AS '{TITLES}'",
    "EXECUTE": f"LANGUAGE plpgsql AS $$ DECLARE t text; BEGIN EXECUTE '{TITLES}' INTO t; RETURN t; END $$",
}


@pytest.mark.parametrize("body", BODIES)
def test_a_shared_function_reads_the_active_tenant(acme: Any, globex: Any, raw: Any, body: str) -> None:
    """Its plans, which the session keeps, are made anew for another path; in a transaction that moves as well."""
    raw.execute("SET check_function_bodies = off")
    raw.execute(f"CREATE FUNCTION public.title_here() RETURNS text {BODIES[body]}")
    try:
        for block in (False, True):
            with transaction.atomic() if block else connection.cursor():
                for _ in range(3):
                    for tenant in (acme, globex):
                        with tenant_context(tenant):
                            for _ in range(7):
                                assert run("SELECT title_here()") == [(f"note of {tenant.schema_name}",)]
    finally:
        connection.close()
        raw.execute("DROP FUNCTION public.title_here()")


def test_a_view_is_bound_to_the_tables_it_was_made_of(acme: Any, globex: Any) -> None:
    """Each tenant's reads its own; so does a function whose body is bound when it is made."""
    for tenant in (acme, globex):
        with tenant_context(tenant):
            run(f"CREATE VIEW titles AS {TITLES}")
            run(f"CREATE FUNCTION title_bound() RETURNS varchar LANGUAGE sql BEGIN ATOMIC {TITLES}; END")
    for tenant in (acme, globex, acme):
        with tenant_context(tenant):
            own = [(f"note of {tenant.schema_name}",)]
            assert run("SELECT title FROM titles") == own
            assert run("SELECT title_bound()") == own


# -- what belongs to the session --------------------------------------------------------------------------------------


def test_a_cursor_of_sql_keeps_its_rows(acme: Any, globex: Any) -> None:
    """DECLARE binds tables as a view does: FETCH gives the rows of the tenant where it was declared, as iterator()."""
    with tenant_context(acme):
        run(f"DECLARE held CURSOR WITH HOLD FOR {TITLES}")
    with tenant_context(globex):
        assert run("FETCH ALL FROM held") == [("note of acme",)]
        run("CLOSE held")
    with transaction.atomic():
        with tenant_context(acme):
            run(f"DECLARE passing CURSOR FOR {TITLES}")
        with tenant_context(globex):
            assert run("FETCH ALL FROM passing") == [("note of acme",)]
    with tenant_context(globex), pytest.raises(ProgrammingError, match='"passing" does not exist'):
        run("FETCH ALL FROM passing")


def test_settings_locks_and_channels_stay(acme: Any, globex: Any, raw: Any) -> None:
    """What the session has, whoever asked for it, is there in the next tenant; what LOCAL and xact have is not."""
    with tenant_context(acme), transaction.atomic():
        run("SET LOCAL work_mem = '5MB'")
        run("SELECT pg_advisory_xact_lock(41)")
        run("SET statement_timeout = '1h'")
        run("SELECT set_config('app.tenant', 'acme', false), pg_advisory_lock(42)")
        run("LISTEN news")
    with tenant_context(globex):
        assert run("SHOW work_mem") != [("5MB",)]
        assert run("SHOW statement_timeout") == [("1h",)]
        assert run("SHOW app.tenant") == [("acme",)]
        assert raw.execute("SELECT pg_try_advisory_lock(41), pg_try_advisory_lock(42)").fetchone() == (True, False)
        assert run("SELECT pg_listening_channels()") == [("news",)]
    with tenant_context(globex):
        run("DISCARD ALL")
        assert run("SHOW statement_timeout") != [("1h",)]
        assert run("SELECT pg_listening_channels()") == []
        assert raw.execute("SELECT pg_try_advisory_lock(42)").fetchone() == (True,)
