"""``PG_TENANTS["ROLES"]``: PostgreSQL refuses another tenant's tables, whichever way they are asked for.

The login is no superuser, for whom PostgreSQL would check nothing: it owns the database and may make roles.
"""

from __future__ import annotations

import json
import os
import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from io import StringIO
from typing import Any

import psycopg
import pytest
from django.conf import settings
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.db import ProgrammingError, connection, connections, transaction
from django.test import override_settings

from example_project.billing.models import Invoice
from example_project.customers.models import Domain, Tenant
from example_project.notes.models import Note, Tag
from pg_tenants import across_tenants, roles, schema_context, schemas, tenant_context
from pg_tenants.backends.cursor import TenantCursorMixin
from pg_tenants.checks import check_databases
from pg_tenants.context import as_owner, no_schema
from pg_tenants.exceptions import ConfigurationError, SchemaDoesNotExist, SchemaNotPermitted, TenantInUse
from pg_tenants.names import SHARED, group_role_name, role_name
from tests.fix_pgbouncer import PROGRAM, PgBouncer
from tests.fix_wire import Wire
from tests.integration.test_statement_table import ROWS, WAYS

ON = {**settings.PG_TENANTS, "ROLES": True}
OTHERS = "SELECT title FROM globex.notes_note"


@contextmanager
def led_to(params: dict[str, Any], **options: Any) -> Iterator[None]:
    """Lead the default alias to another place for a while."""
    before = dict(connection.settings_dict)
    connection.close()
    names = {"NAME": "dbname", "USER": "user", "PASSWORD": "password", "HOST": "host", "PORT": "port"}
    connection.settings_dict.update({key: str(params[name]) for key, name in names.items()}, OPTIONS=options)
    try:
        yield
    finally:
        connections.close_all()
        connection.settings_dict.clear()
        connection.settings_dict.update(before)


@contextmanager
def new_database(server_params: dict[str, Any], attributes: str = "CREATEROLE") -> Iterator[dict[str, Any]]:
    """Make a database that a login of its own owns, and remove both with the roles that are left."""
    name = f"roles_{os.getpid()}_{secrets.token_hex(4)}"
    with psycopg.connect(**server_params, autocommit=True) as raw:
        raw.execute(f"CREATE ROLE {name} LOGIN {attributes} PASSWORD 'secret'")
        raw.execute(f"CREATE DATABASE {name} OWNER {name}")
        oid = raw.execute("SELECT oid FROM pg_database WHERE datname = %s", [name]).fetchone()
        assert oid is not None
        try:
            yield {**server_params, "dbname": name, "user": name, "password": "secret"}
        finally:
            connections.close_all()
            raw.execute(f"DROP DATABASE {name} WITH (FORCE)")
            for (role,) in raw.execute(
                "SELECT rolname FROM pg_roles WHERE rolname ~ %s", [f"^pgt_{oid[0]}[_~]"]
            ).fetchall():
                raw.execute(f'DROP ROLE "{role}"')
            raw.execute(f"DROP ROLE {name}")


def make_tenant(name: str) -> Any:
    tenant = Tenant.objects.create(schema_name=name, name=name.title())
    Domain.objects.create(domain=f"{name}.localhost", tenant=tenant)
    with tenant_context(tenant):
        write_note(f"note of {name}")
    return tenant


def write_note(title: str) -> Any:
    author = User.objects.create_user("ada", password="secret")
    return Note.objects.create(title=title, body="text", author=author)


@pytest.fixture(scope="module")
def fleet_params(server_params: dict[str, Any], django_db_blocker: Any) -> Iterator[dict[str, Any]]:
    """Return the place of a database with roles and two tenants."""
    with new_database(server_params) as params, django_db_blocker.unblock():
        with override_settings(PG_TENANTS=ON), led_to(params):
            call_command("migrate_schemas", verbosity=0)
            for name in ("acme", "globex"):
                make_tenant(name)
        yield params


