"""What is migrated and read where."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.conf import settings
from django.contrib.auth.models import User
from django.db import ProgrammingError, connections, router
from django.test import override_settings

from example_project.billing.models import Invoice
from example_project.customers.models import Domain, Tenant
from example_project.notes.models import Note
from pg_tenants import schema_context, tenant_context
from pg_tenants.routers import TenantRouter

RAW: dict[str, Any] = settings.PG_TENANTS
LABELS = ["customers", "billing", "notes", "auth", "contenttypes", "sessions", "admin", "messages", "nothing"]
TENANTS = {"notes", "auth", "contenttypes", "sessions", "admin"}


def migrated(db: str = "default") -> set[str]:
    return {label for label in LABELS if router.allow_migrate(db, label)}


@pytest.fixture
def other() -> Iterator[dict[str, Any]]:
    """Add an alias of ours that owns the module billing."""
    entry = {**connections.settings["default"], "OPTIONS": {"tenants": {}}}
    connections.settings["other"] = entry
    modules = {**RAW["MODULES"], "billing": {**RAW["MODULES"]["billing"], "database": "other"}}
    with override_settings(PG_TENANTS={**RAW, "MODULES": modules}):
        yield entry
    del connections.settings["other"]
    if hasattr(connections._connections, "other"):  # type: ignore[attr-defined]
        del connections["other"]


def test_each_schema_has_the_tables_of_its_module() -> None:
    """Without a schema those of fixed modules; apps in no module nowhere."""
    assert migrated() == {"customers", "billing"}
    with schema_context("public"):
        assert migrated() == {"customers"}
    with schema_context("billing"):
        assert migrated() == {"billing"}
    with schema_context("acme"):
        assert migrated() == TENANTS
    with tenant_context(Tenant(schema_name="acme", module="tenant")):
        assert migrated() == TENANTS


def test_an_app_in_two_modules_is_migrated_in_both() -> None:
    """Each time for the schema that is active."""
    shared = {"schema": "public", "apps": ["customers", "auth"]}
    with override_settings(PG_TENANTS={**RAW, "MODULES": {**RAW["MODULES"], "shared": shared}}):
        for schema in ("public", "acme"):
            with schema_context(schema):
                assert "auth" in migrated()


def test_tenant_types_have_their_own_apps() -> None:
    """The tenant's module says which."""
    modules = {**RAW["MODULES"], "trial": {"apps": ["notes"]}}
    with override_settings(PG_TENANTS={**RAW, "MODULES": modules}):
        with tenant_context(Tenant(schema_name="acme", module="trial")):
            assert migrated() == {"notes"}
        with schema_context("acme", module="tenant"):
            assert migrated() == TENANTS


def test_where_all_modules_share_a_database_others_may_choose() -> None:
    """The router leaves reading and writing to the next one, so a replica can be used."""
    for model in (Tenant, Invoice, Note, User):
        assert TenantRouter().db_for_read(model) is None
        assert TenantRouter().db_for_write(model) is None


def test_a_module_in_its_own_database(other: Any) -> None:
    """Its models are read, written and migrated there, and nowhere else."""
    assert router.db_for_read(Invoice) == router.db_for_write(Invoice) == "other"
    for model in (Tenant, Note, User):
        assert router.db_for_read(model) == router.db_for_write(model) == "default"
    assert (migrated("default"), migrated("other")) == ({"customers"}, {"billing"})
    with schema_context("acme"):
        assert (migrated("default"), migrated("other")) == (TENANTS, set())
        assert router.db_for_read(Invoice) == "other"
    with schema_context("billing"):
        assert (migrated("default"), migrated("other")) == (set(), {"billing"})


def test_statements_know_the_database_of_a_tenants_module(other: Any, acme: Any) -> None:
    """A schema of the same name in another database is not the tenant's, also where it was used just before."""
    trials = {"apps": ["example_project.notes"], "database": "other"}

    def titles() -> Any:
        with connections["default"].cursor() as cursor:
            cursor.execute("SELECT title FROM notes_note")
            return cursor.fetchall()

    with override_settings(PG_TENANTS={**RAW, "MODULES": {**RAW["MODULES"], "trials": trials}}):
        for _ in range(2):
            with schema_context("acme", module="trials"), pytest.raises(ProgrammingError, match="notes_note"):
                titles()
            for module in (None, "tenant"):
                with schema_context("acme", module=module):
                    assert titles() == [("note of acme",)]


def test_relations(other: Any) -> None:
    """None between databases; others are left to Django."""
    tenant, invoice, domain = Tenant(), Invoice(), Domain()
    assert TenantRouter().allow_relation(tenant, invoice) is False
    assert TenantRouter().allow_relation(tenant, domain) is None
    assert router.allow_relation(tenant, domain)
    assert not router.allow_relation(tenant, invoice)


def test_aliases_that_have_no_schemas_are_left_alone(other: Any) -> None:
    """Other engines, and aliases bound to one schema: Django's own rules hold."""
    connections["other"].settings_dict["OPTIONS"] = {"tenants": {"schema": "acme"}}
    assert TenantRouter().allow_migrate("other", "notes") is None
    connections.settings["other"] = {**connections.settings["default"], "ENGINE": "django.db.backends.postgresql"}
    del connections["other"]
    assert TenantRouter().allow_migrate("other", "notes") is None


def test_a_project_without_settings() -> None:
    """The router has no opinion."""
    with override_settings(PG_TENANTS=None):
        assert TenantRouter().allow_migrate("default", "notes") is None
        assert TenantRouter().db_for_read(Note) is None
        assert TenantRouter().db_for_write(Note) is None
        assert TenantRouter().allow_relation(Tenant(), Invoice()) is None


def test_the_tables_are_where_the_router_put_them(acme: Any, raw: Any) -> None:
    """In the database: each table in one kind of schema."""
    from pg_tenants.names import is_own_table
    from pg_tenants.schemas import tenant_connection

    physical = tenant_connection().physical_schema
    rows = raw.execute("SELECT schemaname, tablename FROM pg_tables WHERE tablename ~ '_' ORDER BY 1, 2").fetchall()
    found: dict[str, set[str]] = {}
    for schema, table in rows:
        if not is_own_table(table) and table != "django_migrations":
            found.setdefault(schema, set()).add(table)
    assert found[physical("public")] == {"customers_tenant", "customers_domain"}
    assert found[physical("billing")] == {"billing_invoice", "billing_invoiceline"}
    tables = found[physical("acme")]
    assert {table.split("_")[0] for table in tables} == {"notes", "auth", "django"}
    assert {"django_admin_log", "django_content_type", "django_session"} <= tables
