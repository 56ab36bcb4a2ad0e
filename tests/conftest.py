"""The run's PostgreSQL, and the fixtures that tests of all layers share."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.settings import DATA, DATA_PREFIX

pytest_plugins = [
    "tests.fix_migrations",
    "tests.fix_pgbouncer",
    "tests.fix_project",
    "tests.fix_redis",
    "tests.fix_server",
    "tests.fix_wire",
]


def run_server() -> Any:
    from django.conf import settings

    from pg_tenants.server import Server, ServerConfig

    return Server(ServerConfig.load(settings.PG_TENANTS["PGSERVER"], environ={}))


def pytest_configure(config: pytest.Config) -> None:
    """Remove what killed runs have left."""
    if hasattr(config, "workerinput"):
        return
    from pg_tenants.server import Server, ServerConfig, ServerError

    for folder in Path(tempfile.gettempdir()).glob(f"{DATA_PREFIX}*"):
        pid = folder.name.removeprefix(DATA_PREFIX)
        if pid.isdigit() and not psutil.pid_exists(int(pid)):
            with contextlib.suppress(ServerError):
                Server(ServerConfig.load({"name": "tests", "data": str(folder)}, environ={})).erase()
            shutil.rmtree(folder, ignore_errors=True)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Stop the server and remove its data, in the process that pytest was started as."""
    if hasattr(config, "workerinput") or not DATA.endswith(f"-{os.getpid()}"):
        return
    from django.db import connections

    connections.close_all()
    if Path(DATA).exists():
        run_server().erase()


@pytest.fixture(scope="session")
def django_db_setup(django_test_environment: None, django_db_modify_db_settings: None, django_db_blocker: Any) -> None:
    """Make the worker's test database, also for tests that do not use pytest-django's own fixtures."""
    from django.test.utils import setup_databases

    with django_db_blocker.unblock():
        setup_databases(verbosity=0, interactive=False, aliases=["default"])


@pytest.fixture(scope="session")
def server_params(django_db_setup: None, django_db_blocker: Any) -> dict[str, Any]:
    """Return how psycopg connects to the worker's test database."""
    from django.conf import settings

    return {**run_server().connection_params(), "dbname": settings.DATABASES["default"]["NAME"]}


@pytest.fixture
def raw(server_params: dict[str, Any]) -> Iterator[Any]:
    """Return a psycopg connection in autocommit that knows nothing of tenants."""
    import psycopg

    with psycopg.connect(**server_params, autocommit=True) as connection:
        yield connection


@pytest.fixture
def open_db(django_db_setup: None, django_db_blocker: Any) -> Iterator[None]:
    """Open the database without a transaction around the test and without flushing it afterwards."""
    from django.db import connections

    from example_project.customers.models import Tenant
    from pg_tenants import deactivate

    with django_db_blocker.unblock():
        before = set(Tenant.objects.values_list("pk", flat=True))
        yield
        deactivate()
        if connections["default"].in_atomic_block:
            connections["default"].close()
        for tenant in Tenant.objects.exclude(pk__in=before):
            tenant.delete()
        connections.close_all()


def make_tenant(name: str) -> Any:
    from example_project.customers.models import Domain, Tenant

    tenant = Tenant.objects.create(schema_name=name, name=name.title())
    Domain.objects.create(domain=f"{name}.localhost", tenant=tenant)
    return tenant


def set_status(tenant: Any, status: str) -> None:
    """Give a tenant a status without what its methods do; lookups are told."""
    from pg_tenants import lookups

    type(tenant)._base_manager.filter(pk=tenant.pk).update(status=status)
    lookups.changed("default")


@pytest.fixture
def no_templates(open_db: None, raw: Any) -> Iterator[None]:
    """Have tenants' schemas made by the migrations."""
    raw.execute("ALTER TABLE public.pg_tenants_templates RENAME TO pg_tenants_templates_away")
    yield
    raw.execute("DROP TABLE IF EXISTS public.pg_tenants_templates")
    raw.execute("ALTER TABLE public.pg_tenants_templates_away RENAME TO pg_tenants_templates")


@pytest.fixture
def kept_admin() -> Iterator[None]:
    """Take back what apps that a test installs for a while register in the admin."""
    from django.contrib import admin

    before = dict(admin.site._registry)
    yield
    admin.site._registry.clear()
    admin.site._registry.update(before)


@pytest.fixture
def acme(open_db: None) -> Any:
    """Return a tenant with one note, outside any transaction."""
    return _with_note("acme")


@pytest.fixture
def globex(open_db: None) -> Any:
    """Return another tenant with one note, outside any transaction."""
    return _with_note("globex")


def _with_note(name: str) -> Any:
    from django.contrib.auth.models import User

    from example_project.notes.models import Note
    from pg_tenants import tenant_context

    tenant = make_tenant(name)
    with tenant_context(tenant):
        author = User.objects.create_user(f"ada-{name}", password="secret")
        Note.objects.create(title=f"note of {name}", body="text", author=author)
    return tenant


@pytest.fixture
def make_alias(open_db: None, server_params: dict[str, Any]) -> Iterator[Any]:
    """Return a function that adds a database alias on the worker's test database, with options of its own."""
    from django.db import connections

    from pg_tenants.conf import ENGINE

    made: list[str] = []

    def make(alias: str, *, params: dict[str, Any] | None = None, engine: str = ENGINE, **options: Any) -> Any:
        where = params or server_params
        settings = {
            "ENGINE": engine,
            "NAME": where["dbname"],
            "USER": where["user"],
            "PASSWORD": where["password"],
            "HOST": str(where["host"]),
            "PORT": str(where["port"]),
            "OPTIONS": options,
        }
        connections.settings[alias] = connections.configure_settings({alias: settings, "default": {}})[alias]
        made.append(alias)
        return connections[alias]

    yield make
    for alias in made:
        connections[alias].close()
        if connections[alias].settings_dict["OPTIONS"].get("pool"):
            connections[alias].close_pool()
        del connections[alias]
        del connections.settings[alias]