@pytest.fixture
def fleet(fleet_params: dict[str, Any], django_db_blocker: Any) -> Iterator[dict[str, Any]]:
    """Lead the default alias to that database, with roles switched on."""
    with django_db_blocker.unblock(), override_settings(PG_TENANTS=ON), led_to(fleet_params):
        before = set(Tenant.objects.values_list("pk", flat=True))
        yield fleet_params
        if connection.in_atomic_block:
            connection.close()
        for tenant in Tenant.objects.exclude(pk__in=before):
            tenant.delete()


@pytest.fixture
def acme(fleet: Any) -> Any:
    """Return a tenant with one note."""
    return Tenant.objects.get(schema_name="acme")


@pytest.fixture
def globex(fleet: Any) -> Any:
    """Return another tenant with one note."""
    return Tenant.objects.get(schema_name="globex")


def role_of(schema: str) -> str:
    with no_schema(), connection.cursor() as cursor:
        cursor.execute("SELECT oid FROM pg_database WHERE datname = current_database()")
        return role_name(cursor.fetchone()[0], schema)


def roles_there() -> set[str]:
    with no_schema(), connection.cursor() as cursor:
        cursor.execute(
            "SELECT rolname FROM pg_roles, pg_database d WHERE datname = current_database() AND rolname ~ "
            "('^pgt_' || d.oid || '[_~]')"
        )
        return {name for (name,) in cursor.fetchall()}


def one(sql: str, params: Any = None) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(sql, params)
        return cursor.fetchone()[0]


IN_DATABASE = {"default": {"BACKEND": "django.core.cache.backends.db.DatabaseCache", "LOCATION": "cache_rows"}}


# -- what is refused --------------------------------------------------------------------------------------------------


def execute(sql: str, params: list[Any] | None = None) -> Callable[[], None]:
    def send() -> None:
        with connection.cursor() as cursor:
            cursor.execute(sql, params)

    return send


def executemany() -> None:
    with connection.cursor() as cursor:
        cursor.executemany("INSERT INTO globex.notes_tag (name) VALUES (%s)", [["x"], ["y"]])


def copy_out() -> None:
    with connection.cursor() as cursor, cursor.copy("COPY globex.notes_note (title) TO STDOUT") as copy:
        list(copy)


def copy_in() -> None:
    with connection.cursor() as cursor, cursor.copy("COPY globex.notes_tag (name) FROM STDIN") as copy:
        copy.write_row(["x"])


def stream() -> None:
    with connection.cursor() as cursor, connection.wrap_database_errors:
        list(cursor.cursor.stream(OTHERS))


def server_cursor() -> None:
    with connection.chunked_cursor() as cursor:
        cursor.execute(OTHERS)
        cursor.fetchall()


def pipeline() -> None:
    with connection.wrap_database_errors, connection.cursor() as own, connection.connection.pipeline():
        own.execute("SELECT 1")
        other = connection.cursor()
        other.execute(OTHERS)
        other.fetchall()


MISTAKES: dict[str, Callable[[], None]] = {
    "execute": execute(OTHERS),
    "execute with parameters": execute(f"{OTHERS} WHERE title <> %s", ["x"]),
    "script": execute(f"SELECT 1; {OTHERS}"),
    "join": execute("SELECT 1 FROM notes_note a JOIN globex.notes_note b ON a.id = b.id"),
    "insert from": execute("INSERT INTO notes_tag (name) SELECT title FROM globex.notes_note"),
    "insert": execute("INSERT INTO globex.notes_tag (name) VALUES ('x')"),
    "update": execute("UPDATE globex.notes_note SET title = 'x'"),
    "delete": execute("DELETE FROM globex.notes_note"),
    "truncate": execute("TRUNCATE globex.notes_note CASCADE"),
    "sequence": execute("SELECT nextval('globex.notes_note_id_seq')"),
    "path": execute("SET LOCAL search_path = globex; SELECT title FROM notes_note"),
    "drop": execute("DROP TABLE globex.notes_note"),
    "drop schema": execute("DROP SCHEMA globex CASCADE"),
    "lock": execute("LOCK TABLE globex.notes_note"),
    "explain": execute(f"EXPLAIN ANALYZE {OTHERS}"),
    "DO": execute(f"DO $$ BEGIN PERFORM FROM ({OTHERS}) t; END $$"),
    "DO that commits": execute(f"DO $$ BEGIN COMMIT; PERFORM FROM ({OTHERS}) t; END $$"),
    "alone": execute("CREATE INDEX CONCURRENTLY ON globex.notes_note (title)"),
    "executemany": executemany,
    "copy out": copy_out,
    "copy in": copy_in,
    "stream": stream,
    "server-side cursor": server_cursor,
    "pipeline": pipeline,
}
# In a transaction and behind a pooler these are refused anyway.
ALONE = ("alone", "DO that commits")
# A schema that the role may not use is left out of a path, so the table is not found.
REFUSALS = {False: {"42501"}, True: {"42P01"}}
# What COPY raises, Django does not translate.
REFUSED = (ProgrammingError, psycopg.Error)


