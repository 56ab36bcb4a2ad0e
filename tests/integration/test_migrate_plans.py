"""Runs that go back, show, prune or make the database first."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import connection, connections
from psycopg import sql

from pg_tenants import tenant_context
from pg_tenants.createdb import create_database
from tests.conftest import make_tenant, set_status
from tests.fix_alias import default_alias
from tests.integration.test_migrate_schemas import fresh, physical, report, run, tables

__all__ = ["fresh"]

FIELD = 'migrations.AddField("note", "%s", models.TextField(default=""))'


def columns(raw: Any, schema: str) -> set[str]:
    rows = raw.execute(
        "SELECT column_name FROM information_schema.columns WHERE table_schema = %s AND table_name = 'notes_note'",
        [physical(schema)],
    ).fetchall()
    return {name for (name,) in rows}


# -- back -------------------------------------------------------------------------------------------------------------


def test_back(acme: Any, globex: Any, notes_migrations: Any, raw: Any) -> None:
    """The last N of an app, or of the schema, by the order in which they would be applied; then forwards again."""
    for number, name in enumerate(("one", "two", "three"), start=2):
        notes_migrations.add(f"000{number}_{name}", FIELD % name)
    run("migrate_schemas")
    found = report("notes", "--back", "2", "--schema", "acme")
    assert found == {"acme": ["-notes.0004_three", "-notes.0003_two"]}
    assert {"one", "two", "three"} & columns(raw, "acme") == {"one"}
    assert {"one", "two", "three"} <= columns(raw, "globex")
    assert report("--plan", "notes", "--back", "1") == {"acme": ["-notes.0002_one"], "globex": ["-notes.0004_three"]}
    run("migrate_schemas", "notes", "--back", "1")
    assert "one" not in columns(raw, "acme")
    assert report()["acme"] == ["notes.0002_one", "notes.0003_two", "notes.0004_three"]
    assert report("notes", "--back", "9", "--plan", "--schema", "acme")["acme"][-1] == "-notes.0001_initial"
    # Without an app: from the end of the order in which an empty schema gets them.
    assert report("--back", "2", "--plan", "--module", "tenant")["acme"] == [
        "-sessions.0001_initial",
        "-notes.0004_three",
    ]


def test_back_over_what_others_depend_on(acme: Any, raw: Any) -> None:
    """What depends on an app's migration goes as well, before it."""
    found = report("auth", "--back", "12", "--schema", "acme")["acme"]
    assert found.index("-notes.0001_initial") < found.index("-auth.0001_initial")
    assert found.index("-admin.0001_initial") < found.index("-auth.0001_initial")
    assert "auth_user" not in tables("acme", raw)


def test_what_is_irreversible_is_refused_before_anything(acme: Any, globex: Any, notes_migrations: Any) -> None:
    """By its name, also where only one schema has it; the record alone can be taken back."""
    notes_migrations.add("0002_one", FIELD % "one")
    run("migrate_schemas")
    notes_migrations.add("0003_sql", 'migrations.RunSQL("SELECT 1")')
    run("migrate_schemas", "--schema", "globex")
    with pytest.raises(CommandError, match=r"notes\.0003_sql cannot be unapplied.*1 schema \(globex\).*--fake"):
        run("migrate_schemas", "notes", "--back", "1")
    with pytest.raises(CommandError, match=r"notes\.0003_sql cannot be unapplied"):
        run("migrate_schemas", "notes", "0001")
    assert report("--plan") == {"public": [], "billing": [], "acme": ["notes.0003_sql"], "globex": []}
    run("migrate_schemas", "notes", "--back", "1", "--fake", "--schema", "globex")
    assert report("--plan")["globex"] == ["notes.0003_sql"]


def test_tenants_are_not_parted_from_their_rows(acme: Any) -> None:
    """The migration that made their table is not unapplied while there are any."""
    with pytest.raises(CommandError, match=r"would drop the table of the tenants.*1 schema \(acme\)"):
        run("migrate_schemas", "--back", "1")
    with pytest.raises(CommandError, match="would drop the table of the tenants"):
        run("migrate_schemas", "customers", "zero")
    assert report("--plan") == {"public": [], "billing": [], "acme": []}


@pytest.mark.parametrize(
    ("args", "match"),
    [
        (["--back", "0"], "give 1 or more"),
        (["--back", "x"], "invalid _positive value|not a whole number"),
        (["notes", "0001", "--back", "1"], "not both"),
        (["--prune"], "Give an app label with --prune"),
    ],
)
def test_contradictions(open_db: None, args: list[str], match: str) -> None:
    """They are errors before anything is done."""
    with pytest.raises(CommandError, match=match):
        run("migrate_schemas", *args)


# -- prune ------------------------------------------------------------------------------------------------------------


