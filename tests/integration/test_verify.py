"""Comparing schemas with what their migrations make."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import connection
from django.db.migrations.executor import MigrationExecutor
from psycopg import sql

from pg_tenants import migrations, schemas, tenant_context
from pg_tenants.migrations import Structures
from pg_tenants.provisioning import template
from tests.conftest import make_tenant
from tests.fix_wire import Wire
from tests.integration.test_fleet_reads import add, fleet
from tests.integration.test_migrate_schemas import physical, run

__all__ = ["fleet"]


def change(raw: Any, schema: str, *statements: str) -> None:
    raw.execute(sql.SQL("SET search_path = {}, public").format(sql.Identifier(physical(schema))))
    for statement in statements:
        raw.execute(statement)
    raw.execute("RESET search_path")


def found(structures: Structures) -> dict[str, list[str]]:
    assert not structures.failed, structures.failed[0].error
    return {
        result.schema: [f"{d.change} {d.kind} {d.name}" for d in result.differences]
        for result in structures.results
        if result.differences
    }


def test_schemas_as_their_migrations_make_them(acme: Any, globex: Any) -> None:
    """Fixed modules' and tenants' do not differ, and nothing is left of the comparison."""
    before = schemas.list()
    structures = migrations.verify()
    assert [result.schema for result in structures.results] == ["public", "billing", "acme", "globex"]
    assert found(structures) == {}
    assert schemas.list() == before


DRIFT = {
    "CREATE INDEX by_hand ON notes_note (title)": ["extra index notes_note.by_hand"],
    "CREATE TABLE own (id int)": ["extra column own.id", "extra table own"],
    "ALTER TABLE notes_note ADD extra int DEFAULT 1": ["extra column notes_note.extra"],
    "ALTER TABLE notes_note ALTER title TYPE varchar(99)": ["changed column notes_note.title"],
    "ALTER TABLE notes_tag ALTER name DROP NOT NULL": ["changed column notes_tag.name"],
    "ALTER TABLE django_session DROP session_data": ["missing column django_session.session_data"],
    "DROP TABLE notes_note_tags": ["missing table notes_note_tags"],
    "CREATE FUNCTION own() RETURNS int LANGUAGE sql AS 'SELECT 1'": ["extra function own()"],
    "COMMENT ON TABLE notes_note IS 'by hand'": ["extra comment table notes_note"],
    "CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$": [
        "extra function touch()"
    ],
    "CREATE TRIGGER touch BEFORE UPDATE ON notes_note FOR EACH ROW EXECUTE FUNCTION touch()": [
        "extra trigger notes_note.touch"
    ],
}


def test_each_difference_is_named(acme: Any, globex: Any, raw: Any) -> None:
    """By schema and object, whether it is missing, extra or changed; schemas beside it do not differ."""
    change(raw, "globex", *DRIFT)
    different = found(migrations.verify(modules=["tenant"]))
    assert set(different) == {"globex"}
    wanted = {entry for entries in DRIFT.values() for entry in entries}
    assert wanted <= set(different["globex"])
    # The dropped table had more than itself.
    assert all("notes_note_tags" in entry for entry in set(different["globex"]) - wanted)


def test_a_fixed_modules_schema(acme: Any, raw: Any) -> None:
    """It is compared as well; what belongs to an extension in it is nobody's difference."""
    change(raw, "billing", "ALTER TABLE billing_invoice ADD COLUMN extra int")
    change(raw, "public", "CREATE TABLE leftover (id int)")
    try:
        different = found(migrations.verify())
    finally:
        change(raw, "billing", "ALTER TABLE billing_invoice DROP COLUMN extra")
        change(raw, "public", "DROP TABLE leftover")
    assert different == {
        "billing": ["extra column billing_invoice.extra"],
        "public": ["extra column leftover.id", "extra table leftover"],
    }


def test_where_extensions_are_in_the_fixed_modules_own_schema(acme: Any, notes_migrations: Any, raw: Any) -> None:
    """Their operators have the schema's name before them in the reference alone."""
    name = sql.Identifier(physical("public"))
    raw.execute(sql.SQL("CREATE INDEX trigrams ON {}.customers_tenant USING gin (name gin_trgm_ops)").format(name))
    try:
        assert found(migrations.verify()) == {"public": ["extra index customers_tenant.trigrams"]}
    finally:
        raw.execute(sql.SQL("DROP INDEX {}.trigrams").format(name))