def sqlstate(exc: Any) -> Any:
    return getattr(exc, "sqlstate", None) or exc.__cause__.sqlstate


SETTINGS: dict[str, dict[str, Any]] = {
    "client-side binding": {},
    "server-side binding": {"server_side_binding": True},
    "prepared": {"server_side_binding": True, "prepare_threshold": 0},
}


@pytest.mark.parametrize("options", SETTINGS)
def test_another_tenants_table_named_in_full_is_refused(fleet: Any, acme: Any, options: str) -> None:
    """Whichever way it is sent, in autocommit and in a transaction; the tenant's own work goes on afterwards."""
    with led_to(fleet, **SETTINGS[options]), tenant_context(acme):
        for way, send in MISTAKES.items():
            for atomic in (False, True):
                if atomic and way in ALONE:
                    continue
                with pytest.raises(REFUSED) as raised, ExitStack() as stack:
                    if atomic:
                        stack.enter_context(transaction.atomic())
                        Tag.objects.count()
                    send()
                assert sqlstate(raised.value) in REFUSALS[way == "path"], (way, atomic, raised.value)
                assert Note.objects.get().title == "note of acme", way
                assert one("SELECT title FROM notes_note WHERE title <> %s", ["x"]) == "note of acme", way
    with schema_context("globex"):
        assert (Note.objects.get().title, Tag.objects.count()) == ("note of globex", 0)


def test_and_behind_a_pooler(fleet: Any, acme: Any, globex: Any) -> None:
    """PgBouncer in transaction mode, with two server connections that tenants share: nothing is left of a role."""
    if PROGRAM is None:
        pytest.skip("PgBouncer is not installed (Debian's package pgbouncer)")
    bouncer = PgBouncer(fleet)
    try:
        with led_to(bouncer.params):
            for way, send in MISTAKES.items():
                if way in ALONE:
                    continue
                with tenant_context(acme), pytest.raises(REFUSED) as raised:
                    send()
                assert sqlstate(raised.value) in REFUSALS[way == "path"], way
                with tenant_context(globex):
                    assert one("SELECT title FROM notes_note") == "note of globex"
                assert one("SELECT current_user") == fleet["user"]
    finally:
        connections.close_all()
        bouncer.stop()


def test_the_refusal_names_the_role(acme: Any) -> None:
    """The error is Django's, with a note that says as whom the statement ran."""
    with tenant_context(acme), pytest.raises(ProgrammingError, match="permission denied for schema globex") as raised:
        one(OTHERS)
    assert role_of("acme") in raised.value.__notes__[-1]


# -- what is allowed --------------------------------------------------------------------------------------------------


def test_tenants_use_their_own_tables_and_the_shared_ones(acme: Any, globex: Any) -> None:
    """Rows of both are read, written and deleted; sequences, functions and TRUNCATE included."""
    with tenant_context(acme):
        assert one("SELECT current_user") == role_of("acme")
        assert one("SELECT session_user") == connection.settings_dict["USER"]
        tag = Tag.objects.create(name="new")
        Tag.objects.update(name="old")
        tag.delete()
        invoice = Invoice.objects.create(
            number="R-1", tenant_id=acme.pk, customer_name="x", issued_on="2026-01-01", due_on="2026-02-01"
        )
        Invoice.objects.filter(pk=invoice.pk).update(customer_name="y")
        invoice.delete()
        assert Tenant.objects.count() == 2
        execute("TRUNCATE notes_tag CASCADE")()
        execute("SELECT setval('notes_tag_id_seq', 1)")()
    assert one("SELECT current_user") == connection.settings_dict["USER"]


