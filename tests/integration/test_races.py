"""Two processes at one tenant at once, and processes killed in the middle."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from django.test import Client

from example_project.customers.models import Domain, Tenant
from example_project.notes.models import Note
from pg_tenants import schemas, tenant_context
from tests.conftest import make_tenant

ROOT = Path(__file__).resolve().parents[2]


class Child:
    """A process that obeys; see ``race_child``."""

    def __init__(self, database: str):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.integration.race_child", database],
            cwd=ROOT,
            env={**os.environ, "DJANGO_SETTINGS_MODULE": "tests.settings", "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        assert self.answer() == "ready"

    def tell(self, line: str) -> None:
        assert self.process.stdin
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def answer(self) -> str:
        assert self.process.stdout
        return self.process.stdout.readline().strip()

    def ask(self, line: str) -> str:
        self.tell(line)
        return self.answer()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe:
                pipe.close()


@pytest.fixture
def child(open_db: None, server_params: dict[str, Any]) -> Iterator[Callable[[], Child]]:
    """Return a function that starts a process; all are killed at the end."""
    children: list[Child] = []

    def start() -> Child:
        children.append(Child(server_params["dbname"]))
        return children[-1]

    yield start
    for process in children:
        if process.process.poll() is None:
            process.kill()


def state(raw: Any, name: str) -> tuple[str | None, bool]:
    """Return the status of a tenant's row, and whether its schema is there with its marker and a table."""
    row = Tenant.objects.filter(schema_name=name).values_list("status", flat=True).first()
    physical = schemas.tenant_connection().physical_schema(name)
    found = raw.execute(
        "SELECT to_regnamespace(%(n)s) IS NOT NULL, to_regclass(%(n)s || '.pg_tenants_marker') IS NOT NULL,"
        " to_regclass(%(n)s || '.notes_note') IS NOT NULL",
        {"n": physical},
    ).fetchone()
    assert len(set(found)) == 1, f"{name} is half made: {found}"
    return row, found[0]


def settle(raw: Any, database: str) -> None:
    """Wait until the server has ended the sessions of processes that were killed, idle or not."""
    deadline = time.monotonic() + 30
    query = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND pid <> pg_backend_pid() AND xact_start < now()"
    )
    while raw.execute(query, [database]).fetchone()[0]:
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("verb", ["create", "command"])
def test_one_name_in_two_processes(child: Any, raw: Any, verb: str) -> None:
    """One has it, the other is told so, and what there is at the end is whole; many times over."""
    one, two = child(), child()
    for number in range(8):
        name = f"race{number}"
        for process in (one, two):
            process.tell(f"{verb} {name}")
        answers = sorted([one.answer(), two.answer()], reverse=True)
        assert answers[0] == "ok", answers
        wanted = ("SchemaExists",) if verb == "create" else ("CommandError",)
        assert answers[1].startswith(wanted), answers
        assert name in answers[1]
        assert "already" in answers[1]
        assert state(raw, name) == ("active", True)


def test_create_and_delete_at_once(child: Any, raw: Any) -> None:
    """Whatever comes first, there is a tenant with its schema or neither."""
    one, two = child(), child()
    seen = set()
    for number in range(10):
        one.tell("create race")
        # The delete meets the creation's beginning, its middle and its end.
        time.sleep(0.05 * number)
        two.tell("delete race")
        answers = one.answer(), two.answer()
        assert answers[0] == "ok" or answers[0].startswith("SchemaExists"), answers
        assert answers[1] == "ok", answers
        found = state(raw, "race")
        assert found in ((None, False), ("active", True)), found
        seen.add(found)
        if number % 3 == 2:
            assert one.ask("delete race") == "ok"
            assert state(raw, "race") == (None, False)
    assert seen


def test_two_deletes_and_a_create_at_once(child: Any, raw: Any) -> None:
    """A delete that comes late does not take the schema of the next tenant of that name."""
    one, two = child(), child()
    for _ in range(5):
        make_tenant("race")
        for process in (one, two):
            process.tell("delete race")
        assert (one.answer(), two.answer()) == ("ok", "ok")
        assert state(raw, "race") == (None, False)


PHASES = [
    "pre_tenant_create",
    "post_save",
    "post_migrate",
    "post_tenant_create",
    "pre_tenant_activate",
    "post_tenant_activate",
]


