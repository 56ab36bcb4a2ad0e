"""The whole life of a project under logins that have no more rights than docs/explanation/managed-services.md asks for.

A login that owns nothing but its database, or has CREATE on it; and beside it one that only serves requests.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import psycopg
import pytest
from django.conf import settings
from django.core.management import call_command
from django.db import ProgrammingError, connection
from django.test import Client, override_settings
from psycopg import sql

from example_project.customers.models import Domain, Tenant
from example_project.notes.models import Note
from pg_tenants import monitoring, tenant_context
from pg_tenants import sql as tenant_sql
from pg_tenants.checks import check_databases
from pg_tenants.exceptions import SchemaNotPermitted, TenantInUse
from tests.integration.nasty import NASTY, ROWS, run_in
from tests.integration.test_roles import led_to, write_note

# What the page says, word by word; {owner} and {web} are names.
OWNS = "ALTER DATABASE {database} OWNER TO {owner}"
MAY_CREATE = "GRANT CREATE ON DATABASE {database} TO {owner}; GRANT CREATE ON SCHEMA public TO {owner}"
SERVES = """
ALTER DEFAULT PRIVILEGES GRANT USAGE ON SCHEMAS TO {web};
ALTER DEFAULT PRIVILEGES GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO {web};
ALTER DEFAULT PRIVILEGES GRANT USAGE ON SEQUENCES TO {web};
"""
ENDS = "GRANT pg_signal_backend TO {owner}"


class Place:
    """A database, the login that migrates it, and one that serves requests from it."""

    def __init__(self, server: dict[str, Any], name: str):
        self.name = name
        self.owner = {**server, "dbname": name, "user": name, "password": "secret"}
        self.web = {**self.owner, "user": f"{name}_web"}

    def run(self, params: dict[str, Any], script: str) -> None:
        """Run statements of the page as one of the logins."""
        names = {"database": self.name, "owner": self.name, "web": f"{self.name}_web"}
        script = script.format(**{key: sql.Identifier(name).as_string() for key, name in names.items()})
        with psycopg.connect(**params, autocommit=True) as raw:
            raw.execute(script.encode())


@pytest.fixture
def place(request: Any, server_params: dict[str, Any], django_db_blocker: Any) -> Iterator[Place]:
    """Lead the default alias to a new database, as a login that owns it or one that may create schemas there."""
    place = Place(server_params, f"owner_{os.getpid()}_{secrets.token_hex(4)}")
    with psycopg.connect(**server_params, autocommit=True) as raw:
        for login in (place.owner, place.web):
            raw.execute(f"CREATE ROLE {login['user']} LOGIN PASSWORD 'secret'".encode())
        raw.execute(f"CREATE DATABASE {place.name}".encode())
        place.run({**server_params, "dbname": place.name}, getattr(request, "param", OWNS))
        try:
            with django_db_blocker.unblock(), led_to(place.owner):
                yield place
        finally:
            raw.execute(f"DROP DATABASE {place.name} WITH (FORCE)".encode())
            for login in (place.owner, place.web):
                raw.execute(f"DROP ROLE {login['user']}".encode())


def warnings_of_the_rights() -> list[Any]:
    """Return what the checks of the database say, but for the server's size."""
    return [found for found in check_databases(databases=["default"]) if found.id != "pg_tenants.W024"]


def command(name: str, *args: str, **options: Any) -> str:
    out = StringIO()
    call_command(name, *args, stdout=out, stderr=out, **options)
    return out.getvalue()


def schemas_there() -> set[str]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'")
        return {name for (name,) in cursor.fetchall()}