def test_prune(acme: Any, globex: Any, notes_migrations: Any) -> None:
    """Records of migrations without files go, in the schemas that have them, and nothing else."""
    notes_migrations.add("0002_one", FIELD % "one")
    run("migrate_schemas", "--schema", "globex")
    notes_migrations.remove("0002_one")
    assert "1 pending" in run("migrate_schemas", "notes", "--prune", "--list")
    assert "notes.0002_one" in run("migrate_schemas", "notes", "--prune", "--dry-run")
    text = run("migrate_schemas", "notes", "--prune")
    assert "globex: Unapplied notes.0002_one" in text
    assert "2 schemas: 1 pruned, 1 up to date" in text
    assert "0 pruned" in run("migrate_schemas", "notes", "--prune")
    with tenant_context(globex), connection.cursor() as cursor:
        cursor.execute("SELECT name FROM django_migrations WHERE app = 'notes'")
        assert cursor.fetchall() == [("0001_initial",)]


def test_prune_keeps_what_a_squashed_migration_needs(acme: Any, notes_migrations: Any) -> None:
    """As Django's does."""
    notes_migrations.add("0002_one", FIELD % "one")
    run("migrate_schemas")
    notes_migrations.remove("0002_one")
    notes_migrations.add("0002_squashed", FIELD % "one")
    path = notes_migrations.folder / "0002_squashed.py"
    path.write_text(path.read_text() + '\n    replaces = [("notes", "0002_one")]\n')
    with pytest.raises(CommandError, match=r"Nothing was pruned: notes\.0002_squashed still has 'replaces'"):
        run("migrate_schemas", "notes", "--prune")


# -- dry run ----------------------------------------------------------------------------------------------------------


def test_a_dry_run_tells_all(fresh: Any) -> None:
    """Extensions, schemas, and the SQL of each migration; in the database nothing is."""
    text = run("migrate_schemas", "--dry-run", "--skip-checks")
    assert "It would install the extension pg_trgm." in text
    assert "It would make the schema billing." in text
    assert "-- customers.0001_initial" in text
    assert 'CREATE TABLE "billing_invoice"' in text
    assert "2 schemas: 2 would be migrated, 0 up to date. Nothing was changed." in text
    assert fresh.execute("SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace").fetchone() == (0,)


def test_a_dry_run_shows_each_script_once(acme: Any, globex: Any, notes_migrations: Any) -> None:
    """For all schemas that have the same migrations pending; what depends on one before it is told as well."""
    for name in ("initech", "umbrella"):
        make_tenant(name)
    notes_migrations.add("0002_one", FIELD % "one")
    run("migrate_schemas", "--schema", "umbrella")
    index = 'AddIndexConcurrently("note", models.Index(fields=["one"], name="by_one"))'
    notes_migrations.add("0003_index", index, atomic=False)
    text = run("migrate_schemas", "--dry-run")
    assert text.count('ALTER TABLE "notes_note" ADD COLUMN "one"') == 1
    assert text.count('CREATE INDEX CONCURRENTLY "by_one"') == 2
    assert "acme, globex, initech (tenant)" in text
    assert "umbrella (tenant)" in text
    assert "6 schemas: 4 would be migrated, 2 up to date" in text
    document = json.loads(run("migrate_schemas", "--dry-run", "--json"))
    assert document["scripts"][0]["schemas"] == ["acme", "globex", "initech"]
    assert "CREATE INDEX CONCURRENTLY" in document["scripts"][0]["sql"]
    assert document["extensions"] == document["schemas_to_create"] == []
    back = run("migrate_schemas", "--dry-run", "notes", "--back", "1", "--schema", "umbrella")
    assert 'DROP COLUMN "one"' in back


def test_a_dry_run_writes_nothing_at_all(acme: Any, notes_migrations: Any, raw: Any, server_params: Any) -> None:
    """A role that may only read can do it, and an operation that would write is held back."""
    notes_migrations.add("0002_one", FIELD % "one")
    notes_migrations.add("0003_writes", "Writes()")
    path = notes_migrations.folder / "0003_writes.py"
    writes = (
        "class Writes(migrations.RunSQL):\n"
        "    def __init__(self):\n"
        '        super().__init__("SELECT 1")\n'
        "    def database_forwards(self, app_label, schema_editor, from_state, to_state):\n"
        '        schema_editor.connection.cursor().execute("DELETE FROM notes_note")\n'
        "class Migration"
    )
    path.write_text(path.read_text().replace("class Migration", writes, 1))
    for statement in (
        "DROP ROLE IF EXISTS only_reader",
        "CREATE ROLE only_reader LOGIN PASSWORD 'reader' IN ROLE pg_read_all_data",
        "ALTER ROLE only_reader SET default_transaction_read_only = on",
    ):
        raw.execute(statement)
    try:
        reader = {**server_params, "user": "only_reader", "password": "reader"}
        with default_alias(reader, int(server_params["port"])):
            text = run("migrate_schemas", "--dry-run", "--skip-checks")
        with default_alias(server_params, int(server_params["port"])):
            assert run("migrate_schemas", "--dry-run", "--skip-checks") == text
    finally:
        raw.execute("DROP ROLE only_reader")
    assert 'ADD COLUMN "one"' in text
    assert "cannot execute DELETE in a read-only transaction" in text
    with tenant_context(acme), connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM notes_note")
        assert cursor.fetchone() == (1,)


