"""Schemas from templates. The probes run in a project of their own, whose docstrings say what has to hold."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
from django.contrib.contenttypes.models import ContentType

from pg_tenants import schema_context
from pg_tenants.provisioning.recorder import Recorder
from pg_tenants.schemas import tenant_connection
from tests.conftest import run_server
from tests.projects.probe import ROOT, names, new_database, run_probes


@pytest.fixture(scope="module")
def results(server_params: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Run the project's probes on a new database, and return their errors by name."""
    code = tmp_path_factory.mktemp("code")
    (code / "seeded_code.py").write_text('"""Called by a migration."""\n\nWORD = "word"\n')
    return run_probes("seeded", server_params, PYTHONPATH=f"{ROOT}:{code}", PYTHONDONTWRITEBYTECODE="1")


@pytest.mark.parametrize("name", names("seeded"))
def test_probe(results: dict[str, str], name: str) -> None:
    """Its docstring says what has to hold."""
    assert results[name] == "", results[name]


def test_same_statement_elsewhere(acme: Any, globex: Any) -> None:
    """A statement that is known from the schema itself is looked at again where it reads another one's rows."""
    connection = tenant_connection()
    recorder = Recorder(connection, connection.physical_schema("acme"))
    with recorder.recording():
        for schema in ("acme", "acme", "globex"):
            with schema_context(schema):
                assert ContentType.objects.filter(pk=0).count() == 0
    what = "it uses rows of globex.django_content_type, which other schemas share"
    assert recorder.refusals == [f"what runs after the migrations: {what}"]


# -- a real application -----------------------------------------------------------------------------------------------

CMS = """
import django
django.setup()
from django.core.management import call_command
from django.db import connection, transaction
from pg_tenants.catalog import differences
from pg_tenants.migrations import Target, required_registry
from pg_tenants.provisioning import content, template
from pg_tenants.schemas import tenant_connection
from tests.projects.cms.companies.models import Company

call_command("migrate_schemas", verbosity=0)
module = required_registry().modules["tenant"]
script = template.load(Target("", (module,)))
assert isinstance(script, template.Script), script
with transaction.atomic():
    Company.objects.create(schema_name="quick", name="Quick")
with connection.cursor() as cursor:
    cursor.execute("DELETE FROM public.pg_tenants_templates")
Company.objects.create(schema_name="slow", name="Slow")
assert differences("slow", "quick") == [], differences("slow", "quick")
found = []
for schema in ("slow", "quick"):
    with transaction.atomic(), tenant_connection().without_prefix() as execute:
        found.append(content.read(execute, schema))
        transaction.set_rollback(True)
merged, differing = content.merged(*found, template._random_columns((module,)))
assert differing == [], differing
assert [table.columns for table in found[0].tables.values()] == [table.columns for table in found[1].tables.values()]
print(len(script.migrations), len(found[0].tables), script.locks)
"""


def dump(url: str, schema: str) -> str:
    """Return what pg_dump says of a schema, without whose it is, its name, and the lines that are for psql alone."""
    command, environ = run_server().client("pg_dump")
    # The connection's own parameters come with the command.
    name = url.rpartition("/")[2]
    where = [argument for argument in command if not argument.startswith("--dbname")]
    done = subprocess.run(
        [*where, "--schema-only", f"--schema={schema}", "--exclude-table=*.pg_tenants_marker_*", f"--dbname={name}"],
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    lines = [line for line in done.stdout.splitlines() if not line.startswith("\\")]
    return "\n".join(lines).replace(schema, "SCHEMA").replace(schema.title(), "SCHEMA")


def run_python(environ: dict[str, str], code: str, *arguments: str) -> str:
    command = [sys.executable, "-W", "ignore", "-c", code, *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_real_application(server_params: dict[str, Any]) -> None:
    """A tenant of a CMS with more than 50 tables and 150 migrations is what its migrations make, pg_dump's text too."""
    with new_database(server_params, "cms") as environ:
        environ["DJANGO_SETTINGS_MODULE"] = "tests.projects.cms.settings"
        migrations, tables, locks = map(int, run_python(environ, CMS).split())
        assert migrations > 150
        assert tables > 50
        assert 1000 < locks < 2000
        assert dump(environ["DATABASE_URL"], "quick") == dump(environ["DATABASE_URL"], "slow")


# -- many at once -----------------------------------------------------------------------------------------------------

MAKE = """
import sys
import django
django.setup()
from django.conf import settings
from example_project.customers.models import Tenant

settings.PG_TENANTS = {**settings.PG_TENANTS, "READY_SCHEMAS": int(sys.argv[3])}
print("ready", flush=True)
sys.stdin.readline()
for number in range(int(sys.argv[2])):
    Tenant.objects.create(schema_name=f"made_{sys.argv[1]}_{number}", name="x")
"""
LOOK = """
import sys
import django
django.setup()
from example_project.customers.models import Tenant
from example_project.notes.models import Note
from pg_tenants import tenant_context
from pg_tenants.catalog import differences

tenants = list(Tenant.objects.order_by("schema_name"))
for tenant in tenants:
    assert tenant.is_active
    assert differences(tenants[0].schema_name, tenant.schema_name) == []
    with tenant_context(tenant):
        assert Note.objects.count() == 0
print(len(tenants))
"""
PREPARE = """
import django
django.setup()
from django.conf import settings
from django.core.management import call_command
call_command("migrate_schemas", verbosity=0)
settings.PG_TENANTS = {**settings.PG_TENANTS, "READY_SCHEMAS": 10}
call_command("prepare_schemas")
"""


def test_many_at_once(server_params: dict[str, Any]) -> None:
    """20 tenants, made by several processes at once, half of them from ready schemas, are all right and all alike."""
    processes = 8 if os.environ.get("PG_TENANTS_STORM") else 4
    with new_database(server_params, "at_once") as environ:
        environ["DJANGO_SETTINGS_MODULE"] = "tests.child_settings"
        assert run_python(environ, PREPARE) == "tenant: 10 ready\n"
        each = -(-20 // processes)
        started = [
            subprocess.Popen(
                [sys.executable, "-W", "ignore", "-c", MAKE, str(number), str(each), "10"],
                cwd=ROOT,
                env=environ,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for number in range(processes)
        ]
        for child in started:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
        for child in started:
            assert child.stdin is not None
            child.stdin.write("go\n")
            child.stdin.flush()
        for child in started:
            child.communicate(timeout=120)
            assert child.returncode == 0
        assert int(run_python(environ, LOOK)) == each * processes
