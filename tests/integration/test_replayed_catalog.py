"""An application's whole history: learned in one schema, replayed in another, and run by Django in a third place."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from typing import Any

import psycopg
import pytest

from tests.integration.test_templates import dump
from tests.projects.probe import ROOT, new_database

CMS = os.environ.get("PG_TENANTS_WHOLE_HISTORY", "")
"""``all`` for a CMS of 225 migrations as well; ``each`` to compare after each, which takes a quarter of an hour."""

# The schemas are made empty, so that both have the same way to go, and one run has to bring them along it.
RUN = """
import json
import sys

import django
django.setup()
from django.db import connection

from pg_tenants import schemas
from pg_tenants.catalog import differences
from pg_tenants.migrations import Options, _tracks, apply
from pg_tenants.migrations._executor import ModuleExecutor

sent = []
original = _tracks._replay

def replay(lesson, worker, target):
    fits = original(lesson, worker, target)
    sent.append((target.schema, fits))
    return fits

_tracks._replay = replay

def run(**options):
    report = apply(Options(verbosity=0, **options))
    assert [result.error for result in report.failed] == [], report.failed

def same():
    found = differences("learned", "replayed")
    assert found == [], list(map(str, found))

run()
for name in ("learned", "replayed"):
    schemas.create(name)
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO companies_company (schema_name, name, module, status, created_at)"
            " VALUES (%s, 'x', 'tenant', 'active', now())", [name])
if sys.argv[1] == "each":
    from pg_tenants.migrations import tenant_targets
    executor = ModuleExecutor(connection, tenant_targets()[0].apps, history=())
    for migration, _ in executor.migration_plan(executor.own_targets()):
        run(app_label=migration.app_label, migration_name=migration.name)
        same()
run()
same()
print(json.dumps({"fitted": sum(fits for _, fits in sent), "others": sum(not fits for _, fits in sent)}))
"""

# Types of shared models are in each tenant's schema, too.
QUERIES = (
    "SELECT app, name FROM {}.django_migrations ORDER BY 1, 2",
    "SELECT app_label, model FROM {}.django_content_type WHERE app_label <> 'companies' ORDER BY 1, 2",
    (
        "SELECT codename, name FROM {0}.auth_permission p JOIN {0}.django_content_type t ON t.id = p.content_type_id"
        " WHERE app_label <> 'companies' ORDER BY 1, 2"
    ),
)


def django(environ: dict[str, str], *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", *arguments],
        cwd=ROOT,
        env=environ,
        capture_output=True,
        text=True,
        timeout=3000,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def statements(url: str, schema: str) -> list[str]:
    """Return the statements of pg_dump that make what is in a schema, the order of a table's columns included."""
    text = re.sub(r"^(--.*|SET .*|SELECT pg_catalog\.set_config.*)$", "", dump(url, schema), flags=re.MULTILINE)
    found = (" ".join(statement.split()) for statement in text.split(";\n"))
    ours = re.compile(r"^$|pg_tenants_|^(CREATE|ALTER|COMMENT ON) SCHEMA")
    return sorted(statement for statement in found if not ours.search(statement))


def rows(url: str, schema: str) -> list[Any]:
    with psycopg.connect(url) as database:
        return [database.execute(query.format(schema)).fetchall() for query in QUERIES]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("project", "way", "sent", "size"),
    [
        ("growing", "each", 10, 40),
        pytest.param("cms", CMS, 150, 400, marks=pytest.mark.skipif(not CMS, reason="PG_TENANTS_WHOLE_HISTORY")),
    ],
)
def test_the_whole_history(server_params: dict[str, Any], project: str, way: str, sent: int, size: int) -> None:
    """pg_dump writes the same of all three, and the same rows are there of migrations, types and permissions."""
    settings = {"DJANGO_SETTINGS_MODULE": f"tests.projects.{project}.settings"}
    with (
        new_database(server_params, "replayed") as ours,
        new_database(server_params, "plain") as plain,
    ):
        django({**plain, **settings, f"{project.upper()}_PLAIN": "1"}, "-m", "django", "migrate", "-v0")
        found = json.loads(django({**ours, **settings}, "-c", RUN, way).splitlines()[-1])
        # What runs Python code, or is not atomic, is run in each schema.
        assert found["fitted"] > sent
        # The table of the record is made by the first one, which so finds none in the second schema.
        assert found["others"] <= 1
        wanted = statements(plain["DATABASE_URL"], "public"), rows(plain["DATABASE_URL"], "public")
        assert len(wanted[0]) > size
        for name in ("learned", "replayed"):
            assert statements(ours["DATABASE_URL"], name) == wanted[0]
            assert rows(ours["DATABASE_URL"], name) == wanted[1]