def test_a_schema_that_is_behind(acme: Any, globex: Any, raw: Any) -> None:
    """It is compared with what it has recorded, and says what it lacks."""
    call_command("migrate_schemas", "notes", "zero", schema=["globex"], verbosity=0)
    structures = migrations.verify()
    assert found(structures) == {}
    assert {r.schema: r.pending for r in structures.results if r.pending} == {"globex": ["notes.0001_initial"]}
    change(raw, "globex", "CREATE TABLE notes_note ()")
    assert found(migrations.verify()) == {"globex": ["extra table notes_note"]}


def test_names_of_a_schema_inside_definitions(acme: Any, notes_migrations: Any) -> None:
    """A schema called as a word of the definitions is no other for it, nor one whose functions name it."""
    notes_migrations.add(
        "0002_function",
        'migrations.RunSQL("CREATE FUNCTION label(title text) RETURNS text LANGUAGE sql STABLE AS '
        "'SELECT title || current_schema()'\", migrations.RunSQL.noop)",
    )
    tenants = [make_tenant("title"), make_tenant("character"), acme]
    call_command("migrate_schemas", verbosity=0)
    assert found(migrations.verify()) == {}
    with tenant_context(tenants[0]), connection.cursor() as cursor:
        cursor.execute("DROP FUNCTION label(text)")
    assert found(migrations.verify()) == {"title": ["missing function label(title text)"]}


def test_migrations_that_are_not_atomic(acme: Any, notes_migrations: Any) -> None:
    """Concurrent indexes, as operations and in SQL, are compared like others."""
    index = 'AddIndexConcurrently("note", models.Index(fields=["title"], name="by_title"))'
    notes_migrations.add("0002_concurrently", index, atomic=False)
    statement = 'migrations.RunSQL("CREATE INDEX CONCURRENTLY by_body ON notes_note (body)", migrations.RunSQL.noop)'
    notes_migrations.add("0003_in_sql", statement, atomic=False)
    call_command("migrate_schemas", verbosity=0)
    assert found(migrations.verify()) == {}
    with tenant_context(acme), connection.cursor() as cursor:
        cursor.execute("DROP INDEX by_body")
    assert found(migrations.verify()) == {"acme": ["missing index notes_note.by_body"]}


def test_nothing_of_the_reference_is_kept(acme: Any, notes_migrations: Any, raw: Any) -> None:
    """Not even what its migrations do elsewhere, such as dropping a table that a schema does not have yet."""
    raw.execute(sql.SQL("CREATE TABLE {}.precious (id int)").format(sql.Identifier(physical("public"))))
    notes_migrations.add("0002_drops", 'migrations.RunSQL("DROP TABLE IF EXISTS precious")')
    try:
        call_command("migrate_schemas", "--fake", verbosity=0)
        before = set(raw.execute("SELECT oid FROM pg_class").fetchall())
        migrations.verify()
        assert set(raw.execute("SELECT oid FROM pg_class").fetchall()) == before
    finally:
        raw.execute(sql.SQL("DROP TABLE {}.precious").format(sql.Identifier(physical("public"))))


