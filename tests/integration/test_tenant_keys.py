"""TENANT_MODELs with other primary keys than a number, in a project of their own."""

from __future__ import annotations

import json
from typing import Any

import pytest
from psycopg import sql

from tests.fix_project import Project

pytest_plugins = ["pytester"]

KINDS = {
    "uuid": """
class Tenant(TenantMixin):
    key = models.UUIDField(primary_key=True, default=uuid.uuid4)
""",
    "text": """
class Tenant(TenantMixin):
    key = models.CharField(primary_key=True, max_length=200, default=long_key)
""",
    "child": """
class Customer(TenantMixin):
    pass

class Tenant(Customer):
    note = models.TextField(blank=True)
""",
}
MODELS = """
import itertools, uuid
from django.db import models
from pg_tenants.models import DomainMixin, TenantMixin

numbers = itertools.count()

def long_key():
    return "k\N{SNOWMAN} \\"'%" * 20 + str(next(numbers))

{tenant}

class Domain(DomainMixin):
    pass
"""
SETTINGS = """
from tests.child_settings import *
INSTALLED_APPS = [app.replace("example_project.customers", "people") for app in INSTALLED_APPS]
MODULES = {**PG_TENANTS["MODULES"]}
for name, module in MODULES.items():
    MODULES[name] = {**module, "apps": [app.replace("example_project.customers", "people") for app in module["apps"]]}
PG_TENANTS = {**PG_TENANTS, "TENANT_MODEL": "people.Tenant", "DOMAIN_MODEL": "people.Domain", "MODULES": MODULES}
"""
LIFE = """
import json, pickle, uuid
import django
django.setup()
from django.db import connection
from example_project.notes.models import Tag
from people.models import Tenant
from pg_tenants import tenant_context
from pg_tenants.exceptions import SchemaDoesNotExist

def tags(tenant):
    with tenant_context(tenant):
        try:
            return [tag.name for tag in Tag.objects.all()]
        except SchemaDoesNotExist:
            return None

acme = Tenant.objects.create_tenant("acme", "acme.localhost")
with tenant_context(acme):
    Tag.objects.create(name="first")
kept, found = pickle.loads(pickle.dumps(acme)), []
acme.rename("acme_old")
found.append(tags(acme))
other = Tenant.objects.create(schema_name="acme")
with tenant_context(other):
    Tag.objects.create(name="second")
found += [tags(kept), tags(Tenant.objects.get(pk=kept.pk)), tags(other)]
acme.delete()
found.append(tags(acme))
with connection.cursor() as cursor:
    cursor.execute("SELECT count(*) FROM pg_class WHERE relname ~ '^pg_tenants_marker.' AND relkind = 'r'")
    found += cursor.fetchone()
if isinstance(other.pk, uuid.UUID):
    third = Tenant(key=str(uuid.uuid4()).upper(), schema_name="third")
    third.save()
    found.append(tags(third) == tags(Tenant.objects.get(schema_name="third")) == [])
print(json.dumps(found))
"""
TESTS = """
from pg_tenants import current_tenant

def test_tenant(tenant):
    assert current_tenant() == tenant

def test_another(tenant):
    assert current_tenant() == tenant
"""


@pytest.mark.parametrize("kind", KINDS)
def test_tenants_of_any_key(project: Project, raw: Any, kind: str) -> None:
    """They are made, found, renamed and told apart as those with numbers are."""
    folder = project.pytester.mkpydir("people")
    (folder / "models.py").write_text(MODELS.replace("{tenant}", KINDS[kind]))
    project.write("project_settings.py", SETTINGS)
    project.write("life.py", LIFE)
    project.write("test_them.py", TESTS)
    database = project.database.removeprefix("test_")
    project.environment["DATABASE_URL"] += f"_{kind}"
    made = (f"{database}_{kind}", f"test_{database}_{kind}")
    try:
        live(project, kind)
    finally:
        for name in made:
            raw.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


def live(project: Project, kind: str) -> None:
    project.manages("makemigrations", "people", "-v0")
    project.manages("migrate_schemas", "--create-db", "-v0")
    code, output = project.run("life")
    assert code == 0, output
    found = json.loads(output.splitlines()[-1])
    assert found == [["first"], None, ["first"], ["second"], None, 1, *([True] if kind == "uuid" else [])]
    project.passes("-p", "no:randomly", count=2)