@pytest.mark.parametrize("place", [OWNS, MAY_CREATE], ids=["owner", "grants"], indirect=True)
def test_a_whole_life(place: Place, tmp_path: Path) -> None:
    """Neither superuser, nor CREATEDB, nor CREATEROLE: everything that the commands do works."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT rolsuper, rolcreatedb, rolcreaterole FROM pg_roles WHERE rolname = current_user")
        assert cursor.fetchone() == (False, False, False)
    ready = {**settings.PG_TENANTS, "READY_SCHEMAS": 1}
    with override_settings(PG_TENANTS=ready):
        command("migrate_schemas", verbosity=0)
        assert warnings_of_the_rights() == []
        assert command("prepare_schemas") == "tenant: 1 ready\n"
        command("create_tenant", "acme", domain="acme.localhost", set=["name=Acme"])
    acme = Tenant.objects.get()
    with tenant_context(acme):
        write_note("note of acme")
    with psycopg.connect(**place.owner, autocommit=True) as raw:
        for script in (NASTY, ROWS):
            run_in(raw, "acme", script, role=place.web["user"])
    clone = acme.clone("sandbox", name="Sandbox")
    copy = acme.clone("copied", data=True, name="Copied")
    copy.rename("renamed")
    with tenant_context(copy):
        assert Note.objects.get().title == "note of acme"
    assert {name for name in schemas_there() if not name.startswith("_")} >= {"acme", "sandbox", "renamed"}
    file = tmp_path / "acme.tenant"
    acme.archive(file, delete=True)
    assert "acme" not in schemas_there()
    acme = Tenant.objects.restore_tenant(file)
    Tenant.objects.restore_tenant(file, schema_name="again")
    with tenant_context(acme):
        assert Note.objects.get().title == "note of acme"
        with connection.cursor() as cursor:
            cursor.execute("VACUUM ANALYZE notes_note")
        assert tenant_sql.copy_records("notes_tag", [["a"], ["b"]], columns=["name"]) == 2
    assert acme.suspend()
    assert acme.resume()
    assert {"acme", "again", "sandbox", "renamed"} <= {stats.schema for stats in monitoring.tenant_stats()}
    Tenant.objects.create_tenant("plain", name="Plain")
    assert "1 as their migrations make them" in command("migrate_schemas", "--verify", "--schema", "plain")
    command("migrate_schemas", "notes", "zero", schema=["plain"], verbosity=0)
    command("migrate_schemas", verbosity=0)
    assert command("migrate_schemas", "--check") == "No migration is pending in 7 schemas.\n"
    clone.delete(grace=1, terminate=True)
    for tenant in Tenant.objects.all():
        tenant.delete()
    assert {name for name in schemas_there() if not name.startswith("_")} == {"public", "billing"}


def test_a_login_that_serves(place: Place) -> None:
    """With default privileges, every tenant is served by a login that can neither make nor drop anything."""
    place.run(place.owner, SERVES)
    with override_settings(PG_TENANTS={**settings.PG_TENANTS, "READY_SCHEMAS": 1}):
        command("migrate_schemas", verbosity=0)
        for name in ("acme", "globex"):  # The first takes the ready schema, the second the template.
            tenant = Tenant.objects.create(schema_name=name, name=name.title())
            Domain.objects.create(domain=f"{name}.localhost", tenant=tenant)
    tenant.clone("copied", data=True, name="Copied")
    with led_to(place.web):
        assert [found.id for found in warnings_of_the_rights()] == ["pg_tenants.W022"]
        for tenant in Tenant.objects.all():
            with tenant_context(tenant):
                write_note("served")
                assert Note.objects.get().title == "served"
                with pytest.raises(ProgrammingError, match="permission denied"), connection.cursor() as c:
                    c.execute("CREATE TABLE mine (id int)")
        assert Client().get("/", headers={"host": "acme.localhost"}).status_code in (200, 302)
        with pytest.raises(SchemaNotPermitted, match="GRANT CREATE ON DATABASE"):
            Tenant.objects.create(schema_name="mine", name="Mine")
        assert Tenant.objects.filter(schema_name="mine").count() == 0


def test_who_may_end_sessions(place: Place, server_params: dict[str, Any]) -> None:
    """To end another login's sessions takes a right of its own. Without it nothing is dropped, and it is said."""
    place.run(place.owner, SERVES)
    command("migrate_schemas", verbosity=0)
    tenant = Tenant.objects.create(schema_name="acme", name="Acme")
    with psycopg.connect(**place.web) as other:
        other.execute("SELECT count(*) FROM acme.notes_note")
        with pytest.raises(TenantInUse, match=f"GRANT pg_signal_backend TO {place.name} "):
            tenant.delete(grace=0, terminate=True)
        assert "acme" in schemas_there()
        place.run(server_params, ENDS)
        tenant.delete(grace=0, terminate=True)
        with pytest.raises(psycopg.OperationalError):
            other.execute("SELECT 1")
    assert "acme" not in schemas_there()
