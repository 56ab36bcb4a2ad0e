"""Spare schemas that new tenants take."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connections, transaction

from example_project.customers.models import Tenant
from example_project.notes.models import Note
from pg_tenants import schemas, tenant_context
from pg_tenants.catalog import differences
from pg_tenants.exceptions import SchemaExists
from pg_tenants.migrations import Target, required_registry
from pg_tenants.provisioning import ready, template
from tests.integration.test_races import settle

Raw = Any


@pytest.fixture
def wants(open_db: None, settings: Any) -> Iterator[Any]:
    """Return a function that sets how many ready schemas there are to be; at the end there are none."""
    template.refresh()

    def want(count: int) -> None:
        settings.PG_TENANTS = {**settings.PG_TENANTS, "READY_SCHEMAS": count}

    want(2)
    yield want
    want(0)
    ready.prepare()


def spare(raw: Raw) -> list[str]:
    query = "SELECT nspname FROM pg_namespace WHERE strpos(nspname, '_ready_') > 0 ORDER BY oid"
    return [name for (name,) in raw.execute(query).fetchall()]


def oid(raw: Raw, schema: str) -> int:
    name = schemas.tenant_connection().physical_schema(schema)
    row = raw.execute("SELECT oid::bigint FROM pg_namespace WHERE nspname = %s", [name]).fetchone()
    return row[0] if row else 0


def oids(raw: Raw) -> set[int]:
    return {row[0] for row in raw.execute("SELECT oid::bigint FROM pg_namespace").fetchall()}


def test_a_tenant_takes_one(wants: Any, raw: Raw) -> None:
    """The schema is a ready one with the rows of the migrations; without one it is made anew, and equal."""
    assert ready.prepare() == {"tenant": 2}
    assert len(spare(raw)) == 2
    before = oids(raw)
    tenants = [Tenant.objects.create(schema_name=f"taker_{number}", name="x") for number in range(3)]
    assert spare(raw) == []
    assert [oid(raw, tenant.schema_name) in before for tenant in tenants] == [True, True, False]
    for tenant in tenants:
        with tenant_context(tenant):
            assert Note.objects.create(title="a", body="b", author=_author()).pk == 1
    first, _, third = (schemas.tenant_connection().physical_schema(tenant.schema_name) for tenant in tenants)
    assert differences(first, third) == []
    assert raw.execute(f"SELECT app, name FROM {first}.django_migrations ORDER BY id").fetchall() == (
        raw.execute(f"SELECT app, name FROM {third}.django_migrations ORDER BY id").fetchall()
    )


def _author() -> Any:
    from django.contrib.auth.models import User

    return User.objects.create_user("ada", password="secret")


def test_a_rollback_gives_it_back(wants: Any, raw: Raw) -> None:
    """Row, name and schema are as before."""
    ready.prepare()
    before = spare(raw)
    with transaction.atomic():
        Tenant.objects.create(schema_name="brief", name="x")
        transaction.set_rollback(True)
    assert spare(raw) == before
    assert not schemas.exists("brief")
    assert ready.prepare() == {"tenant": 2}
    assert spare(raw) == before


def test_two_at_once(wants: Any, raw: Raw) -> None:
    """Each gets another one, and none waits for the other's transaction."""
    ready.prepare()
    before = oids(raw)
    taken, go_on = threading.Event(), threading.Event()

    def first() -> None:
        with transaction.atomic():
            Tenant.objects.create(schema_name="one", name="x")
            taken.set()
            go_on.wait(20)
        connections.close_all()

    thread = threading.Thread(target=first)
    thread.start()
    assert taken.wait(20)
    Tenant.objects.create(schema_name="two", name="x")
    go_on.set()
    thread.join()
    assert {oid(raw, "one"), oid(raw, "two")} <= before
    assert oid(raw, "one") != oid(raw, "two")


