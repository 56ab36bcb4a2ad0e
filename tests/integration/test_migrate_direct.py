"""Migrating where the alias leads through a pooler."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.core.management.base import CommandError
from django.db import connection, connections, transaction

from pg_tenants import migrations, tenant_context
from pg_tenants.checks import check_installation
from pg_tenants.exceptions import ConfigurationError
from pg_tenants.migrations import _direct
from tests.integration.test_migrate_schemas import physical, report, run

INDEX = 'AddIndexConcurrently("note", models.Index(fields=["title"], name="by_title"))'
VACUUM = 'migrations.RunSQL("VACUUM notes_note", "VACUUM notes_note")'
FIELD = 'migrations.AddField("note", "extra", models.TextField(default=""))'
WAY = """migrations.RunPython(way, way)"""
WAY_CODE = """
def way(apps, schema_editor):
    connection = schema_editor.connection
    assert connection.alias == "default", connection.alias
    assert connection.is_pooled() is POOLED
    apps.get_model("notes", "Note").objects.update(body="seen")

class Migration"""


def add_way(notes_migrations: Any, name: str, *, pooled: bool) -> None:
    """Add a migration whose code looks at how it is connected, and uses models without saying where."""
    notes_migrations.add(name, WAY)
    path = notes_migrations.folder / f"{name}.py"
    path.write_text(path.read_text().replace("\nclass Migration", WAY_CODE.replace("POOLED", str(pooled)), 1))


def indexes(raw: Any) -> list[str]:
    rows = raw.execute(
        "SELECT indexname FROM pg_indexes WHERE schemaname = %s AND tablename = 'notes_note'", [physical("acme")]
    ).fetchall()
    return [name for (name,) in rows]


@pytest.fixture
def with_direct(through_pgbouncer: Any, make_alias: Any) -> Iterator[None]:
    """Give the default alias, behind PgBouncer, a direct one for its migrations."""
    make_alias("direct")
    connection.settings_dict["OPTIONS"] = {"tenants": {"migrations": {"alias": "direct"}}}
    yield
    connection.settings_dict["OPTIONS"] = {}


def test_migrations_take_the_direct_way(acme: Any, with_direct: None, notes_migrations: Any, raw: Any) -> None:
    """Under their own alias: code finds the tenant's rows; what needs its own session runs; then all is as before."""
    notes_migrations.add("0002_index", INDEX, atomic=False)
    add_way(notes_migrations, "0003_way", pooled=False)
    notes_migrations.add("0004_vacuum", 'migrations.RunSQL("VACUUM notes_note", "")', atomic=False)
    run("migrate_schemas")
    assert "by_title" in indexes(raw)
    assert connection.is_pooled()
    with tenant_context(acme), connection.cursor() as cursor:
        cursor.execute("SELECT body FROM notes_note")
        assert cursor.fetchall() == [("seen",)]
    assert not migrations.verify(names=["public"]).different
    assert report("notes", "--back", "1", "--fake")["acme"] == ["-notes.0004_vacuum"]
    notes_migrations.remove("0004_vacuum")
    notes_migrations.remove("0003_way")
    assert "1 pruned" in run("migrate_schemas", "notes", "--prune")
    assert connection.is_pooled()


def test_without_a_direct_way_what_can_run_runs(
    acme: Any, through_pgbouncer: Any, notes_migrations: Any, raw: Any
) -> None:
    """Ordinary migrations and code go through the pooler."""
    notes_migrations.add("0002_field", FIELD)
    add_way(notes_migrations, "0003_way", pooled=True)
    run("migrate_schemas")
    assert report("--plan")["acme"] == []
    assert not migrations.verify(names=["acme"]).failed


@pytest.mark.parametrize("operation", [INDEX, VACUUM])
def test_without_a_direct_way_what_cannot_run_is_refused_first(
    acme: Any, globex: Any, through_pgbouncer: Any, notes_migrations: Any, raw: Any, operation: str
) -> None:
    """Before anything is changed, with the migration and what it needs."""
    notes_migrations.add("0002_field", FIELD)
    notes_migrations.add("0003_alone", operation, atomic=False)
    with pytest.raises(CommandError) as caught:
        run("migrate_schemas")
    text = str(caught.value)
    assert "notes.0003_alone, pending in 2 schemas (acme, globex), needs a connection of its own" in text
    assert "Nothing was changed" in text
    assert "DATABASES['default']['OPTIONS']['tenants']['migrations']['alias']" in text
    assert report("--plan")["acme"] == ["notes.0002_field", "notes.0003_alone"]
    run("migrate_schemas", "--fake")


@pytest.mark.parametrize(
    ("alias", "match"),
    [("nowhere", "is 'nowhere'.*Name another alias"), ("default", "is 'default'.*Name another alias")],
)
def test_an_alias_that_cannot_be_the_way(open_db: None, acme: Any, alias: str, match: str) -> None:
    """It is an error before anything is done; the check finds it, too."""
    before = connection.settings_dict["OPTIONS"]
    connection.settings_dict["OPTIONS"] = {**before, "tenants": {**before["tenants"], "migrations": {"alias": alias}}}
    try:
        with pytest.raises(CommandError, match=match):
            run("migrate_schemas", "--skip-checks")
        assert [message.id for message in check_installation()] == ["pg_tenants.E048"]
        run("migrate_schemas", "--plan", "--skip-checks")
    finally:
        connection.settings_dict["OPTIONS"] = before


def test_a_way_to_another_database(
    acme: Any, make_alias: Any, server_params: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its name alone shows it to the check; the server shows it to the run."""
    make_alias("direct", params={**server_params, "dbname": "postgres"})
    before = connection.settings_dict["OPTIONS"]
    connection.settings_dict["OPTIONS"] = {
        **before,
        "tenants": {**before["tenants"], "migrations": {"alias": "direct"}},
    }
    name = connection.settings_dict["NAME"]
    try:
        assert [message.id for message in check_installation()] == ["pg_tenants.E049"]
        connections["direct"].settings_dict["NAME"] = name
        assert check_installation() == []
        with transaction.atomic(), pytest.raises(ConfigurationError, match="a transaction is open"):
            migrations.apply()
        # A run keeps the NAME of its own alias, as test runs change that; where the way leads is asked there.
        monkeypatch.setattr(_direct, "_SERVER", "SELECT pg_backend_pid(), current_database(), false")
        with pytest.raises(CommandError, match="is not the database of 'default'"):
            run("migrate_schemas", "--skip-checks")
        assert connection.settings_dict["NAME"] == name
    finally:
        connection.settings_dict["OPTIONS"] = before


def test_a_pooler_without_a_way(acme: Any) -> None:
    """Where the alias says that it is behind one, the check warns."""
    before = connection.settings_dict["OPTIONS"]
    connection.settings_dict["OPTIONS"] = {**before, "tenants": {**before["tenants"], "pooler": True}}
    try:
        assert [message.id for message in check_installation()] == ["pg_tenants.W048"]
    finally:
        connection.settings_dict["OPTIONS"] = before
