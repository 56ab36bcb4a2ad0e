"""Fleets whose runs are killed, locked out, or meet: the next run completes what they have left."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
from psycopg import sql

KILLS = int(os.environ.get("PG_TENANTS_KILLS", "4"))
"""How often the command is killed, and the server half as often; more for a long run."""

SEED = int(os.environ.get("PG_TENANTS_SEED", time.time()))
"""What the moments of the kills are drawn from. It is said where a test fails."""

TENANTS = [f"tenant_{number}" for number in range(6)]


class Fleet:
    """A database with tenants of the project ``growing``, which processes migrate."""

    def __init__(self, url: str):
        self.url = url

    def start(self, *command: str, **environ: str) -> subprocess.Popen[str]:
        settings = "tests.projects.growing.settings"
        return subprocess.Popen(
            [sys.executable, "-m", "django", *command],
            env={**os.environ, **environ, "DATABASE_URL": self.url, "DJANGO_SETTINGS_MODULE": settings},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *command: str) -> str:
        process = self.start(*command)
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, (out, err)
        return out

    def query(self, text: str, schema: str = "public") -> list[Any]:
        with psycopg.connect(self.url, autocommit=True) as database:
            database.execute(sql.SQL("SET search_path = {}").format(sql.Identifier(schema)))
            return database.execute(text).fetchall()

    def make(self) -> None:
        self.run("migrate_schemas", "-v0")
        self.run("create_tenant", TENANTS[0], "--set", "name=x", "-v0")
        self.run("migrate_schemas", "parts", "0001", "-v0")
        for name in TENANTS[1:]:
            self.run("create_tenant", name, "--set", "name=x", "-v0")
        self.run("migrate_schemas", "parts", "0001", "-v0")

    def state(self, schema: str) -> dict[str, Any]:
        """Return what is to be the same in all schemas after an undisturbed run."""
        return {
            "columns": self.query(
                "SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull FROM pg_attribute a"
                " JOIN pg_class c ON c.oid = a.attrelid WHERE relnamespace = current_schema()::regnamespace"
                " AND relkind = 'r' AND attnum > 0 AND NOT attisdropped ORDER BY 1, 2",
                schema,
            ),
            "indexes": self.query(
                "SELECT i.indexrelid::regclass::text, i.indisvalid, pg_get_indexdef(i.indexrelid, 0, true)"
                " FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid"
                " WHERE relnamespace = current_schema()::regnamespace ORDER BY 1",
                schema,
            ),
            "constraints": self.query(
                "SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint"
                " WHERE connamespace = current_schema()::regnamespace ORDER BY 1, 2",
                schema,
            ),
            "recorded": self.query(
                "SELECT app, name, count(*) FROM django_migrations GROUP BY 1, 2 ORDER BY 1, 2", schema
            ),
            "makers": self.query("SELECT name FROM parts_maker", schema),
            "types": self.query("SELECT app_label, model FROM django_content_type ORDER BY 1, 2", schema),
            "permissions": self.query("SELECT codename FROM auth_permission ORDER BY 1", schema),
        }

    def check(self, wanted: dict[str, Any]) -> None:
        for name in TENANTS:
            assert self.state(name) == wanted, name


@pytest.fixture(scope="module")
def fleet(server_params: dict[str, Any]) -> Iterator[Fleet]:
    """Return the fleet, with each tenant at the first migration of ``parts``."""
    name = f"{server_params['dbname']}_growing"
    drop = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))
    with psycopg.connect(**server_params, autocommit=True) as server:
        server.execute(drop)
        server.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        where = {**server_params, "dbname": name}
        fleet = Fleet(
            f"postgresql://{where['user']}:{where['password']}@{where['host']}:{where['port']}/{where['dbname']}"
        )
        fleet.make()
        yield fleet
        server.execute(drop)


@pytest.fixture
def wanted(fleet: Fleet) -> Iterator[dict[str, Any]]:
    """Return the state after an undisturbed run, and take the migrations back before and after the test."""
    fleet.run("migrate_schemas", "-v0")
    wanted = fleet.state(TENANTS[0])
    fleet.check(wanted)
    fleet.run("migrate_schemas", "parts", "0001", "-v0")
    yield wanted
    fleet.run("migrate_schemas", "-v0")
    fleet.run("migrate_schemas", "parts", "0001", "-v0")


def seconds(work: Callable[[], object]) -> float:
    started = time.monotonic()
    work()
    return time.monotonic() - started


def seeded() -> random.Random:
    print(f"PG_TENANTS_SEED={SEED}")
    return random.Random(SEED)


def test_the_command_is_killed_at_any_moment(fleet: Fleet, wanted: dict[str, Any]) -> None:
    """kill -9; the next run does what is left, and nothing twice; rows that tell of the killed one are gone."""
    usual = seconds(lambda: fleet.run("migrate_schemas", "-v0"))
    chance = seeded()
    for _ in range(KILLS):
        fleet.run("migrate_schemas", "parts", "0001", "-v0")
        process = fleet.start("migrate_schemas", "-v0", "--jobs", str(chance.choice([1, 2])))
        time.sleep(chance.uniform(usual * 0.4, usual))
        process.kill()
        process.communicate()
        fleet.run("migrate_schemas", "-v0")
        fleet.check(wanted)


@pytest.mark.parametrize("way", ["early", "late"])
def test_killed_between_operations(fleet: Fleet, wanted: dict[str, Any], way: str) -> None:
    """Where a migration is not atomic, the next run goes on behind the last operation that was done."""
    process = fleet.start("migrate_schemas", "-v0", PARTS_DIE=way)
    process.communicate(timeout=300)
    assert process.returncode == -signal.SIGKILL
    found = fleet.query("SELECT name FROM django_migrations WHERE app = 'pg_tenants:unfinished'", TENANTS[2])
    (mark,) = [name for (name,) in found if name.startswith("parts.")]
    assert mark.startswith(f"parts.0006_several {1 if way == 'early' else 5} ")
    fleet.run("migrate_schemas", "-v0")
    fleet.check(wanted)


def test_two_runs_at_once(fleet: Fleet, wanted: dict[str, Any]) -> None:
    """Both end well, and each migration is applied once."""
    processes = [fleet.start("migrate_schemas", "-v0", *extra) for extra in ([], ["--jobs", "2"])]
    for process in processes:
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, (out, err)
    fleet.check(wanted)


def test_a_locked_table(fleet: Fleet, wanted: dict[str, Any]) -> None:
    """The others go on; that one is tried again at the end, and reported when its time is up."""
    with psycopg.connect(fleet.url) as reader:
        reader.execute(f"SELECT count(*) FROM {TENANTS[2]}.parts_part")
        process = fleet.start("migrate_schemas", "--json")
        out, err = process.communicate(timeout=300)
        assert process.returncode == 1
        found = {entry["schema"]: entry for entry in json.loads(out)["schemas"]}
        assert [name for name, entry in found.items() if entry["error"]] == [TENANTS[2]]
        assert "lock timeout" in found[TENANTS[2]]["error"]
        assert "lock timeout" in err
        assert found[TENANTS[2]]["seconds"] > 4 * 0.4
    fleet.run("migrate_schemas", "-v0")
    fleet.check(wanted)


def test_a_table_that_is_locked_for_a_moment(fleet: Fleet, wanted: dict[str, Any]) -> None:
    """When the reader has gone, the retry succeeds, in the same run."""
    with psycopg.connect(fleet.url) as reader:
        reader.execute(f"SELECT count(*) FROM {TENANTS[2]}.parts_part")
        process = fleet.start("migrate_schemas", "-v0")
        deadline = time.monotonic() + 60
        while fleet.query("SELECT to_regclass('parts_maker')", TENANTS[-1]) == [(None,)]:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        reader.rollback()
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, (out, err)
    fleet.check(wanted)


def test_the_server_is_killed(tmp_path: Path) -> None:
    """kill -9 of the server while migrations run; when it is up again, the next run completes them."""
    from django.conf import settings

    from pg_tenants.server import Server, ServerConfig
    from pg_tenants.server.postmaster import is_alive

    folder = tmp_path / "data"
    raw: dict[str, Any] = {**settings.PG_TENANTS["PGSERVER"], "name": "killed", "data": str(folder)}
    server = Server(ServerConfig.load(raw, environ={}))
    server.up()
    try:
        fleet = Fleet(_url(server))
        fleet.make()
        usual = seconds(lambda: fleet.run("migrate_schemas", "-v0"))
        wanted = fleet.state(TENANTS[0])
        chance = seeded()
        for _ in range(max(1, KILLS // 2)):
            fleet.run("migrate_schemas", "parts", "0001", "-v0")
            process = fleet.start("migrate_schemas", "-v0", "--jobs", "2")
            time.sleep(chance.uniform(usual * 0.4, usual))
            postmaster = psutil.Process(_postmaster(folder))
            postmaster.kill()
            process.communicate(timeout=120)
            # It takes a moment, in which it counts as running.
            deadline = time.monotonic() + 60
            while is_alive(postmaster):
                assert time.monotonic() < deadline
                time.sleep(0.01)
            server.up()
            fleet.url = _url(server)  # The port may be another one.
            fleet.run("migrate_schemas", "-v0")
            fleet.check(wanted)
    finally:
        server.erase()
        shutil.rmtree(folder, ignore_errors=True)


def _url(server: Any) -> str:
    where = server.connection_params()
    return f"postgresql://{where['user']}:{where['password']}@{where['host']}:{where['port']}/postgres"


def _postmaster(folder: Path) -> int:
    (found,) = folder.rglob("postmaster.pid")
    return int(found.read_text().splitlines()[0])


# -- nothing to do ----------------------------------------------------------------------------------------------------


def test_nothing_to_do_costs_few_statements(fleet: Fleet) -> None:
    """A hundred more schemas that are up to date take two statements more, and the same memory and time."""
    fleet.run("migrate_schemas", "-v0")
    few = _measured(fleet)
    with psycopg.connect(fleet.url, autocommit=True) as database:
        for number in range(400):
            name = f"many_{number:03}"
            database.execute(
                f"CREATE SCHEMA {name}; CREATE TABLE {name}.pg_tenants_marker ();"
                f" CREATE TABLE {name}.django_migrations (LIKE {TENANTS[0]}.django_migrations INCLUDING ALL);"
                f" INSERT INTO {name}.django_migrations SELECT * FROM {TENANTS[0]}.django_migrations"
            )
        database.execute(
            "INSERT INTO companies_company (schema_name, name, module, status, created_at)"
            " SELECT nspname, 'x', 'tenant', 'active', now() FROM pg_namespace WHERE nspname LIKE 'many_%'"
        )
        try:
            many = _measured(fleet)
            for option in ("--plan", "--check", "--list"):
                assert _measured(fleet, option)["statements"] <= many["statements"]
        finally:
            database.execute("DELETE FROM companies_company WHERE schema_name LIKE 'many_%'")
            for number in range(400):
                database.execute(f"DROP SCHEMA many_{number:03} CASCADE")
    assert many["schemas"] == few["schemas"] + 400
    assert many["statements"] - few["statements"] <= 8 + 8
    assert many["memory"] < few["memory"] * 1.2


COPIED = ("django_migrations", "django_content_type", "auth_permission", "parts_part")


def test_memory_does_not_grow_with_the_fleet(fleet: Fleet, wanted: dict[str, Any]) -> None:
    """While migrations are learned, sent on, and run as Python code."""
    names = [f"many_{number:03}" for number in range(300)]
    copies = "; ".join(
        f"CREATE TABLE {{0}}.{table} (LIKE {TENANTS[0]}.{table} INCLUDING ALL);"
        f" INSERT INTO {{0}}.{table} OVERRIDING SYSTEM VALUE SELECT * FROM {TENANTS[0]}.{table};"
        f" ALTER TABLE {{0}}.{table} ALTER id RESTART WITH 1000"
        for table in COPIED
    )
    found = []
    with psycopg.connect(fleet.url, autocommit=True) as database:
        try:
            for count in (10, len(names)):
                fleet.run("migrate_schemas", "parts", "0001", "-v0")
                for name in names[:count]:
                    database.execute(
                        f"DROP SCHEMA IF EXISTS {name} CASCADE; CREATE SCHEMA {name};"
                        f" CREATE TABLE {name}.pg_tenants_marker (); {copies.format(name)}"
                    )
                    database.execute(
                        "INSERT INTO companies_company (schema_name, name, module, status, created_at)"
                        " VALUES (%s, 'x', 'tenant', 'active', now()) ON CONFLICT DO NOTHING",
                        [name],
                    )
                found.append(_measured(fleet, "parts", "0003", "--jobs=2")["memory"])
                assert fleet.query("SELECT name FROM parts_maker", names[count - 1]) == [("maker",)]
        finally:
            database.execute("DELETE FROM companies_company WHERE schema_name LIKE 'many_%'")
            for name in names:
                database.execute(f"DROP SCHEMA IF EXISTS {name} CASCADE")
    assert found[1] < found[0] * 1.2


def _measured(fleet: Fleet, *options: str) -> dict[str, Any]:
    """Run the command in a process that counts its statements, and its memory at the end."""
    script = (
        "import io, json, resource, django; django.setup();"
        "from django.core.management import call_command;"
        "from pg_tenants.backends.cursor import TenantCursorMixin as C;"
        "from pg_tenants import migrations;"
        "seen = []; gen = C._execute_gen;"
        "C._execute_gen = lambda self, *a, **k: (seen.append(1), gen(self, *a, **k))[1];"
        f"call_command('migrate_schemas', *{list(options)!r}, stdout=io.StringIO());"
        "count = len(seen); results = migrations.apply(migrations.Options(plan=True)).results;"
        "print(json.dumps({'statements': count, 'schemas': len(results),"
        " 'memory': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "DATABASE_URL": fleet.url, "DJANGO_SETTINGS_MODULE": "tests.projects.growing.settings"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found
