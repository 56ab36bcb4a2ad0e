"""docs/howto/moving-in.md, followed on a project of each kind."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.acceptance._documents import CHECKOUT, Reader, blocks, environment, reachable_folder

PAGE = CHECKOUT / "docs" / "howto" / "moving-in.md"
OLD = CHECKOUT / "tests" / "projects" / "moving_in"
FILL = """
from django.contrib.auth.models import User
from shop.models import Order, Product
user = User.objects.create(pk=7, username="ada of " + {name!r})
order = Order.objects.create(buyer=user, note="order")
order.products.add(Product.objects.create(name="chair of " + {name!r}))
"""
FOUND = """
import json
from django.contrib.auth.models import Permission, User
from django.contrib.contenttypes.models import ContentType
from django.db import connection
from shop.models import Order, Product
from pg_tenants import tenant_context
from customers.models import *
from pg_tenants.models import tenant_model
found = {}
for tenant in tenant_model().objects.order_by("schema_name"):
    with tenant_context(tenant), connection.cursor() as cursor:
        user = User.objects.get()
        new = Order.objects.create(buyer=user, note="order")
        new.refresh_from_db()
        cursor.execute("SELECT receipt FROM shop_order ORDER BY id")
        receipts = [receipt for (receipt,) in cursor.fetchall()]
        cursor.execute("SELECT name FROM small_products")
        assert ContentType.objects.get_for_model(Product).model_class() is Product
        assert Permission.objects.filter(content_type__app_label="shop").count() == 8
        found[tenant.schema_name] = [
            tenant.status, user.pk, user.username, [*cursor.fetchone()], [o.note for o in Order.objects.order_by("pk")],
            receipts, [d.domain for d in tenant.domains.all()],
        ]
print(json.dumps(found))
"""


def section(heading: str) -> str:
    """Return the part of the page below a heading of the second level."""
    text = PAGE.read_text()
    assert f"\n## {heading}\n" in text
    return text.split(f"\n## {heading}\n")[1].split("\n## ")[0]


class Project:
    """An old project in a folder, with a database of its own."""

    def __init__(self, folder: Path, params: dict[str, Any], settings: str):
        self.folder = folder
        names = {
            "DB_NAME": "dbname",
            "DB_USER": "user",
            "DB_PASSWORD": "password",
            "DB_HOST": "host",
            "DB_PORT": "port",
        }
        self.environ = environment(
            **{name: str(params[key]) for name, key in names.items()},
            PYTHONPATH=str(CHECKOUT),
            COLUMNS="200",
        )
        shutil.copytree(OLD / "shop", folder / "shop", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(OLD / "manage.py", folder)
        shutil.copy(OLD / f"{settings}.py", folder / "settings.py")
        (folder / "urls.py").write_text("urlpatterns = []\n")
        if settings != "single":
            (folder / "customers" / "migrations").mkdir(parents=True)
            (folder / "customers" / "__init__.py").touch()
            (folder / "customers" / "migrations" / "__init__.py").touch()
            shutil.copy(OLD / "customers" / f"of_{settings}.py", folder / "customers" / "models.py")

    def run(self, *arguments: str) -> str:
        done = subprocess.run(
            ["python", *arguments],
            cwd=self.folder,
            env=self.environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
        assert done.returncode == 0, f"{arguments}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def shell(self, code: str) -> str:
        return self.run("manage.py", "shell", "-v", "0", "-c", code)

    def follow(self, heading: str) -> Any:
        """Do what the page says, and return what is found afterwards."""
        with Reader(self.folder, self.environ) as reader:
            reader.follow(blocks(section(heading)))
        return json.loads(self.shell(FOUND))


@pytest.fixture
def database(server_params: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Return the place of a new database."""
    name = f"moving_{os.getpid()}_{secrets.token_hex(4)}"
    with psycopg.connect(**server_params, autocommit=True) as raw:
        raw.execute(f"CREATE DATABASE {name}")
        yield {**server_params, "dbname": name}
        raw.execute(f"DROP DATABASE {name} WITH (FORCE)")


def expected(name: str, *domains: str) -> list[Any]:
    return [
        "active",
        7,
        f"ada of {name}",
        [f"chair of {name}"],
        ["order of 1", "order of 2"],
        [100, 101],
        list(domains),
    ]


def test_a_project_without_tenants(database: Any) -> None:
    """Its tables, types, functions, views and sequences become the first tenant's, with their rows; more can follow."""
    with reachable_folder() as folder:
        project = Project(folder, database, "single")
        project.run("manage.py", "migrate", "-v", "0")
        project.shell(FILL.format(name="acme"))
        with psycopg.connect(**database, autocommit=True) as raw:
            raw.execute("CREATE TABLE notes_of_our_own (id int)")
            assert project.follow("A project without tenants") == {"acme": expected("acme", "acme.example.com")}
            left = raw.execute(
                "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'"
            )
            assert {name for (name,) in left} == {
                "customers_domain",
                "customers_tenant",
                "django_migrations",
                "notes_of_our_own",
                "pg_tenants_marker",
                "pg_tenants_templates",
            }
            recorded = raw.execute("SELECT DISTINCT app FROM public.django_migrations").fetchall()
            assert recorded == [("customers",)]
        project.run("manage.py", "create_tenant", "globex", "--set", "name=Globex")


TENANTS = """
from customers.models import Client, Domain
for name in ("acme", "globex"):
    client = Client.objects.create(schema_name=name, name=name.title())
    Domain.objects.create(domain=f"{name}.example.com", tenant=client, is_primary=True)
    with client if ENTERS else tenant_context(client):
        exec(FILL.format(name=name))
"""


def test_a_project_of_django_tenants(database: Any) -> None:
    """Schemas and rows are taken over where they are; the row of the public tenant goes."""
    with reachable_folder() as folder:
        project = Project(folder, database, "django_tenants")
        project.run("manage.py", "makemigrations", "customers")
        project.run("manage.py", "migrate_schemas", "--shared", "-v", "0")
        project.shell(
            "from customers.models import Client, Domain\n"
            "public = Client.objects.create(schema_name='public', name='us')\n"
            "Domain.objects.create(domain='www.example.com', tenant=public)\n"
            f"FILL = {FILL!r}; ENTERS = False\n"
            "from django_tenants.utils import tenant_context\n" + TENANTS
        )
        assert project.follow("A project of django-tenants") == {
            name: expected(name, f"{name}.example.com") for name in ("acme", "globex")
        }
        project.run("manage.py", "create_tenant", "initech", "--set", "name=Initech")


def test_a_project_of_django_pgschemas(database: Any) -> None:
    """Schemas and rows are taken over where they are."""
    with reachable_folder() as folder:
        project = Project(folder, database, "django_pgschemas")
        project.run("manage.py", "makemigrations", "customers")
        project.run("manage.py", "migrate", "-v", "0")
        project.shell(f"FILL = {FILL!r}; ENTERS = True\n" + TENANTS)
        assert project.follow("A project of django-pgschemas") == {
            name: expected(name, f"{name}.example.com") for name in ("acme", "globex")
        }
        project.run("manage.py", "create_tenant", "initech", "--set", "name=Initech")