def test_stale_ones(wants: Any, raw: Raw) -> None:
    """One of another version is never taken; the next run drops it, and those that are too many or lost."""
    ready.prepare()
    before = spare(raw)
    raw.execute("UPDATE public.pg_tenants_ready SET version = 'old'")
    Tenant.objects.create(schema_name="fresh", name="x")
    assert spare(raw) == before
    assert ready.prepare() == {"tenant": 2}
    assert len(spare(raw)) == 2
    assert not set(before) & set(spare(raw))
    wants(1)
    assert ready.prepare() == {"tenant": 1}
    assert len(spare(raw)) == 1
    raw.execute(f"DROP SCHEMA {spare(raw)[0]} CASCADE")
    Tenant.objects.create(schema_name="after_loss", name="x")
    assert raw.execute("SELECT count(*) FROM public.pg_tenants_ready").fetchone() == (0,)


def test_a_name_that_is_taken(wants: Any, raw: Raw) -> None:
    """The error is that of making a schema, and the ready one stays."""
    ready.prepare()
    schemas.create("occupied")
    try:
        with pytest.raises(SchemaExists, match="has a schema 'occupied' already"):
            Tenant.objects.create(schema_name="occupied", name="x")
        assert len(spare(raw)) == 2
    finally:
        schemas.drop("occupied")


def test_the_fleet_leaves_them_alone(wants: Any, raw: Raw) -> None:
    """Commands about schemas do not name them; migrate_schemas fills them up."""
    out = io.StringIO()
    call_command("migrate_schemas", "--json", stdout=out)
    assert not [each for each in json.loads(out.getvalue())["schemas"] if "_ready_" in each["schema"]]
    assert len(spare(raw)) == 2
    assert not [name for name in schemas.list() if "_ready_" in name]


def test_the_command(wants: Any, raw: Raw) -> None:
    """It says how many there are, and fails where there is no template."""
    out = io.StringIO()
    call_command("prepare_schemas", stdout=out)
    assert out.getvalue() == "tenant: 2 ready\n"
    call_command("prepare_schemas", "--json", stdout=(out := io.StringIO()))
    assert json.loads(out.getvalue()) == {"tenant": 2}
    raw.execute("CREATE TEMP TABLE kept AS TABLE public.pg_tenants_templates")
    raw.execute("DELETE FROM public.pg_tenants_templates")
    try:
        with pytest.raises(CommandError, match=r"no template of 'tenant'.*Run migrate_schemas"):
            call_command("prepare_schemas", stdout=io.StringIO())
        assert spare(raw) == []
    finally:
        raw.execute("INSERT INTO public.pg_tenants_templates TABLE kept")


def test_a_killed_run_leaves_nothing_half(wants: Any, raw: Raw) -> None:
    """Each schema is made in a transaction with its row."""
    script = template.load(Target("", (required_registry().modules["tenant"],)))
    assert isinstance(script, template.Script)
    with pytest.raises(KeyboardInterrupt):
        ready.prepare(tell=_interrupt)
    listed = raw.execute("SELECT schema_name FROM public.pg_tenants_ready").fetchall()
    assert [schemas.tenant_connection().physical_schema(name) for (name,) in listed] == spare(raw)
    assert len(listed) == 1


def _interrupt(module: str) -> None:
    raise KeyboardInterrupt


PREPARE = """
import sys
import django
from django.conf import settings

settings.DATABASES["default"]["NAME"] = sys.argv[1]
settings.PG_TENANTS = {**settings.PG_TENANTS, "READY_SCHEMAS": 200}
django.setup()
from django.core.management import call_command

call_command("prepare_schemas")
"""


def test_a_killed_process_leaves_nothing_half(wants: Any, raw: Raw, server_params: dict[str, Any]) -> None:
    """kill -9: what it has made is listed and whole, and the next run goes on from there."""
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", PREPARE, server_params["dbname"]],
        env={**os.environ, "DJANGO_SETTINGS_MODULE": "tests.settings"},
        stdout=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 60
        while len(spare(raw)) < 2:
            assert time.monotonic() < deadline
            assert process.poll() is None
    finally:
        process.kill()
        process.wait(10)
    settle(raw, server_params["dbname"])
    listed = raw.execute("SELECT schema_name FROM public.pg_tenants_ready").fetchall()
    made = spare(raw)
    assert sorted(schemas.tenant_connection().physical_schema(name) for (name,) in listed) == sorted(made)
    wants(len(made) + 1)
    ready.prepare()
    assert spare(raw)[:-1] == made
    first, *others = spare(raw)
    assert [differences(first, other) for other in others] == [[] for _ in others]
