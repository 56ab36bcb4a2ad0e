"""The example's module billing in its own schema, in a database of its own, on another server: by settings alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from django.conf import settings
from psycopg import sql

from tests.acceptance.test_demo import free_port
from tests.projects.probe import ROOT, names, new_database

pytest_plugins = ["pytester"]


@pytest.fixture(scope="module")
def other_server(server_params: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Start a server of the run's kind beside the run's own."""
    from pg_tenants.server import Server, ServerConfig

    with tempfile.TemporaryDirectory(prefix="pg-other-") as folder:
        kind = {key: settings.PG_TENANTS["PGSERVER"][key] for key in ("engine", "version", "postgres_conf")}
        config = {**kind, "name": "other", "data": str(Path(folder) / "server")}
        server = Server(ServerConfig.load(config, environ={}))
        server.up()
        try:
            yield {**server.connection_params(), "dbname": "billing"}
        finally:
            server.erase()


@pytest.fixture(scope="module")
def other_database(server_params: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Name a database on the run's server, which the project itself is to create."""
    name = f"{server_params['dbname']}_billing"
    drop = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)")
    with psycopg.connect(**server_params, autocommit=True) as connection:
        for each in (name, f"test_{name}"):
            connection.execute(drop.format(sql.Identifier(each)))
        yield {**server_params, "dbname": name}
        for each in (name, f"test_{name}"):
            connection.execute(drop.format(sql.Identifier(each)))


@pytest.fixture(scope="module", params=["schema", "database", "server"])
def project(request: pytest.FixtureRequest, server_params: dict[str, Any]) -> Iterator[Project]:
    """Return the example project with billing in one of the places, on a new database."""
    place = request.param
    with new_database(server_params, "placement") as environ:
        where = None if place == "schema" else request.getfixturevalue(f"other_{place}")
        if where is not None:
            environ["BILLING_DATABASE_URL"] = (
                f"postgresql://{where['user']}:{where['password']}@{where['host']}:{where['port']}/{where['dbname']}"
            )
        yield Project(place, environ, where)


class Project:
    """The example project in one of the three places.

    Attributes:
        place: ``schema``, ``database`` or ``server``.
        where: how psycopg connects to the database of billing, where that is not the project's.
    """

    def __init__(self, place: str, environ: dict[str, str], where: dict[str, Any] | None):
        self.place, self.where = place, where
        self.environ = {
            **{key: text for key, text in environ.items() if not key.startswith(("PYTEST_", "PG_TENANTS_TEST"))},
            "DJANGO_SETTINGS_MODULE": "tests.projects.placement.settings",
            "PYTHONWARNINGS": "error",
        }

    def run(self, *command: str, folder: Path = ROOT, **environ: str) -> subprocess.CompletedProcess[str]:
        argv, env = [sys.executable, *command], {**self.environ, **environ}
        return subprocess.run(argv, cwd=folder, env=env, capture_output=True, text=True, timeout=240, check=False)

    def schemas(self) -> set[str]:
        """Return the schemas of workers in the test database of billing."""
        assert self.where is not None
        with psycopg.connect(**{**self.where, "dbname": f"test_{self.where['dbname']}"}) as session:
            return {name for (name,) in session.execute("SELECT nspname FROM pg_namespace WHERE nspname ~ '^test_'")}


def test_what_has_to_hold(project: Project) -> None:
    """The probes: checks, migrations, tenants, rows, paths, raw SQL, router, pages, files, and what stays open."""
    done = project.run("-m", "tests.projects.placement.probes")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert list(found) == names("placement")
    assert not any(found.values()), "\n".join(f"{name}: {error}" for name, error in found.items() if error)


TESTS = """
import os
import pytest
from django.db import connections
from example_project.billing.models import Invoice
from example_project.notes.models import Note
from pg_tenants.migrations import required_registry
from pg_tenants.test import TenantTestCase, TenantTransactionTestCase

HOME = required_registry().modules["billing"].database

def bill(tenant):
    days = {"issued_on": "2026-01-01", "due_on": "2026-02-01"}
    Invoice.objects.create(tenant_id=tenant.pk, number="1", customer_name="Ada", currency="EUR", **days)

class TestInTransaction(TenantTestCase):
    def test_one(self):
        bill(self.tenant)
        self.assertEqual(Invoice.objects.count(), 1)

    def test_two(self):
        bill(self.tenant)
        self.assertEqual((Invoice.objects.count(), Note.objects.count()), (1, 0))

class TestCommitting(TenantTransactionTestCase):
    def test_one(self):
        self.assertEqual(Invoice.objects.count(), 0)
        bill(self.tenant)

    def test_two(self):
        self.assertEqual(Invoice.objects.count(), 0)
        bill(self.tenant)

@pytest.mark.parametrize("number", range(3))
def test_fixture(tenant, tenant_client, number):
    bill(tenant)
    assert Invoice.objects.count() == 1
    assert "1" in tenant_client.get("/invoices/").content.decode()
    with connections[HOME].cursor() as cursor:
        cursor.execute("SELECT current_schemas(false)")
        assert f"test_{os.environ.get('PYTEST_XDIST_WORKER', 'master')}_billing" in cursor.fetchone()[0]
"""


