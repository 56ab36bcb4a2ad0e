"""`migrate_schemas` and `migrate`: every module in every schema."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.core.management import ManagementUtility, call_command
from django.core.management.base import CommandError
from django.db import connection, connections
from django.db.models.signals import post_migrate, pre_migrate
from django.test import override_settings
from psycopg import sql

from example_project.customers.models import Tenant
from example_project.notes.models import Note, Tag
from pg_tenants import current_schema, deactivate, schema_context, schemas, tenant_context
from tests.conftest import make_tenant

BOTH = pytest.mark.parametrize("command", ["migrate_schemas", "migrate"])


def run(command: str, *args: str, **kwargs: Any) -> str:
    out = io.StringIO()
    call_command(command, *args, stdout=out, stderr=out, **kwargs)
    assert current_schema() is None
    return out.getvalue()


def report(*args: str, command: str = "migrate_schemas") -> dict[str, list[str]]:
    found = json.loads(run(command, "--json", *args))
    return {entry["schema"]: entry["migrations"] for entry in found["schemas"]}


def physical(name: str) -> str:
    return schemas.tenant_connection().physical_schema(name)


def tables(name: str, raw: Any) -> set[str]:
    rows = raw.execute("SELECT tablename FROM pg_tables WHERE schemaname = %s", [physical(name)]).fetchall()
    return {table for (table,) in rows}


@pytest.fixture
def fresh(open_db: None, raw: Any) -> Iterator[Any]:
    """Point the default alias to an empty database, and return a bare connection to it."""
    import psycopg

    default = connections["default"]
    name = f"{default.settings_dict['NAME']}_fresh"
    drop = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))
    raw.execute(drop)
    raw.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    before = default.settings_dict["NAME"]
    default.close()
    default.settings_dict["NAME"] = name
    try:
        with psycopg.connect(raw.info.dsn, dbname=name, password=raw.info.password, autocommit=True) as bare:
            yield bare
    finally:
        deactivate()
        default.close()
        default.settings_dict["NAME"] = before
        raw.execute(drop)


# -- a new database ---------------------------------------------------------------------------------------------------


@BOTH
def test_a_new_database(fresh: Any, command: str) -> None:
    """Fixed modules' schemas in the order of the setting, extensions in theirs, each schema its own tables."""
    assert list(report(command=command)) == ["public", "billing"]
    found = tables("public", fresh) - {"pg_tenants_marker", "pg_tenants_templates"}
    assert found == {"customers_tenant", "customers_domain", "django_migrations"}
    assert tables("billing", fresh) >= {"billing_invoice", "pg_tenants_marker"}
    row = fresh.execute(
        "SELECT extnamespace::regnamespace::text FROM pg_extension WHERE extname = 'pg_trgm'"
    ).fetchone()
    assert row == ("public",)
    acme = make_tenant("acme")
    assert set(report(command=command)) == {"public", "billing", "acme"}
    with tenant_context(acme):
        assert Note.objects.count() == 0
    for schema in ("public", "billing", "acme"):
        with schema_context(schema), connection.cursor() as cursor:
            cursor.execute("SELECT DISTINCT app FROM django_migrations ORDER BY 1")
            apps = {app for (app,) in cursor.fetchall()}
            wanted = {"public": {"customers"}, "billing": {"billing"}}
            assert apps == wanted.get(schema, {"admin", "auth", "contenttypes", "notes", "sessions"})


@BOTH
def test_a_plan_changes_nothing(fresh: Any, command: str) -> None:
    """Not even schemas, markers and extensions are made."""
    counts = ", ".join(f"(SELECT count(*) FROM {table})" for table in ("pg_class", "pg_namespace", "pg_extension"))
    count = f"SELECT {counts}"
    before = fresh.execute(count).fetchone()
    text = run(command, "--plan")
    assert text.index("public (shared)") < text.index("customers.0001_initial")
    assert text.index("customers.0001_initial") < text.index("billing.0001_initial")
    assert "billing  billing  1 pending" in run(command, "--list")
    assert report("--plan", command=command) == {
        "public": ["customers.0001_initial"],
        "billing": ["billing.0001_initial"],
    }
    with pytest.raises(SystemExit) as stop:
        run(command, "--check")
    assert stop.value.code == 1
    assert fresh.execute(count).fetchone() == before