# -- a missing database -----------------------------------------------------------------------------------------------


@pytest.fixture
def missing(open_db: None, raw: Any) -> Any:
    """Point the default alias to a database that the server does not have, and return its name."""
    default = connections["default"]
    before = default.settings_dict["NAME"]
    name = f"{before}_missing"
    drop = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))
    raw.execute(drop)
    default.close()
    default.settings_dict["NAME"] = name
    yield name
    default.close()
    default.settings_dict["NAME"] = before
    raw.execute(drop)


def test_create_db(missing: str, raw: Any) -> None:
    """It makes the database, then migrates; a second time it finds it there."""
    there = "SELECT count(*) FROM pg_database WHERE datname = %s"
    text = run("migrate_schemas", "--create-db", "--dry-run")
    assert f"It would create the database {missing!r}" in text
    assert raw.execute(there, [missing]).fetchone() == (0,)
    assert f"Created the database {missing!r}." in run("migrate_schemas", "--create-db")
    assert raw.execute(there, [missing]).fetchone() == (1,)
    assert json.loads(run("migrate_schemas", "--create-db", "--json"))["changed"] == 0
    assert create_database() is False


def test_create_db_without_the_privilege(missing: str, raw: Any, server_params: Any) -> None:
    """The error names the role and what the database's administrator has to run."""
    raw.execute("CREATE ROLE no_creator LOGIN PASSWORD 'reader'")
    try:
        with default_alias({**server_params, "user": "no_creator", "password": "reader"}, int(server_params["port"])):
            connections["default"].settings_dict["NAME"] = missing
            with pytest.raises(CommandError, match=rf"'no_creator' may not create the database '{missing}'.*CREATEDB"):
                run("migrate_schemas", "--create-db")
            raw.execute("ALTER ROLE no_creator CREATEDB; ALTER ROLE no_creator SET default_transaction_read_only = on")
            with pytest.raises(CommandError, match="is read-only"):
                run("migrate_schemas", "--create-db")
    finally:
        raw.execute("DROP ROLE no_creator")


# -- choosing ---------------------------------------------------------------------------------------------------------


def test_tenants_that_have_no_schema_yet(acme: Any, globex: Any) -> None:
    """They are left out and said at -v 2; by name, it says what makes their schema. A suspended one is migrated."""
    set_status(globex, "failed")
    set_status(acme, "suspended")
    try:
        assert "left out, because their schemas are still to be made: globex (failed)" in run(
            "migrate_schemas", verbosity=2
        )
        assert list(report("--plan")) == ["public", "billing", "acme"]
        assert list(report("--plan", "--schema", "acme")) == ["acme"]
        with pytest.raises(CommandError, match=r"'globex' has the status 'failed'.*provision_tenants globex"):
            run("migrate_schemas", "--schema", "globex")
    finally:
        set_status(globex, "active")


@pytest.mark.parametrize(
    ("args", "parts"),
    [
        (["--exclude", "acmee"], ["no schema 'acmee' to exclude", "Did you mean 'acme'?"]),
        (["--schema", "acme", "--module", "billing"], ["'acme' is of the module 'tenant'", "--module"]),
        (["notes", "--schema", "public"], ["None of the chosen schemas (public)", "'notes'", "'tenant'"]),
        (["--verify", "--schema", "acmee"], ["no schema 'acmee'", "Did you mean 'acme'?"]),
        (["--verify", "--module", "tenants"], ["no module 'tenants'"]),
        (["--dry-run", "--schema", "acmee"], ["no schema 'acmee'"]),
    ],
)
def test_choices_that_cannot_be_meant(acme: Any, args: list[str], parts: list[str]) -> None:
    """They are errors, and nothing is done."""
    with pytest.raises(CommandError) as caught:
        run("migrate_schemas", *args)
    for part in parts:
        assert part in str(caught.value)


def test_a_pattern_that_matches_nothing_is_told(acme: Any) -> None:
    """It may match tomorrow, so it is no error."""
    err = io.StringIO()
    call_command("migrate_schemas", "--exclude", "trial_*", stdout=io.StringIO(), stderr=err)
    assert "The pattern 'trial_*' of --exclude matches no schema." in err.getvalue()
