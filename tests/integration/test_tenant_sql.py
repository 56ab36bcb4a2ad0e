"""`TenantSQL`: Django's RunSQL with templates."""

from __future__ import annotations

import io
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connection, migrations
from django.db.migrations.exceptions import IrreversibleError
from django.db.migrations.optimizer import MigrationOptimizer
from django.db.migrations.recorder import MigrationRecorder
from django.db.migrations.state import ProjectState
from django.db.migrations.writer import OperationWriter
from django.db.models import CharField
from django.test import override_settings

from example_project.notes.models import Note
from pg_tenants import schemas, tenant_context
from pg_tenants.exceptions import NoActiveTenant
from pg_tenants.operations import TenantSQL


def migration(*operations: Any) -> Any:
    made = migrations.Migration("0002_sql", "notes")
    vars(made).update(operations=list(operations))
    return made


def apply(*operations: Any, backwards: bool = False, collect: bool = False) -> list[str]:
    with connection.schema_editor(collect_sql=collect) as editor:
        made = migration(*operations)
        (made.unapply if backwards else made.apply)(ProjectState(), editor, collect)
    return list(editor.collected_sql) if collect else []


@pytest.fixture
def view() -> TenantSQL:
    return TenantSQL(
        "CREATE VIEW {{tables.titles}} AS SELECT title, '{{x}} 100%' AS text FROM {{tables.notes_note}}",
        "DROP VIEW {{schema}}.titles",
    )


def test_forwards_and_backwards(acme: Any, globex: Any, view: TenantSQL) -> None:
    """In each schema with its own name."""
    for tenant in (acme, globex):
        with tenant_context(tenant):
            apply(view)
            with connection.cursor() as cursor:
                cursor.execute("SELECT title, text FROM titles")
                assert cursor.fetchall() == [(f"note of {tenant.schema_name}", "{{x}} 100%")]
    with tenant_context(acme):
        apply(view, backwards=True)
    assert not schemas.table_exists("titles", schema="acme")
    assert schemas.table_exists("titles", schema="globex")


def test_lists_and_parameters(acme: Any) -> None:
    """As RunSQL has them; parameters are values, not templates."""
    with tenant_context(acme):
        apply(TenantSQL([("UPDATE {{tables.notes_note}} SET title = %s", ["{{schema}} 5%"]), "SELECT '%'"]))
        assert Note.objects.get().title == "{{schema}} 5%"
        with pytest.raises(ValueError, match="Expected a 2-tuple"):
            apply(TenantSQL([("SELECT 1",)]))
        apply(TenantSQL(TenantSQL.noop, TenantSQL.noop))
        apply(TenantSQL("", ""), backwards=True)


def test_what_cannot_be_reversed(acme: Any) -> None:
    """Is an error as with RunSQL."""
    with tenant_context(acme), pytest.raises(IrreversibleError):
        apply(TenantSQL("SELECT 1"), backwards=True)


def test_without_a_tenant(open_db: None, view: TenantSQL) -> None:
    """A router that allows it anyway does not make it run elsewhere."""
    with override_settings(DATABASE_ROUTERS=[]), pytest.raises(NoActiveTenant):
        apply(view)


def test_hints_and_the_router(acme: Any) -> None:
    """The router is asked, with the hints."""
    seen = []

    class Router:
        def allow_migrate(self, db: str, app_label: str, **hints: Any) -> bool:
            seen.append((app_label, hints))
            return False

    with override_settings(DATABASE_ROUTERS=[Router()]), tenant_context(acme):
        apply(TenantSQL("SELECT 1 / 0", hints={"target": "notes"}))
    assert seen == [("notes", {"target": "notes"})]


def test_sqlmigrate_collects_it(acme: Any, view: TenantSQL) -> None:
    """With the schema of the tenant that is active."""
    with tenant_context(acme):
        collected = "\n".join(apply(view, collect=True))
    name = connection.physical_schema("acme")  # type: ignore[attr-defined]
    assert f'CREATE VIEW "{name}".titles AS SELECT title' in collected
    assert not schemas.table_exists("titles", schema="acme")


def test_written_and_read(view: TenantSQL) -> None:
    """A squashed migration has it by its public name, with all that it was made of."""
    added = migrations.AddField("note", "text", CharField(default="", max_length=1))
    made = TenantSQL("SELECT 1", "SELECT 2", state_operations=[added], hints={"a": 1}, elidable=True)
    text, imports = OperationWriter(made, indentation=0).serialize()
    assert text.startswith("pg_tenants.operations.TenantSQL(")
    assert "import pg_tenants.operations" in imports
    space: dict[str, Any] = {}
    exec("\n".join([*imports, "from django.db import migrations, models", f"made = {text.rstrip(',')}"]), space)
    again = space["made"]
    assert type(again) is TenantSQL
    assert again.deconstruct()[2].keys() == made.deconstruct()[2].keys() >= {"elidable", "hints", "reverse_sql"}
    assert (again.sql, again.reverse_sql, again.hints, again.elidable) == ("SELECT 1", "SELECT 2", {"a": 1}, True)
    assert MigrationOptimizer().optimize([made, view], "notes") == [view]


OPERATION = """TenantSQL(
    "CREATE VIEW {{tables.titles}} AS SELECT title FROM {{tables.notes_note}}", "DROP VIEW {{schema}}.titles"
)"""


def test_in_a_run(acme: Any, globex: Any, notes_migrations: Any) -> None:
    """Of migrate_schemas: in every schema, and back."""
    notes_migrations.add("0002_sql", f"__import__('pg_tenants.operations').operations.{OPERATION}")
    call_command("migrate_schemas", verbosity=0)
    for tenant in (acme, globex):
        with tenant_context(tenant), connection.cursor() as cursor:
            assert ("notes", "0002_sql") in MigrationRecorder(connection).applied_migrations()
            cursor.execute("SELECT title FROM titles")
            assert cursor.fetchall() == [(f"note of {tenant.schema_name}",)]
    with tenant_context(acme):
        out = io.StringIO()
        call_command("sqlmigrate", "notes", "0001", stdout=out)
    call_command("migrate_schemas", "notes", "0001", verbosity=0)
    assert not schemas.table_exists("titles", schema="globex")