def test_the_role_follows_the_tenant_within_a_transaction(acme: Any, globex: Any) -> None:
    """From one tenant to another, to a fixed module, to nothing, and back after a savepoint was rolled back to."""
    own = connection.settings_dict["USER"]
    with transaction.atomic(), tenant_context(acme):
        assert one("SELECT current_user") == role_of("acme")
        with pytest.raises(ZeroDivisionError), transaction.atomic(), tenant_context(globex):
            assert one("SELECT current_user") == role_of("globex")
            raise ZeroDivisionError
        assert one("SELECT current_user") == role_of("acme")
        with schema_context("billing"):
            assert one("SELECT current_user") == own
        with no_schema():
            assert one("SELECT current_user") == own
        with connection.without_prefix() as send:
            assert send("SELECT current_user").fetchone()[0] == own
        with as_owner():
            assert one("SELECT current_user") == own
        assert one("SELECT current_user") == role_of("acme")
    connection.close()
    with led_to(_place(), server_side_binding=True):
        with transaction.atomic(), tenant_context(acme):
            assert one("SELECT current_user WHERE %s", [True]) == role_of("acme")
            with tenant_context(globex):
                assert one("SELECT current_user WHERE %s", [True]) == role_of("globex")
            with no_schema():
                assert one("SELECT current_user WHERE %s", [True]) == own


def _place() -> dict[str, Any]:
    found = connection.settings_dict
    names = {"NAME": "dbname", "USER": "user", "PASSWORD": "password", "HOST": "host", "PORT": "port"}
    return {name: found[key] for key, name in names.items()}


def test_a_role_that_user_sql_has_set_is_not_kept(acme: Any) -> None:
    """Neither for the tenant's next statement nor for one without a tenant."""
    with tenant_context(acme):
        with pytest.raises(SchemaNotPermitted):  # The check behind the statement needs the tenant's own.
            execute(f'SET ROLE "{role_of("globex")}"')()
        with connection.connection.cursor() as raw:
            raw.execute(f'SET ROLE "{role_of("globex")}"')
        assert one("SELECT current_user") == role_of("acme")
    assert one("SELECT current_user") == connection.settings_dict["USER"]


def test_connections_of_a_pool_know_their_database(fleet: Any, acme: Any, globex: Any) -> None:
    """They are asked once, and used by many."""
    with led_to(fleet, pool={"min_size": 1, "max_size": 1}):
        try:
            for tenant in (acme, globex, acme):
                with tenant_context(tenant):
                    assert one("SELECT current_user") == role_of(tenant.schema_name)
                connection.close()
        finally:
            connection.close_pool()


def test_across_tenants_reads_each_as_its_role(fleet: Any) -> None:
    """In one pipeline."""
    assert [note.title for _, note in across_tenants(Note)] == ["note of acme", "note of globex"]


def test_ddl_is_the_owners(acme: Any) -> None:
    """By mistake it is refused; the schema editor and as_owner() may."""
    sql = "CREATE TABLE extra (id int)"
    with tenant_context(acme):
        with pytest.raises(SchemaNotPermitted, match="DDL belongs into migrations"):
            execute(sql)()
        with as_owner():
            execute(sql)()
        with pytest.raises(ProgrammingError, match="must be owner"):
            execute("ALTER TABLE extra ADD x int")()
        execute("INSERT INTO extra VALUES (1)")()  # The owner's new tables are the tenant's to use.
        with connection.schema_editor() as editor:
            editor.execute("DROP TABLE extra")
        with override_settings(CACHES=IN_DATABASE):
            call_command("createcachetable", verbosity=0)
            execute("SELECT * FROM cache_rows")()
        with as_owner():
            execute("DROP TABLE cache_rows")()
        call_command("flush", verbosity=0, interactive=False)
        assert write_note("note of acme").pk == 1


