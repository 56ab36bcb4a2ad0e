"""A tenant's whole life with all that goes with it at once: roles, templates, ready schemas, and another server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.db import ProgrammingError, connection
from django.test import override_settings

from example_project.customers.models import Domain, Tenant
from example_project.notes.models import Note, Tag
from pg_tenants import roles, schemas, tenant_context
from pg_tenants.context import no_schema
from tests.integration.test_archive import elsewhere
from tests.integration.test_roles import ON, led_to, make_tenant, new_database, role_of, roles_there

__all__ = ["elsewhere"]

ALL_ON = {**ON, "READY_SCHEMAS": 2}


def query(text: str) -> list[Any]:
    with no_schema(), connection.cursor() as cursor:
        cursor.execute(text)
        return [row[0] for row in cursor.fetchall()]


def spare() -> list[int]:
    return query("SELECT oid::bigint FROM pg_namespace WHERE nspname LIKE '\\_ready\\_%' ORDER BY oid")


def roles_of_tenants() -> set[str]:
    return {role for role in roles_there() if "~" not in role}


def is_well(tenant: Any, notes: list[str], others: str) -> None:
    """See that a tenant reads and writes what is its own, and nothing else, and that nothing is lacking."""
    tenant.refresh_from_db()
    assert tenant.status == "active"
    assert not [state for state in roles.states([tenant.schema_name]) if state.lacking]
    with tenant_context(tenant):
        assert list(Note.objects.order_by("pk").values_list("title", flat=True)) == notes
        tag = Tag.objects.create(name="written")
        tag.delete()
        with connection.cursor() as cursor, pytest.raises(ProgrammingError, match="permission denied"):
            cursor.execute(f"SELECT title FROM {others}.notes_note")  # type: ignore[arg-type]
    call_command("migrate_schemas", check=True, verbosity=0)
    call_command("migrate_schemas", verify=True, verbosity=0)


@contextmanager
def database(server_params: dict[str, Any]) -> Iterator[None]:
    with new_database(server_params) as params, override_settings(PG_TENANTS=ALL_ON), led_to(params):
        call_command("migrate_schemas", verbosity=0)
        yield


def test_a_life(
    server_params: dict[str, Any],
    elsewhere: dict[str, Any],
    notes_migrations: Any,
    tmp_path: Path,
    django_db_blocker: Any,
) -> None:
    """Made from a ready schema, cloned, migrated, renamed, archived, deleted, restored here and on another server."""
    file = tmp_path / "lab.tenant"
    with django_db_blocker.unblock(), database(server_params):
        prepared = spare()
        assert len(prepared) == 2
        acme, _ = make_tenant("acme"), make_tenant("globex")
        taken = [
            query(f"SELECT oid::bigint FROM pg_namespace WHERE nspname = '{name}'")[0] for name in ("acme", "globex")
        ]
        assert (sorted(taken), spare()) == (prepared, [])
        call_command("prepare_schemas", verbosity=0)
        assert len(spare()) == 2
        is_well(acme, ["note of acme"], "globex")

        sandbox = acme.clone("sandbox", data=True)
        with tenant_context(sandbox):
            Note.objects.update(title="a copy")
        is_well(sandbox, ["a copy"], "acme")
        is_well(acme, ["note of acme"], "sandbox")

        stale = spare()
        notes_migrations.add("0002_more", 'migrations.AddField("tag", "colour", models.TextField(null=True))')
        call_command("migrate_schemas", verbosity=0)
        assert len(spare()) == 2
        assert not set(spare()) & set(stale)
        for tenant, title, others in ((acme, "note of acme", "globex"), (sandbox, "a copy", "acme")):
            is_well(tenant, [title], others)
        initech = make_tenant("initech")
        is_well(initech, ["note of initech"], "acme")

        sandbox.rename("lab")
        assert role_of("sandbox") not in roles_of_tenants()
        is_well(sandbox, ["a copy"], "acme")
        sandbox.archive(file, delete=True)
        assert not schemas.exists("lab")
        assert role_of("lab") not in roles_of_tenants()
        lab = Tenant.objects.restore_tenant(file)
        is_well(lab, ["a copy"], "acme")
        for tenant in Tenant.objects.all():
            tenant.delete()
        assert roles_of_tenants() == set()
        assert query("SELECT nspname FROM pg_namespace WHERE nspname IN ('acme', 'globex', 'initech', 'lab')") == []

    with django_db_blocker.unblock(), database({**elsewhere, "dbname": "postgres"}):
        other = make_tenant("acme")
        lab = Tenant.objects.restore_tenant(file)
        is_well(lab, ["a copy"], "acme")
        is_well(other, ["note of acme"], "lab")
        assert Domain.objects.count() == 1
        assert roles_of_tenants() == {role_of("acme"), role_of("lab")}