def test_the_template_serves_as_the_reference(acme: Any, raw: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command runs no migration for schemas that have all of those that the template is of."""
    template.refresh()
    ran: list[str] = []
    original = MigrationExecutor.apply_migration

    def apply(self: Any, state: Any, migration: Any, *args: Any, **kwargs: Any) -> Any:
        ran.append(migration.app_label)
        return original(self, state, migration, *args, **kwargs)

    monkeypatch.setattr(MigrationExecutor, "apply_migration", apply)
    change(raw, "acme", "CREATE INDEX by_hand ON notes_note (title)")
    out = io.StringIO()
    with pytest.raises(CommandError):
        call_command("migrate_schemas", verify=True, schema=["acme"], stdout=out, stderr=io.StringIO())
    assert out.getvalue().count("extra: ") == 1
    assert "extra: index notes_note.by_hand" in out.getvalue()
    assert ran == []
    # One that lacks migrations is compared with fewer.
    call_command("migrate_schemas", "notes", "zero", verbosity=0)
    assert found(migrations.verify(names=["acme"], define=template.define)) == {}
    assert "notes" not in ran
    assert "auth" in ran


def test_squashed_migrations(acme: Any, globex: Any, notes_migrations: Any) -> None:
    """A schema that knows those that were squashed, and one that knows the squashed one, are both right."""
    field = 'migrations.AddField("note", "%s", models.TextField(default=""))'
    notes_migrations.add("0002_one", field % "one")
    notes_migrations.add("0003_two", field % "two")
    call_command("migrate_schemas", schema=["acme"], verbosity=0)
    notes_migrations.names = ["0001_initial"]
    notes_migrations.add("0002_squashed", f"{field % 'one'}, {field % 'two'}")
    path = notes_migrations.folder / "0002_squashed.py"
    path.write_text(path.read_text() + '\n    replaces = [("notes", "0002_one"), ("notes", "0003_two")]\n')
    call_command("migrate_schemas", verbosity=0)
    structures = migrations.verify()
    assert found(structures) == {}
    assert not [result for result in structures.results if result.pending]


def test_a_migration_that_cannot_be_compared(acme: Any, notes_migrations: Any) -> None:
    """Its schemas are named with the reason, the others are compared."""
    notes_migrations.add("0002_vacuum", 'migrations.RunSQL("VACUUM notes_note")', atomic=False)
    call_command("migrate_schemas", verbosity=0)
    structures = migrations.verify()
    assert [result.schema for result in structures.failed] == ["acme"]
    assert "VACUUM cannot run inside a transaction block" in str(structures.failed[0].error)
    assert {r.schema for r in structures.results if r.error is None} == {"public", "billing"}


def test_a_schema_that_is_gone(acme: Any, globex: Any, raw: Any) -> None:
    """It is named, and the others are compared."""
    raw.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(sql.Identifier(physical("acme"))))
    structures = migrations.verify()
    assert [(r.schema, type(r.error).__name__) for r in structures.failed] == [("acme", "SchemaDoesNotExist")]


def test_the_command(acme: Any, globex: Any, raw: Any) -> None:
    """Text for people, JSON for machines, and the exit status tells."""
    assert "4 schemas: 4 as their migrations make them" in run("migrate_schemas", "--verify")
    change(
        raw, "acme", "CREATE INDEX by_hand ON notes_note (title)", "ALTER TABLE notes_note ALTER title DROP NOT NULL"
    )
    out = io.StringIO()
    with pytest.raises(CommandError, match="1 schema of 4 differ") as caught:
        call_command("migrate_schemas", "--verify", stdout=out)
    assert caught.value.returncode == 1
    assert "acme (tenant)\n  changed: column notes_note.title is 'character varying(200) null'" in out.getvalue()
    assert "extra: index notes_note.by_hand is not wanted" in out.getvalue()
    out = io.StringIO()
    with pytest.raises(CommandError):
        call_command("migrate_schemas", "--verify", "--json", stdout=out, stderr=io.StringIO())
    document = json.loads(out.getvalue())
    assert (document["different"], document["failed"]) == (1, 0)
    (entry,) = [entry for entry in document["schemas"] if entry["differences"]]
    assert entry["schema"] == "acme"
    assert {"change": "extra", "kind": "index", "name": "notes_note.by_hand"}.items() <= entry["differences"][1].items()
    assert "1 schema: 1 as" in run("migrate_schemas", "--verify", "--schema", "globex")
    assert "3 schemas: 3 as" in run("migrate_schemas", "--verify", "--exclude", "acme")
    with pytest.raises(CommandError, match="does not go with 'plan'"):
        run("migrate_schemas", "--verify", "--plan")


def test_many_schemas_take_few_statements(wire: Wire, fleet: list[str], raw: Any) -> None:
    """A hundred more schemas cost a handful of statements more; those that differ alike are compared in full once."""

    def messages() -> int:
        wire.reset()
        assert set(found(migrations.verify(progress=seen.append))) == set(fleet)
        return len(wire.messages)

    seen: list[migrations.Event] = []
    before = messages()
    assert [event.kind for event in seen] == ["run", *["done"] * (len(fleet) + 3)]
    fleet += add(raw, 100, start=len(fleet))
    assert 0 < messages() - before <= 30


def test_drift_does_not_break_the_rest(acme: Any, globex: Any, notes_migrations: Any, raw: Any) -> None:
    """A schema changed by hand fails its migration, or gets through it; the others are migrated, and it is named."""
    initech = make_tenant("initech")
    change(raw, "globex", "DROP INDEX IF EXISTS notes_note_author_id_3b8a5a45", "ALTER TABLE notes_note ADD extra int")
    change(raw, "initech", "CREATE INDEX by_hand ON notes_note (title)")
    notes_migrations.add("0002_extra", 'migrations.AddField("note", "extra", models.IntegerField(default=1))')
    with pytest.raises(CommandError, match="1 schema failed") as caught:
        call_command("migrate_schemas", stdout=io.StringIO(), stderr=io.StringIO())
    assert "globex: ProgrammingError" in str(caught.value)
    different = found(migrations.verify())
    assert set(different) == {"globex", "initech"}
    assert "extra column notes_note.extra" in different["globex"]
    assert different["initech"] == ["extra index notes_note.by_hand"]
    for tenant in (acme, initech):
        with tenant_context(tenant), connection.cursor() as cursor:
            cursor.execute("SELECT count(extra) FROM notes_note")