# -- the wire ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
def test_round_trips_are_those_without_roles(fleet: Any, acme: Any, globex: Any, way: str) -> None:
    """The table of docs/reference/statements.md holds with roles, too."""
    wire = Wire((str(fleet["host"]), int(fleet["port"])))
    options: dict[str, Any] = {"sslmode": "disable", "gssencmode": "disable"}
    if "server_side_binding" in way or "prepared" in way:
        options["server_side_binding"] = True
    if "prepared" in way:
        options["prepare_threshold"] = 0
    in_transaction = "transaction" in way or "SAVEPOINT" in way
    try:
        with (
            led_to({**fleet, "host": "127.0.0.1", "port": wire.port}, **options),
            tenant_context(acme),
            ExitStack() as stack,
        ):
            assert one("SELECT 1 WHERE %s", [True]) == 1
            execute("SELECT title FROM notes_note WHERE title <> %s", ["x"])()
            connection.is_pooled()
            if in_transaction:
                stack.enter_context(transaction.atomic())
                Tag.objects.count()
            if "another tenant" in way:
                stack.enter_context(tenant_context(globex))
            wire.reset()
            WAYS[way]()
            assert wire.round_trips == ROWS[way]
            if in_transaction:
                transaction.set_rollback(True)
    finally:
        wire.close()
        with tenant_context(acme):
            Tag.objects.all().delete()


# -- life -------------------------------------------------------------------------------------------------------------


def test_a_tenants_role_has_no_code_run_by_the_owner(acme: Any) -> None:
    """It puts no trigger on its tables, which would fire when a migration writes rows, as the owner."""
    function = (
        "CREATE FUNCTION pg_temp.takes_over() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN NEW.name = current_user; RETURN NEW; END $$"
    )
    trigger = "CREATE TRIGGER takes_over BEFORE INSERT ON notes_tag FOR EACH ROW EXECUTE FUNCTION pg_temp.takes_over()"
    with tenant_context(acme), transaction.atomic():
        execute(function)()
        with pytest.raises(ProgrammingError, match="permission denied for table notes_tag"), transaction.atomic():
            execute(trigger)()
        transaction.set_rollback(True)


@pytest.mark.parametrize("table", ["pg_tenants_templates", "pg_tenants_ready"])
def test_tenants_do_not_reach_what_other_tenants_are_made_of(fleet: Any, acme: Any, table: str) -> None:
    """The rows of these tables are run as the owner. New tables are closed, and what was granted is taken back."""

    def closed() -> None:
        for statement in (f"SELECT FROM public.{table}", f"DELETE FROM public.{table} WHERE false"):
            with tenant_context(acme), pytest.raises(ProgrammingError, match=f"permission denied for table {table}"):
                execute(statement)()

    with override_settings(PG_TENANTS={**ON, "READY_SCHEMAS": 1}):
        call_command("prepare_schemas", verbosity=0)
    closed()
    database = one("SELECT oid FROM pg_database WHERE datname = current_database()")
    execute(f'GRANT ALL ON public.{table} TO "{group_role_name(database, SHARED)}"')()
    call_command("migrate_schemas", verbosity=0)
    closed()
    out = StringIO()
    call_command("migrate_schemas", stdout=out)
    assert "got a role" not in out.getvalue()
    call_command("prepare_schemas", verbosity=0)


def test_creating_and_deleting_a_tenant_makes_and_drops_its_role(fleet: Any) -> None:
    """In the transaction: a failure leaves nothing."""
    before = roles_there()
    tenant = make_tenant("initech")
    assert roles_there() == before | {role_of("initech")}
    tenant.delete()
    assert roles_there() == before
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        make_tenant("initech")
        raise ZeroDivisionError
    assert roles_there() == before
    assert not schemas.exists("initech")


def test_renaming_a_schema_renames_its_role(acme: Any) -> None:
    """And what some other program's DROP SCHEMA has left under the new name is removed."""
    make_tenant("initech")
    try:
        roles_before = roles_there()
        execute(f'CREATE ROLE "{role_of("initrode")}"')()
        schemas.rename("initech", "initrode")
        assert roles_there() == roles_before - {role_of("initech")} | {role_of("initrode")}
        with schema_context("initrode"):
            assert Note.objects.get().title == "note of initech"
            with pytest.raises(ProgrammingError, match="permission denied"):
                one(OTHERS)
    finally:
        schemas.rename("initrode", "initech")