def test_the_tests_of_the_project(project: Project, pytester: pytest.Pytester) -> None:
    """The module's tests are the same: workers of pytest and of Django's runner have its schema where it lives."""
    pytester.makepyfile(test_billing=TESTS)
    pytester.makeini("[pytest]\nfilterwarnings = error\naddopts = -p no:cacheprovider\n")
    environ = {"PYTHONPATH": f"{pytester.path}{os.pathsep}{ROOT}"}
    workers = ["-n", "2"] if project.place == "database" else []
    done = project.run("-m", "pytest", "-q", *workers, folder=pytester.path, **environ)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "7 passed" in done.stdout
    if project.place == "server":
        assert project.schemas() - {"test_master"} == {"test_master_billing"}
    if project.place != "database":
        return
    found = project.schemas()
    assert {"test_gw0_billing", "test_gw1_billing"} <= found
    assert not [name for name in found if "tenant" in name]
    done = project.run(
        *("-m", "django", "test", "test_billing", "--testrunner", "pg_tenants.test.TenantDiscoverRunner"),
        *("--parallel", "2"),
        folder=pytester.path,
        **environ,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Ran 4 tests" in done.stderr
    assert {"test_1_billing", "test_2_billing"} <= project.schemas()


ELSEWHERE = """
import django
django.setup()
from django.core.management import call_command
from django.db import connections, transaction
from example_project.customers.models import Tenant
from example_project.notes.models import Note
from pg_tenants import schemas, tenant_context

def there(name):
    assert not schemas.exists(name)
    return schemas.exists(name, using="fleet")

acme = Tenant.objects.create(schema_name="acme", name="Acme")
assert there("acme")
with tenant_context(acme):
    assert Note.objects.count() == 0
    assert Note.objects.all().db == "fleet"
    with connections["default"].cursor() as cursor:
        cursor.execute("SELECT current_schemas(false)")
        assert cursor.fetchone()[0] == ["public", "billing"]
# The row stays, so the schema does.
for delete in (acme.delete, Tenant.objects.all().delete):
    try:
        with transaction.atomic():
            delete()
            raise LookupError
    except LookupError:
        acme = Tenant.objects.get()
    assert there("acme")
assert acme.clone("copy", name="Copy").rename("moved")
moved = Tenant.objects.get(schema_name="moved")
assert there("moved") and not there("copy")
moved.delete(grace=1)
assert not there("moved")
Tenant.objects.all().delete()
assert not there("acme") and not Tenant.objects.exists()
try:
    with transaction.atomic(), transaction.atomic(using="fleet"):
        Tenant.objects.create(schema_name="acme", name="Acme")
        raise LookupError
except LookupError:
    assert not there("acme") and not Tenant.objects.exists()
"""


def test_tenants_in_another_database(server_params: dict[str, Any], other_server: dict[str, Any]) -> None:
    """Their schemas may be on another server than their rows: made, migrated, used, copied, and deleted there."""
    where = other_server
    url = f"postgresql://{where['user']}:{where['password']}@{where['host']}:{where['port']}/fleet"
    with new_database(server_params, "rows") as environ:
        project = Project("fleet", {**environ, "TENANTS_DATABASE_URL": url}, where)
        done = project.run("manage.py", "migrate_schemas")
        assert done.returncode == 0, done.stderr
        assert done.stdout.index("Database 'default'") < done.stdout.index("Database 'fleet'")
        for command in (["-c", ELSEWHERE], ["manage.py", "demo", "--check"]):
            done = project.run(*command)
            assert done.returncode == 0, done.stdout + done.stderr
        done = project.run("manage.py", "migrate_schemas", "--check", "--json")
        assert done.returncode == 0, done.stderr
        homes = {entry["schema"]: entry["database"] for entry in json.loads(done.stdout)["schemas"]}
        assert homes["acme"] == "fleet"
        assert homes["billing"] == homes["public"] == "default"
        assert project.run("manage.py", "prepare_schemas").stdout == "tenant: 1 ready\n"


def test_a_database_that_cannot_be_reached(server_params: dict[str, Any]) -> None:
    """It is told, and keeps none of the others from being migrated; the exit status is that of a failure."""
    with new_database(server_params, "half") as environ:
        url = f"postgresql://ada:hunter2-secret@127.0.0.1:{free_port()}/billing"
        project = Project("none", {**environ, "BILLING_DATABASE_URL": url}, None)
        # Django warns where it finds no database "postgres" to create another one from.
        done = project.run("manage.py", "migrate_schemas", PYTHONWARNINGS="default")
        assert done.returncode == 1
        assert "1 schema: 1 migrated" in done.stdout
        assert "Database 'billing': " in done.stderr
        assert "hunter2-secret" not in done.stderr
        assert "Traceback" not in done.stderr