def test_extensions_come_before_tables(fresh: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first migration that runs finds them."""
    from django.db.migrations import CreateModel

    seen = set()
    original = CreateModel.database_forwards

    def spy(self: Any, app_label: str, *args: Any) -> None:
        count = fresh.execute("SELECT count(*) FROM pg_extension WHERE extname = 'pg_trgm'").fetchone()
        seen.add((app_label, *count))
        original(self, app_label, *args)

    monkeypatch.setattr(CreateModel, "database_forwards", spy)
    run("migrate_schemas")
    # The tenants' module is for its template.
    assert {("customers", 1), ("billing", 1), ("notes", 1)} <= seen
    assert {count for _, count in seen} == {1}


def test_a_failing_fixed_module_stops_before_the_tenants(fresh: Any) -> None:
    """Their migrations may need its tables; the failure is named."""
    run("migrate_schemas")
    make_tenant("acme")
    run("migrate_schemas", "--schema", "acme", "notes", "zero")
    fresh.execute("DELETE FROM billing.django_migrations")
    message = r'so no tenant was touched.*\n.*billing: ProgrammingError: .*"billing_invoice" already exists'
    with pytest.raises(CommandError, match=message):
        run("migrate_schemas")
    assert "notes_note" not in tables("acme", fresh)
    fresh.execute("DROP TABLE billing.billing_invoice, billing.billing_invoiceline")
    run("migrate_schemas")
    assert "notes_note" in tables("acme", fresh)


def test_a_broken_extension_stops_before_all_tables(fresh: Any) -> None:
    """With its name, and no traceback."""
    from django.conf import settings

    raw: Any = settings.PG_TENANTS
    modules = {**raw["MODULES"], "tenant": {**raw["MODULES"]["tenant"], "extensions": ["nothing_like_it"]}}
    with override_settings(PG_TENANTS={**raw, "MODULES": modules}):
        with pytest.raises(CommandError, match="'nothing_like_it'"):
            run("migrate_schemas", skip_checks=True)
        assert tables("public", fresh) == set()


# -- nothing to do ----------------------------------------------------------------------------------------------------


@BOTH
def test_when_all_is_done(acme: Any, command: str) -> None:
    """It says so, for people and machines, and exits with 0."""
    assert "3 schemas: 0 migrated, 3 up to date" in run(command)
    assert "No migration is pending in 3 schemas" in run(command, "--plan")
    assert "acme     tenant   up to date" in run(command, "--list")
    assert report(command=command) == {"public": [], "billing": [], "acme": []}
    run(command, "--check")
    assert run(command, verbosity=0) == ""


@BOTH
def test_check_tells_by_its_exit_status(acme: Any, command: str) -> None:
    """1 if something is pending, nothing if not; with --json too."""
    run(command, "--schema", "acme", "notes", "zero")
    for extra in ((), ("--json",), ("--plan",)):
        with pytest.raises(SystemExit) as stop:
            run(command, "--check", *extra)
        assert stop.value.code == 1
    run(command, "--check", "--exclude", "acme")
    run(command)
    run(command, "--check")


# -- choosing ---------------------------------------------------------------------------------------------------------


@BOTH
def test_some_schemas(acme: Any, globex: Any, command: str) -> None:
    """By name, by module, and without those of a pattern; an app's schemas are those of its module."""
    names = lambda *args: list(report("--plan", *args, command=command))  # noqa: E731
    assert names() == ["public", "billing", "acme", "globex"]
    assert names("--schema", "globex") == ["globex"]
    assert names("--schema", "globex", "--schema", "public") == ["public", "globex"]
    assert names("--schema", "billing") == ["billing"]
    assert names("--module", "tenant") == ["acme", "globex"]
    assert names("--module", "shared", "--module", "billing") == ["public", "billing"]
    assert names("--module", "tenant", "--exclude", "ac*") == ["globex"]
    assert names("--exclude", "b*", "--exclude", "globex") == ["public", "acme"]
    assert names("--exclude", "*") == []
    assert names("notes") == ["acme", "globex"]
    assert names("billing") == ["billing"]
    assert names("auth", "--schema", "acme") == ["acme"]


@BOTH
@pytest.mark.parametrize(
    ("args", "parts"),
    [
        (["--schema", "acmee"], ["no schema 'acmee'", "Did you mean 'acme'?"]),
        (["--schema", "acme", "--schema", "nowhere"], ["no schema 'nowhere'"]),
        (["--module", "tenants"], ["no module 'tenants'", "Did you mean 'tenant'?"]),
        (["note"], ["label 'note'", "Did you mean 'notes'?"]),
        (["messages"], ["'messages' is in no module", "PG_TENANTS['MODULES']"]),
        (["notes", "0007"], ["'notes' has no migration that begins with '0007'", "showmigrations notes"]),
        (["auth", "00"], ["More than one migration of 'auth' begins with '00'"]),
    ],
)
def test_unknown_names(acme: Any, command: str, args: list[str], parts: list[str]) -> None:
    """They are errors that name the nearest, and nothing is migrated."""
    with pytest.raises(CommandError) as caught:
        run(command, *args)
    for part in parts:
        assert part in str(caught.value)


# -- targets ----------------------------------------------------------------------------------------------------------


@BOTH
def test_backwards_to_zero_and_forwards(acme: Any, globex: Any, raw: Any, command: str) -> None:
    """In all schemas of the app, or in one; other apps and schemas stay."""
    text = run(command, "notes", "zero", "--schema", "acme")
    assert "acme: Unapplied notes.0001_initial" in text
    assert not {"notes_note", "notes_tag"} & tables("acme", raw)
    assert "auth_user" in tables("acme", raw)
    with tenant_context(globex):
        assert Note.objects.count() == 1
    assert report(command=command)["acme"] == ["notes.0001_initial"]
    assert "notes_note" in tables("acme", raw)
    assert report("notes", "zero", command=command) == {
        "acme": ["-notes.0001_initial"],
        "globex": ["-notes.0001_initial"],
    }
    assert "notes_note" not in tables("globex", raw)
    assert report("notes", "0001", command=command) == {
        "acme": ["notes.0001_initial"],
        "globex": ["notes.0001_initial"],
    }


@BOTH
def test_a_migration_in_the_middle(acme: Any, raw: Any, command: str) -> None:
    """As Django's own command does it, by a prefix of its name."""
    applied = report("auth", "0010", "--schema", "acme", command=command)["acme"]
    assert [name.split(".")[1][:4] for name in applied] == ["0012", "0011"]
    assert all(name.startswith("-auth.") for name in applied)
    applied = report("auth", "--schema", "acme", command=command)["acme"]
    assert [name.split(".")[1][:4] for name in applied] == ["0011", "0012"]


@BOTH
def test_fake(acme: Any, raw: Any, command: str) -> None:
    """It records and changes no table."""
    assert "(faked)" in run(command, "notes", "zero", "--fake", "--schema", "acme")
    assert "notes_note" in tables("acme", raw)
    assert report("--plan", command=command)["acme"] == ["notes.0001_initial"]
    with pytest.raises(CommandError, match="already exists"):
        run(command)
    run(command, "--fake-initial")
    assert report("--plan", command=command)["acme"] == []
    with tenant_context(acme):
        assert Note.objects.count() == 1


def test_a_fixed_modules_backwards(acme: Any, raw: Any) -> None:
    """Only there."""
    assert report("billing", "zero") == {"billing": ["-billing.0001_initial"]}
    assert "billing_invoice" not in tables("billing", raw)
    assert report("billing") == {"billing": ["billing.0001_initial"]}


# -- failures ---------------------------------------------------------------------------------------------------------


@BOTH
def test_one_failing_schema_stops_no_other(acme: Any, globex: Any, raw: Any, command: str) -> None:
    """It is named with its reason, and left as it was; the next run does only what is left."""
    initech = make_tenant("initech")
    run(command, "notes", "zero")
    raw.execute(sql.SQL("CREATE TABLE {}.notes_note ()").format(sql.Identifier(physical("globex"))))
    out = io.StringIO()
    with pytest.raises(CommandError) as caught:
        call_command(command, stdout=out, stderr=out)
    assert caught.value.returncode == 1
    assert "1 schema failed" in str(caught.value)
    assert "The others are done." in str(caught.value)
    assert 'globex: ProgrammingError: relation "notes_note" already exists' in str(caught.value)
    assert "acme:" not in str(caught.value)
    assert "globex: failed" in out.getvalue()
    for tenant in (acme, initech):
        with tenant_context(tenant):
            Tag.objects.create(name="works")
    assert "notes_tag" not in tables("globex", raw)
    assert current_schema() is None
    raw.execute(sql.SQL("DROP TABLE {}.notes_note").format(sql.Identifier(physical("globex"))))
    assert {name for name, applied in report(command=command).items() if applied} == {"globex"}


def test_the_exit_status(acme: Any, raw: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Of the command line: 1, with JSON on stdout and the names on stderr, and no traceback."""
    run("migrate_schemas", "notes", "zero")
    raw.execute(sql.SQL("CREATE TABLE {}.notes_note ()").format(sql.Identifier(physical("acme"))))
    with pytest.raises(SystemExit) as stop:
        ManagementUtility(["manage.py", "migrate_schemas", "--json"]).execute()
    assert stop.value.code == 1
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert found["failed"] == 1
    errors = {entry["schema"]: entry["error"] for entry in found["schemas"]}
    assert errors["public"] is errors["billing"] is None
    assert "already exists" in errors["acme"]
    assert "acme: ProgrammingError" in captured.err
    assert "Traceback" not in captured.err


def test_a_schema_that_is_gone_is_a_failure_of_its_own(acme: Any, globex: Any, raw: Any) -> None:
    """It is reported, and not taken for public's migrations."""
    raw.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(sql.Identifier(physical("acme"))))
    with pytest.raises(CommandError, match="acme: SchemaDoesNotExist"):
        run("migrate_schemas")
    run("migrate_schemas", "--schema", "globex")


def test_a_tenant_of_an_unknown_module(acme: Any, globex: Any) -> None:
    """It is named, and does not keep the others from being migrated."""
    run("migrate_schemas", "notes", "zero", "--schema", "globex")
    Tenant._base_manager.filter(pk=acme.pk).update(module="gone")
    try:
        with pytest.raises(CommandError, match=r"'acme' is of module 'gone'"):
            run("migrate_schemas")
        assert "globex" not in [name for name, applied in report("--plan", "--schema", "globex").items() if applied]
    finally:
        Tenant._base_manager.filter(pk=acme.pk).update(module="tenant")


# -- signals and the rest ---------------------------------------------------------------------------------------------


def test_signals_are_sent_in_each_schema(acme: Any, globex: Any) -> None:
    """As Django sends them, where something is applied, with the schema active."""
    seen: list[Any] = []

    def receive(sender: Any, signal: Any, plan: Any, **kwargs: Any) -> None:
        if sender.label == "notes":
            seen.append((current_schema(), signal is pre_migrate, [f"{m.app_label}.{m.name}" for m, _ in plan]))

    run("migrate_schemas", "notes", "zero")
    pre_migrate.connect(receive)
    post_migrate.connect(receive)
    try:
        run("migrate_schemas")
        run("migrate_schemas")
    finally:
        pre_migrate.disconnect(receive)
        post_migrate.disconnect(receive)
    assert seen == [(name, pre, ["notes.0001_initial"]) for name in ("acme", "globex") for pre in (True, False)]
    for tenant in (acme, globex):
        with tenant_context(tenant), connection.cursor() as cursor:
            cursor.execute(
                "SELECT count(*) FROM auth_permission p JOIN django_content_type c ON c.id = p.content_type_id"
                " WHERE c.app_label = 'notes' AND c.model = 'note'"
            )
            assert cursor.fetchone() == (4,)


def test_inside_a_tenant_it_still_migrates_all(acme: Any, globex: Any, raw: Any) -> None:
    """What is active around is left alone."""
    run("migrate_schemas", "notes", "zero")
    with tenant_context(acme):
        call_command("migrate_schemas", verbosity=0)
        assert current_schema() == "acme"
    assert "notes_note" in tables("globex", raw)
    assert not {"customers_tenant", "billing_invoice"} & tables("acme", raw)


def test_aliases_without_tenants(open_db: None, tmp_path: Path) -> None:
    """`migrate` does what Django's does; `migrate_schemas` refuses, and says what to use."""
    connections.settings["plain"] = {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": str(tmp_path / "plain.sqlite3"),
        **{
            key: value
            for key, value in connections.settings["default"].items()
            if key not in ("ENGINE", "NAME", "OPTIONS")
        },
        "OPTIONS": {},
    }
    try:
        with override_settings(DATABASE_ROUTERS=[]):
            run("migrate", "contenttypes", database="plain")
            assert "django_content_type" in connections["plain"].introspection.table_names()
        with pytest.raises(CommandError, match=r"DATABASES\['plain'\] has no schemas to choose from.*Use 'migrate'"):
            run("migrate_schemas", database="plain")
    finally:
        connections["plain"].close()
        del connections["plain"]
        del connections.settings["plain"]


def test_an_alias_bound_to_one_schema(open_db: None, raw: Any) -> None:
    """`migrate` makes Django's tables in that schema, without PG_TENANTS too."""
    default = connections["default"].settings_dict
    options = {**default["OPTIONS"], "tenants": {**default["OPTIONS"].get("tenants", {}), "schema": "bound"}}
    connections.settings["bound"] = {**default, "OPTIONS": options}
    name = connections["bound"].physical_schema("bound")  # type: ignore[attr-defined]
    try:
        with override_settings(DATABASE_ROUTERS=[], PG_TENANTS=_server_alone()):
            run("migrate", "contenttypes", database="bound", skip_checks=True)
            rows = raw.execute("SELECT tablename FROM pg_tables WHERE schemaname = %s", [name]).fetchall()
            assert {"django_content_type", "django_migrations"} <= {table for (table,) in rows}
        with pytest.raises(CommandError, match="is bound to one schema"):
            run("migrate_schemas", database="bound")
    finally:
        connections["bound"].close()
        del connections["bound"]
        del connections.settings["bound"]
        raw.execute(sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(sql.Identifier(name)))


def _server_alone() -> Any:
    from django.conf import settings

    # The alias's own server is described there; nothing else is.
    return {"PGSERVER": settings.PG_TENANTS["PGSERVER"]}


def test_conflicting_migrations(acme: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are told before anything is done."""
    from django.db.migrations.loader import MigrationLoader

    monkeypatch.setattr(MigrationLoader, "detect_conflicts", lambda self: {"notes": ["0002_a", "0002_b"]})
    with pytest.raises(CommandError, match=r"0002_a, 0002_b in notes.*makemigrations --merge"):
        run("migrate_schemas")


def test_two_runs_at_once(acme: Any, globex: Any) -> None:
    """Neither crashes, and in the end every schema has its tables once."""
    from concurrent.futures import ThreadPoolExecutor

    run("migrate_schemas", "notes", "zero")

    def migrate(_: int) -> str | None:
        try:
            call_command("migrate_schemas", verbosity=0, stdout=io.StringIO(), stderr=io.StringIO())
        except CommandError as exc:
            return str(exc)
        else:
            return None
        finally:
            connections.close_all()

    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(migrate, range(2)))
    assert results == [None, None]
    assert report("--plan") == {"public": [], "billing": [], "acme": [], "globex": []}


def test_migrate_with_a_name_and_no_app(acme: Any) -> None:
    """An option of Django that makes no sense alone."""
    with pytest.raises(CommandError, match="Give an app label"):
        run("migrate_schemas", migration_name="0001")