def test_a_role_that_something_depends_on_keeps_its_tenant(acme: Any, fleet: Any) -> None:
    """Deleting is refused, with what depends on it, and nothing is gone."""
    tenant = make_tenant("initech")
    execute(f'GRANT SELECT ON customers_tenant TO "{role_of("initech")}"')()
    with pytest.raises(TenantInUse, match="privileges for table customers_tenant"):
        tenant.delete()
    with schema_context("initech"):
        assert Note.objects.count() == 1
    execute(f'REVOKE SELECT ON customers_tenant FROM "{role_of("initech")}"')()


def test_a_role_left_behind_gives_a_new_tenant_nothing(fleet: Any) -> None:
    """One whose schema some other program has dropped is made anew; with rights elsewhere, the tenant is refused."""
    execute(f'CREATE ROLE "{role_of("initech")}"')()
    make_tenant("initech").delete()
    execute(f'CREATE ROLE "{role_of("initech")}"')()
    execute(f'GRANT USAGE ON SCHEMA globex TO "{role_of("initech")}"')()
    try:
        with pytest.raises(TenantInUse, match="privileges for schema globex"):
            make_tenant("initech")
        assert not schemas.exists("initech")
    finally:
        execute(f'REVOKE USAGE ON SCHEMA globex FROM "{role_of("initech")}"')()
        execute(f'DROP ROLE "{role_of("initech")}"')()


def test_a_deleted_tenant_and_one_without_role_are_errors(acme: Any) -> None:
    """Nothing is run, and nothing falls back to the login's rights."""
    for send in (lambda: one("SELECT 1"), server_cursor):
        with schema_context("initech"), pytest.raises(SchemaDoesNotExist, match="has not got its role yet"):
            send()
    schemas.create("bare")
    try:
        with schema_context("bare"), pytest.raises(SchemaDoesNotExist, match="migrate_schemas"):
            one("SELECT 1")
        assert roles.ensure("bare") is True
        assert roles.ensure("bare") is False
        with schema_context("bare"):
            assert one("SELECT current_user") == role_of("bare")
        execute(f'REVOKE USAGE ON SCHEMA bare FROM "{role_of("bare")}"')()
        for send in (lambda: one("SELECT 1"), stream):
            with schema_context("bare"), pytest.raises(SchemaNotPermitted, match="Run migrate_schemas"):
                send()
        assert roles.ensure("bare") is True
        with schema_context("bare"):
            assert one("SELECT 1") == 1
    finally:
        schemas.drop("bare")


def test_two_databases_have_roles_of_their_own(fleet: Any, acme: Any, server_params: Any) -> None:
    """Both have a tenant of one name; deleting one leaves the other's role."""
    with new_database(server_params) as params, led_to(params):
        call_command("migrate_schemas", verbosity=0)
        tenant = make_tenant("acme")
        other = role_of("acme")
        tenant.delete()
    assert other != role_of("acme")
    with tenant_context(acme):
        assert Note.objects.count() == 1


def test_names_of_any_length_are_told_apart() -> None:
    """A role's name has 63 bytes at most."""
    long = ["a" * 62 + "b", "a" * 63, "a" * 48]
    names = {role_name(4294967295, schema) for schema in long}
    assert len(names) == 3
    assert all(len(name) == 63 or name.endswith("a" * 48) for name in names)


def test_tenants_are_made_at_once(fleet: Any) -> None:
    """Each waits for the others no longer than they take to end."""
    errors: list[Exception] = []

    def make(number: int) -> None:
        try:
            Tenant.objects.create(schema_name=f"crowd{number}", name="x")
        except Exception as exc:  # noqa: BLE001
            errors.append(exc)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=make, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert {role_of(f"crowd{number}") for number in range(4)} <= roles_there()


# -- a fleet that has none yet ----------------------------------------------------------------------------------------


