"""Introspection, inspectdb and migrations see the active schema alone."""

from __future__ import annotations

import io
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connection, transaction
from django.db.migrations.recorder import MigrationRecorder

from example_project.notes.models import Note
from pg_tenants import schema_context, tenant_context
from pg_tenants.exceptions import SchemaDoesNotExist
from pg_tenants.names import MARKER_TABLE

introspection: Any = connection.introspection


def tables() -> set[str]:
    with connection.cursor() as cursor:
        return {table.name for table in introspection.get_table_list(cursor)}


def test_tables_are_those_of_the_active_schema(acme: Any) -> None:
    """Without its marker; without a tenant those of the fixed modules."""
    with tenant_context(acme):
        found = tables()
    assert {"notes_note", "auth_user", "django_migrations"} <= found
    assert not {"customers_tenant", "billing_invoice", MARKER_TABLE} & found
    with schema_context("public"):
        assert tables() == {"customers_tenant", "customers_domain", "django_migrations"}
    with schema_context("billing"):
        assert tables() == {"billing_invoice", "billing_invoiceline", "django_migrations"}
    assert {"customers_tenant", "billing_invoice"} <= tables()
    assert not {"notes_note", MARKER_TABLE} & tables()


def test_a_missing_schema_has_no_tables_to_list(open_db: None) -> None:
    """It is an error, not an empty list, nor those of another schema."""
    with schema_context("nowhere"), pytest.raises(SchemaDoesNotExist):
        tables()


def test_a_table_of_the_same_name_elsewhere_is_not_seen(acme: Any, globex: Any) -> None:
    """Columns, constraints, sequences and relations are the tenant's own, and none are another's."""
    with tenant_context(acme), connection.cursor() as cursor:
        cursor.execute("ALTER TABLE notes_tag ADD COLUMN only_here integer UNIQUE REFERENCES notes_note (id)")
        cursor.execute("CREATE TABLE customers_tenant (own integer PRIMARY KEY)")
        names = [column.name for column in introspection.get_table_description(cursor, "notes_tag")]
        assert names == ["id", "name", "only_here"]
        assert introspection.get_relations(cursor, "notes_tag") == _relation()
        constraints = introspection.get_constraints(cursor, "notes_tag").values()
        assert any(c["unique"] and c["columns"] == ["only_here"] for c in constraints)
        assert [c.name for c in introspection.get_table_description(cursor, "customers_tenant")] == ["own"]
        assert introspection.get_primary_key_column(cursor, "customers_tenant") == "own"
    with tenant_context(globex), connection.cursor() as cursor:
        assert len(introspection.get_table_description(cursor, "notes_tag")) == 2
        assert introspection.get_relations(cursor, "notes_tag") == {}
        constraints = introspection.get_constraints(cursor, "notes_tag").values()
        assert not any("only_here" in c["columns"] for c in constraints)
        sequences = introspection.get_sequences(cursor, "notes_tag")
        assert [(sequence["table"], sequence["column"]) for sequence in sequences] == [("notes_tag", "id")]
        assert introspection.get_constraints(cursor, "customers_tenant") == {}
        assert introspection.get_primary_key_columns(cursor, "notes_tag") == ["id"]


def _relation() -> Any:
    from django import VERSION

    # Django 6.1 tells what the database does on delete, too.
    if VERSION >= (6, 1):
        from django.db.models import DO_NOTHING

        return {"only_here": ("id", "notes_note", DO_NOTHING)}
    return {"only_here": ("id", "notes_note")}


def test_the_recorder_finds_the_tenants_own_migrations(acme: Any, raw: Any) -> None:
    """Never those of public through the path."""
    recorder = MigrationRecorder(connection)
    with tenant_context(acme):
        assert recorder.has_table()
        assert {app for app, _ in recorder.applied_migrations()} >= {"notes", "auth"}
        assert "customers" not in {app for app, _ in recorder.applied_migrations()}
        with transaction.atomic():
            connection.cursor().execute("DROP TABLE django_migrations")
            # Django's recorder remembers that it has seen its table.
            assert not MigrationRecorder(connection).has_table()
            assert MigrationRecorder(connection).applied_migrations() == {}
            transaction.set_rollback(True)
    with schema_context("public"):
        assert {app for app, _ in recorder.applied_migrations()} == {"customers"}


def test_the_path_is_whole_again_after_introspection(acme: Any) -> None:
    """Also after one that failed."""
    with tenant_context(acme), connection.cursor() as cursor:
        tables()
        with pytest.raises(Exception, match="nothing"):
            introspection.get_table_description(cursor, "nothing")
        cursor.execute("SELECT count(*) FROM customers_tenant")
        cursor.execute("SELECT count(*) FROM billing_invoice")
        cursor.execute("SHOW search_path")
        assert "billing" in cursor.fetchone()[0]
        assert Note.objects.count() == 1


def test_table_and_sequence_names(acme: Any) -> None:
    """Django's helpers for flush and tests."""
    with tenant_context(acme):
        names = introspection.django_table_names(only_existing=True, include_views=False)
        assert "notes_note" in names
        assert "customers_tenant" not in names
        assert all(type(name) is str for name in names)
        assert "notes_note" in introspection.table_names()


def test_inspectdb(acme: Any) -> None:
    """It writes the models of the active schema."""
    out = io.StringIO()
    with tenant_context(acme):
        call_command("inspectdb", stdout=out)
    assert "class NotesNote(models.Model)" in out.getvalue()
    assert "CustomersTenant" not in out.getvalue()
    assert "Marker" not in out.getvalue()
