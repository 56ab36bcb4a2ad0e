"""The whole life of a project under logins that have no more rights than the documentation asks for.

Those of docs/howto/production.md, made by its own statements: a login that owns nothing but its database, and one that
only serves requests. And the least that docs/explanation/managed-services.md names: CREATE on somebody else's database.
"""

from __future__ import annotations

import os
import re
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

from example_project.customers.models import Domain, Tenant
from example_project.notes.models import Note
from pg_tenants import monitoring, tenant_context
from pg_tenants import sql as tenant_sql
from pg_tenants.checks import check_databases
from pg_tenants.exceptions import SchemaNotPermitted, TenantInUse
from tests.acceptance._documents import CHECKOUT, blocks
from tests.integration.nasty import NASTY, ROWS, run_in
from tests.integration.test_roles import led_to, write_note

PAGE = (CHECKOUT / "docs" / "howto" / "production.md").read_text()
ADMIN, OWNER, CLOSE = [block.text for block in blocks(PAGE) if block.language == "sql"]
OWNS = "CREATE DATABASE app OWNER app_owner;"
MAY_CREATE = """
CREATE DATABASE app;
GRANT CONNECT, CREATE ON DATABASE app TO app_owner;
"""


class Place:
    """A database, the login that migrates it, and one that serves requests from it.

    Args:
        server: how the administrator connects.
        name: the name of the database and of its owner, and the beginning of the other login's.
    """

    def __init__(self, server: dict[str, Any], name: str):
        self.name = name
        self.admin = {**server, "dbname": name}
        self.owner = {**self.admin, "user": name, "password": "secret"}
        self.web = {**self.owner, "user": f"{name}_web"}

    def run(self, params: dict[str, Any], script: str) -> None:
        """Run statements of the page, one by one, with this place's names and passwords."""
        script = re.sub(r"--.*", "", script).replace("'…'", "'secret'")
        for name, own in (("app_owner", self.name), ("app_web", f"{self.name}_web"), ("app", self.name)):
            script = re.sub(rf"\b{name}\b", own, script)
        with psycopg.connect(**params, autocommit=True) as raw:
            for statement in filter(str.strip, script.split(";")):
                raw.execute(statement.encode())


@pytest.fixture
def place(request: Any, server_params: dict[str, Any], django_db_blocker: Any) -> Iterator[Place]:
    """Lead the default alias to a new database, as a login that owns it or one that may create schemas there."""
    place = Place(server_params, f"owner_{os.getpid()}_{secrets.token_hex(4)}")
    how = getattr(request, "param", OWNS)
    assert OWNS in ADMIN
    try:
        place.run(server_params, ADMIN.replace(OWNS, how))
        if how != OWNS:
            place.run(place.admin, "GRANT CREATE ON SCHEMA public TO app_owner")
        with django_db_blocker.unblock(), led_to(place.owner):
            yield place
    finally:
        place.run(server_params, "DROP DATABASE IF EXISTS app WITH (FORCE)")
        place.run(server_params, "DROP ROLE IF EXISTS app_owner; DROP ROLE IF EXISTS app_web")


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
    place.run(place.owner, OWNER)
    with override_settings(PG_TENANTS={**settings.PG_TENANTS, "READY_SCHEMAS": 1}):
        command("migrate_schemas", verbosity=0)
        for name in ("acme", "globex"):  # The first takes the ready schema, the second the template.
            tenant = Tenant.objects.create(schema_name=name, name=name.title())
            Domain.objects.create(domain=f"{name}.localhost", tenant=tenant)
    tenant.clone("copied", data=True, name="Copied")
    place.run(place.owner, CLOSE)
    with led_to(place.web):
        for table in ("pg_tenants_templates", "pg_tenants_ready"):
            with (
                pytest.raises(ProgrammingError, match=f"permission denied for table {table}"),
                connection.cursor() as c,
            ):
                c.execute(f"DELETE FROM public.{table} WHERE false")
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
        later = Tenant.objects.create_tenant("later", "later.localhost", provision=False, name="Later")
        assert tenant.suspend()
    assert later.provision()
    with led_to(place.web), tenant_context(later):
        assert Note.objects.count() == 0


def test_who_may_end_sessions(place: Place) -> None:
    """To end another login's sessions takes a right of its own. Without it nothing is dropped, and it is said."""
    ends = "GRANT pg_signal_backend TO app_owner"
    assert ends in ADMIN
    place.run(place.admin, "REVOKE pg_signal_backend FROM app_owner; REVOKE pg_read_all_stats FROM app_owner")
    place.run(place.owner, OWNER)
    command("migrate_schemas", verbosity=0)
    tenant = Tenant.objects.create(schema_name="acme", name="Acme")
    with psycopg.connect(**place.web) as other:
        other.execute("SELECT count(*) FROM acme.notes_note, acme.pg_tenants_marker")
        # What it does is hidden from this login, but not that it is there, and for whom.
        (seen,) = [session for session in monitoring.sessions() if session.pid == other.info.backend_pid]
        assert (seen.schema, seen.state, seen.seconds) == ("acme", None, None)
        place.run(place.admin, "GRANT pg_read_all_stats TO app_owner")
        (seen,) = [session for session in monitoring.sessions() if session.pid == other.info.backend_pid]
        assert (seen.schema, seen.state) == ("acme", "idle in transaction")
        with pytest.raises(TenantInUse, match=f"GRANT pg_signal_backend TO {place.name} "):
            tenant.delete(grace=0, terminate=True)
        assert "acme" in schemas_there()
        place.run(place.admin, ends)
        tenant.delete(grace=0, terminate=True)
        with pytest.raises(psycopg.OperationalError):
            other.execute("SELECT 1")
    assert "acme" not in schemas_there()


def test_a_login_that_owns_its_schema_alone(place: Place) -> None:
    """It migrates the alias that is bound to the schema, and has no right on the database or on another schema."""
    place.run(place.admin, "CREATE SCHEMA service AUTHORIZATION app_web")
    without = {"PGSERVER": settings.PG_TENANTS["PGSERVER"]}
    with override_settings(DATABASE_ROUTERS=[], PG_TENANTS=without), led_to(place.web, tenants={"schema": "service"}):
        command("migrate", "contenttypes", verbosity=0, skip_checks=True)
        with connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM django_content_type")
            with pytest.raises(ProgrammingError, match="permission denied"):
                cursor.execute("CREATE SCHEMA other")