@pytest.fixture
def plain(server_params: dict[str, Any], django_db_blocker: Any) -> Iterator[dict[str, Any]]:
    """Lead the default alias to a database with two tenants and no roles."""
    with new_database(server_params) as params, django_db_blocker.unblock(), led_to(params):
        call_command("migrate_schemas", verbosity=0)
        for name in ("acme", "globex"):
            make_tenant(name)
        yield params


def test_switching_roles_on_and_off(plain: Any) -> None:
    """migrate_schemas gives an existing fleet its roles and says so; the checks tell before, and tenant_roles after."""
    off = settings.PG_TENANTS
    acme = Tenant.objects.get(schema_name="acme")
    with override_settings(PG_TENANTS=ON):
        with tenant_context(acme), pytest.raises(ConfigurationError, match="was switched on while"):
            Note.objects.count()
        connection.close()
        assert [message.id for message in check_databases(["default"])] == ["pg_tenants.W072"]
        with tenant_context(acme), pytest.raises(SchemaDoesNotExist, match="migrate_schemas"):
            Note.objects.count()
        out = StringIO()
        call_command("migrate_schemas", stdout=out)
        assert "2 schemas got a role" in out.getvalue()
        out = StringIO()
        call_command("migrate_schemas", json=True, stdout=out)
        assert json.loads(out.getvalue())["roles"] == []
        assert check_databases(["default"]) == []
        with tenant_context(acme):
            assert Note.objects.get().title == "note of acme"
            with pytest.raises(ProgrammingError, match="permission denied"):
                one(OTHERS)
        execute(f'REVOKE ALL ON acme.notes_tag FROM "{role_of("acme")}"')()
        assert roles.states(["acme", "globex"])[0].lacking
        out = StringIO()
        call_command("tenant_roles", sync=True, stdout=out)
        assert "Roles: 1 made or completed, 0 removed." in out.getvalue()
        out = StringIO()
        call_command("tenant_roles", json=True, stdout=out)
        report = json.loads(out.getvalue())
        assert [row["lacking"] for row in report["schemas"]] == [[], []]
        assert report["unneeded"] == []
    with override_settings(PG_TENANTS={**off, "ROLES": False}):
        with tenant_context(acme):
            assert one("SELECT current_user") == plain["user"]
            assert one(OTHERS) == "note of globex"
        assert [message.id for message in check_databases(["default"])] == ["pg_tenants.W073"]
        call_command("tenant_roles", sync=True, verbosity=0)
        assert roles_there() == set()
        assert check_databases(["default"]) == []
        Tenant.objects.get(schema_name="globex").delete()


def test_roles_of_databases_and_schemas_that_are_gone_are_removed(plain: Any, server_params: Any) -> None:
    """tenant_roles --sync finds them by the oid in their names."""
    with override_settings(PG_TENANTS=ON):
        connection.close()
        call_command("migrate_schemas", verbosity=0)
        execute("DROP SCHEMA globex CASCADE")()
        execute('CREATE ROLE "pgt_9_gone"')()
        assert {role_of("globex"), "pgt_9_gone"} <= set(roles.leftovers())
        for role in ("pgt_9_gone", role_of("globex")):
            roles.remove(role)
        assert role_of("globex") not in roles_there()
        assert role_of("acme") in roles_there()


def test_a_login_that_may_not_make_roles(server_params: Any, django_db_blocker: Any) -> None:
    """A check says so before, and the command that needs it does so in full."""
    with new_database(server_params, "NOCREATEROLE") as params, django_db_blocker.unblock(), led_to(params):
        call_command("migrate_schemas", verbosity=0)
        with override_settings(PG_TENANTS=ON):
            connection.close()
            assert "pg_tenants.W074" in [message.id for message in check_databases(["default"])]
            with pytest.raises(CommandError, match="CREATEROLE"):
                call_command("migrate_schemas", verbosity=0)