@pytest.mark.parametrize("phase", PHASES)
def test_killed_while_a_tenant_is_made(child: Any, raw: Any, server_params: Any, phase: str) -> None:
    """Neither row nor schema is left, and the name is free."""
    victim = child()
    assert victim.ask(f"stop {phase}") == "ok"
    assert victim.ask("create race") == "stopped"
    victim.kill()
    settle(raw, server_params["dbname"])
    assert state(raw, "race") == (None, False)
    assert child().ask("create race") == "ok"
    assert state(raw, "race") == ("active", True)


def test_killed_at_any_moment(child: Any, raw: Any, server_params: Any) -> None:
    """Without waiting for a place: the tenant is there as a whole, or not."""
    for number in range(6):
        victim = child()
        victim.tell("create race")
        time.sleep(0.1 * number)
        victim.kill()
        settle(raw, server_params["dbname"])
        found = state(raw, "race")
        assert found in ((None, False), ("active", True)), found
        Tenant.objects.filter(schema_name="race").delete()


@pytest.mark.parametrize("remedy", ["provision", "delete"])
def test_killed_while_a_saved_tenant_gets_its_schema(child: Any, raw: Any, server_params: Any, remedy: str) -> None:
    """The row says so, is not served and does not break a migration; commands finish it or remove it."""
    tenant = Tenant(schema_name="race", name="Race")
    tenant.save(provision=False)
    Domain.objects.create(domain="race.localhost", tenant=tenant)
    victim = child()
    assert victim.ask("stop post_tenant_create") == "ok"
    assert victim.ask("provision race") == "stopped"
    victim.kill()
    settle(raw, server_params["dbname"])
    assert state(raw, "race") == ("provisioning", False)
    assert Client().get("/", headers={"host": "race.localhost"}).status_code == 503
    call_command("migrate_schemas", verbosity=0)
    if remedy == "provision":
        call_command("provision_tenants", verbosity=0)
        assert state(raw, "race") == ("active", True)
        with tenant_context(tenant):
            assert Note.objects.count() == 0
    else:
        call_command("delete_tenant", "race", "--noinput", verbosity=0)
        assert state(raw, "race") == (None, False)


def test_killed_while_a_tenant_is_deleted(child: Any, raw: Any, server_params: Any) -> None:
    """It is still there as a whole, with its data, and can be deleted again."""
    for phase in ("pre_tenant_delete", "post_tenant_delete"):
        tenant = Tenant.objects.filter(schema_name="race").first() or make_tenant("race")
        victim = child()
        assert victim.ask(f"stop {phase}") == "ok"
        assert victim.ask("delete race") == "stopped"
        victim.kill()
        settle(raw, server_params["dbname"])
        assert state(raw, "race") == ("active", True)
        with tenant_context(tenant):
            assert Note.objects.count() == 0
    call_command("delete_tenant", "race", "--noinput", verbosity=0)
    assert state(raw, "race") == (None, False)


def test_provision_in_two_processes(child: Any, raw: Any) -> None:
    """Both come through; the second finds it done."""
    one, two = child(), child()
    for number in range(4):
        Tenant(schema_name=f"race{number}", name="Race").save(provision=False)
        for process in (one, two):
            process.tell(f"provision race{number}")
        assert (one.answer(), two.answer()) == ("ok", "ok")
        assert state(raw, f"race{number}") == ("active", True)


def test_the_command_with_a_schema_in_the_way(open_db: None, raw: Any) -> None:
    """The tenant is marked as failed; when the schema is out of the way, the command finishes it."""
    Tenant(schema_name="race", name="Race").save(provision=False)
    name = schemas.tenant_connection().physical_schema("race")
    raw.execute(f'CREATE SCHEMA "{name}"')
    try:
        with pytest.raises(CommandError, match=r"race: SchemaExists: .*not taken over unasked"):
            call_command("provision_tenants", verbosity=0)
        assert Tenant.objects.get(schema_name="race").status == "failed"
        call_command("migrate_schemas", verbosity=0)
    finally:
        raw.execute(f'DROP SCHEMA "{name}"')
    call_command("provision_tenants", "race", verbosity=0)
    assert state(raw, "race") == ("active", True)
    call_command("provision_tenants", "race", verbosity=0)
