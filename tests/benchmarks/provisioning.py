"""A new tenant of a real application: pg_tenants, two rivals, and the same script by bare psycopg, in one run.

    pip install django-tenants django-pgschemas wagtail
    python -m tests.benchmarks.provisioning --url postgresql://postgres@127.0.0.1:5432/provisioning

Each system makes tenants in one process, in a database of its own; what is given is the median. The first tenant of a
process is left out, and so is the time that a process takes to start. Bare psycopg sends what pg_tenants sends: the
schema, its marker, the template's script, and the commit.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
from psycopg import conninfo

PACKAGE = "tests.benchmarks.rivals"
SYSTEMS = {
    "pg_tenants": (f"{PACKAGE}.ours", "companies.Company", ["migrate_schemas", "-v0"]),
    "pg_tenants, ready schemas": (f"{PACKAGE}.ours", "companies.Company", ["migrate_schemas", "-v0"]),
    "django-tenants": (f"{PACKAGE}.tenants", "dt_clients.Client", ["migrate_schemas", "--shared", "-v0"]),
    "django-pgschemas": (f"{PACKAGE}.pgschemas", "ps_clients.Client", ["migrateschema", "-ss", "-v0"]),
}
CHILD = """
import json, sys, time, django
django.setup()
from django.apps import apps
from tests.benchmarks.provisioning import prepare
model, first, count, ready = apps.get_model(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
model.auto_create_schema = True  # The rivals' own; other benchmarks have it off.
if ready:
    prepare(ready)
seconds = []
for number in range(first, first + count):
    started = time.perf_counter()
    model.objects.create(schema_name=f"made_{number:04}", name="made")
    seconds.append(time.perf_counter() - started)
print(json.dumps(seconds))
"""


def prepare(count: int) -> None:
    """Make ready schemas, in a process of pg_tenants."""
    from django.conf import settings

    from pg_tenants.provisioning import ready

    settings.PG_TENANTS = {**settings.PG_TENANTS, "READY_SCHEMAS": count}
    ready.prepare()


def environment(url: str, settings: str) -> dict[str, str]:
    """Return the environment of a system's processes."""
    return {**os.environ, "DATABASE_URL": url, "DJANGO_SETTINGS_MODULE": settings}


def run(url: str, settings: str, *command: str) -> str:
    """Run a program of Python and return what it wrote."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", *command],
        env=environment(url, settings),
        check=False,
        capture_output=True,
        text=True,
        cwd=Path.cwd(),
    )
    if done.returncode:
        raise SystemExit(f"{settings} {' '.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return done.stdout


def new_database(url: str) -> None:
    """Make the database anew."""
    name = conninfo.conninfo_to_dict(url)["dbname"]
    with psycopg.connect(conninfo.make_conninfo(url, dbname="postgres"), autocommit=True) as server:
        server.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
        server.execute(f'CREATE DATABASE "{name}"')


def tenants(url: str, system: str, count: int, *, first: int = 0) -> list[float]:
    """Make tenants in a process of their own, and return the seconds of each but the first."""
    settings, model, _ = SYSTEMS[system]
    ready = count + 1 if "ready" in system else 0
    text = run(url, settings, "-c", CHILD, model, str(first), str(count + 1), str(ready))
    found: list[float] = json.loads(text.splitlines()[-1])
    return found[1:]


def bare(url: str, count: int, *, first: int = 0) -> list[float]:
    """Send the template's script by psycopg, and return the seconds of each schema but the first."""
    seconds = []
    with psycopg.connect(url) as database:
        row = database.execute("SELECT definitions, rows FROM public.pg_tenants_templates WHERE rows <> ''").fetchone()
        assert row is not None
        script = "\n;\n".join(row).replace('"{pg_tenants:schema:public}"', '"public"')
        # A random key that is the same in each schema takes no less time.
        for number in range(40):
            script = script.replace(f"{{pg_tenants:uuid:{number}}}", f"00000000-0000-4000-8000-{number:012}")
        database.commit()
        for number in range(first, first + count + 1):
            name = f"bare_{number:04}"
            started = time.perf_counter()
            database.execute(f"CREATE SCHEMA {name}; CREATE TABLE {name}.pg_tenants_marker ()")
            database.execute(f"SET LOCAL search_path = {name}, public;\n{script}".encode())
            database.commit()
            seconds.append(time.perf_counter() - started)
    return seconds[1:]


def at_once(url: str, processes: int, count: int) -> tuple[float, float]:
    """Make tenants in several processes; return the seconds of the whole, with the processes' start, and the median."""
    started = time.perf_counter()
    each = -(-count // processes)
    with ThreadPoolExecutor(processes) as pool:
        jobs = [
            pool.submit(tenants, url, "pg_tenants", each, first=time.time_ns() // 1_000_000 + 1000 * (number + 1))
            for number in range(processes)
        ]
        found = [second for job in jobs for second in job.result()]
    return time.perf_counter() - started, statistics.median(found)


def main() -> None:
    """Measure, and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", required=True, help="a database that is made anew for each system")
    parser.add_argument("--tenants", type=int, default=10)
    parser.add_argument("--rivals", type=int, default=2, help="tenants of each rival")
    parser.add_argument("--processes", type=int, default=8, help="how many make 24 tenants at once; 0 for none")
    parser.add_argument("--keep", action="store_true", help="use the database that an earlier run has migrated")
    options = parser.parse_args()
    found: dict[str, float] = {}

    def say(what: str, seconds: list[float]) -> None:
        found[what] = statistics.median(seconds)
        print(f"{what:28} {found[what] * 1000:8.1f} ms a tenant ({min(seconds) * 1000:.1f} at best)", flush=True)

    settings, _, migrate = SYSTEMS["pg_tenants"]
    if not options.keep:
        new_database(options.url)
        started = time.perf_counter()
        run(options.url, settings, "-m", "django", *migrate)
        print(f"{'first migrate_schemas':28} {time.perf_counter() - started:8.1f} s, with the template", flush=True)
    say("bare psycopg", bare(options.url, options.tenants, first=time.time_ns() // 1_000_000))
    say("pg_tenants", tenants(options.url, "pg_tenants", options.tenants, first=time.time_ns() // 1_000_000))
    say(
        "pg_tenants, ready schemas",
        tenants(options.url, "pg_tenants, ready schemas", options.tenants, first=time.time_ns() // 1_000_000),
    )
    if options.processes:
        whole, median = at_once(options.url, options.processes, 24)
        what = f"24 from {options.processes} processes"
        print(f"{what:28} {whole:8.1f} s with their start, {median * 1000:.0f} ms a tenant", flush=True)
    for system in ("django-tenants", "django-pgschemas"):
        settings, _, migrate = SYSTEMS[system]
        url = f"{options.url}_{system[7:]}"
        new_database(url)
        run(url, settings, "-m", "django", *migrate)
        say(system, tenants(url, system, options.rivals))
    print(f"pg_tenants / bare psycopg: {found['pg_tenants'] / found['bare psycopg']:.2f}")
    for system in ("django-tenants", "django-pgschemas"):
        print(f"{system} / pg_tenants: {found[system] / found['pg_tenants']:.0f}")


if __name__ == "__main__":
    main()