def test_another_login_needs_one_grant(fleet: Any, acme: Any, server_params: Any, make_web_login: Any) -> None:
    """One that serves requests and migrates nothing may take on every tenant's role, and reads none without."""
    web = make_web_login
    with led_to({**fleet, "user": web, "password": "secret"}):
        with tenant_context(acme), pytest.raises(SchemaNotPermitted, match=f'GRANT "pgt_{_oid()}~logins"'):
            Note.objects.count()
    with psycopg.connect(**{**server_params, "dbname": fleet["dbname"]}, autocommit=True) as raw:
        raw.execute(f'GRANT "pgt_{_oid()}~logins" TO {web}')
    with led_to({**fleet, "user": web, "password": "secret"}):
        with tenant_context(acme):
            assert Note.objects.get().title == "note of acme"
        with pytest.raises(ProgrammingError, match="permission denied"):
            one("SELECT title FROM acme.notes_note")


def _oid() -> int:
    return int(role_of("x").split("_")[1])


@pytest.fixture
def make_web_login(fleet: Any, server_params: Any) -> Iterator[str]:
    """Return a login that owns nothing."""
    name = f"web_{os.getpid()}_{secrets.token_hex(4)}"
    with psycopg.connect(**server_params, autocommit=True) as raw:
        raw.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'secret'")
        yield name
        connections.close_all()
        raw.execute(f"DROP ROLE {name}")


def test_djangos_assume_role_is_gone_back_to(fleet: Any, acme: Any, server_params: Any, make_web_login: Any) -> None:
    """OPTIONS["assume_role"] is the role without a tenant."""
    web = make_web_login
    with psycopg.connect(**server_params, autocommit=True) as raw:
        raw.execute(f"GRANT {fleet['user']} TO {web}")
    with led_to({**fleet, "user": web, "password": "secret"}, assume_role=fleet["user"]):
        with transaction.atomic():
            with tenant_context(acme):
                assert one("SELECT current_user") == role_of("acme")
            assert one("SELECT current_user") == fleet["user"]
        with tenant_context(acme):
            execute("DO $$ BEGIN COMMIT; END $$")()
        assert one("SELECT current_user") == fleet["user"]
        with connection.without_prefix() as send:
            assert send("SELECT current_user").fetchone()[0] == fleet["user"]
        make_tenant("initech").delete()


# -- what is not stopped (docs/howto/roles.md) ------------------------------------------------------------------------

NOT_STOPPED = {
    "RESET ROLE": f"RESET ROLE; {OTHERS}",
    "SET ROLE and back": f'SET ROLE "{{other}}"; {OTHERS}; SET ROLE "{{own}}"',
    "set_config": f"SELECT set_config('role', 'none', true); {OTHERS}",
}


@pytest.mark.parametrize("way", NOT_STOPPED)
def test_sql_that_changes_the_role_itself_is_not_stopped(acme: Any, way: str) -> None:
    """Roles are against mistakes, not against SQL that is written to get out."""
    with tenant_context(acme):
        assert "note of globex" in script(NOT_STOPPED[way].format(other=role_of("globex"), own=role_of("acme")))


def script(sql: str) -> list[Any]:
    with connection.cursor() as cursor:
        cursor.execute(sql)
        found = []
        while True:
            found += [value for (value,) in cursor.fetchall()] if cursor.description else []
            if not cursor.nextset():
                return found


def test_functions_of_the_owner_are_not_stopped(acme: Any) -> None:
    """SECURITY DEFINER means the owner's rights."""
    execute(f"CREATE FUNCTION public.peek() RETURNS text LANGUAGE sql SECURITY DEFINER AS '{OTHERS}'")()
    try:
        with tenant_context(acme):
            assert one("SELECT peek()") == "note of globex"
    finally:
        execute("DROP FUNCTION public.peek()")()


def test_a_raw_cursor_has_the_logins_rights(acme: Any) -> None:
    """One that is made past Django takes on no role; in a transaction it finds that of the statement before."""
    with tenant_context(acme):
        Note.objects.count()
        with connection.connection.cursor() as raw:
            assert not isinstance(raw, TenantCursorMixin)
            assert raw.execute(OTHERS).fetchone() == ("note of globex",)
        with transaction.atomic():
            Note.objects.count()
            with connection.connection.cursor() as raw, pytest.raises(psycopg.errors.InsufficientPrivilege):
                raw.execute(OTHERS)
            transaction.set_rollback(True)
