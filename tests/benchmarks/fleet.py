"""One migration for many schemas of a real application: pg_tenants, two rivals, and the bare DDL, in one run.

    pip install django-tenants django-pgschemas wagtail
    python -m tests.benchmarks.fleet --url postgresql://postgres@127.0.0.1:5432/fleet --schemas 500 --rivals 20

All systems migrate the same schemas of the same database, one after the other; in between, the migration is taken
back. It is ``growth.0002``: a table with three foreign keys, two columns, an index, a check, and two altered types.
Seconds are those of the whole process less those of ``check``, which is what Django takes to start. The slow systems
get fewer schemas, so they are given as milliseconds a schema.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
from psycopg import conninfo

PACKAGE = "tests.benchmarks.rivals"
SOURCE = "source_of_the_fleet"
SYSTEMS = {
    "pg_tenants": (f"{PACKAGE}.ours", ["migrate_schemas", "-v0"]),
    "pg_tenants --jobs 2": (f"{PACKAGE}.ours", ["migrate_schemas", "-v0", "--jobs", "2"]),
    "django-tenants standard": (f"{PACKAGE}.tenants", ["migrate_schemas", "--tenant", "--executor=standard", "-v0"]),
    "django-tenants multiprocessing": (
        f"{PACKAGE}.tenants",
        ["migrate_schemas", "--tenant", "--executor=multiprocessing", "-v0"],
    ),
    "django-pgschemas": (f"{PACKAGE}.pgschemas", ["migrateschema", "-ds", "-v0"]),
    "django-pgschemas parallel": (f"{PACKAGE}.pgschemas", ["migrateschema", "-ds", "--parallel", "-v0"]),
}
FORGET = """
DELETE FROM {0}.auth_permission WHERE content_type_id IN
    (SELECT id FROM {0}.django_content_type WHERE app_label = 'growth' AND model = 'order');
DELETE FROM {0}.django_content_type WHERE app_label = 'growth' AND model = 'order';
"""
BACK = """
SET search_path = {0}; DROP TABLE growth_order;
ALTER TABLE growth_product DROP COLUMN note, DROP COLUMN stock, ALTER name TYPE varchar(100),
    ALTER price TYPE numeric(8, 2);
DELETE FROM django_migrations WHERE app = 'growth' AND name = '0002_order';
"""
TENANTS = {
    "companies_company": "(schema_name, name, module, status, created_at) SELECT s, s, 'tenant', 'active', now()",
    "dt_clients_client": "(schema_name, name) SELECT s, s",
    "ps_clients_client": "(schema_name, name) SELECT s, s",
}


def run(url: str, settings: str, *command: str, **environment: str) -> tuple[float, str]:
    """Run a Django command in a process of its own; return its seconds and what it wrote."""
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "django", *command],
        env={**os.environ, "DATABASE_URL": url, "DJANGO_SETTINGS_MODULE": settings, **environment},
        check=False,
        capture_output=True,
        text=True,
        cwd=Path.cwd(),
    )
    if done.returncode:
        raise SystemExit(f"{settings} {' '.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return time.perf_counter() - started, done.stdout


def prepare(url: str, count: int, programs: str) -> list[str]:
    """Make the database, the tables of tenants, and the schemas, which are copies of one; return their names."""
    where = conninfo.conninfo_to_dict(url)
    with psycopg.connect(conninfo.make_conninfo(url, dbname="postgres"), autocommit=True) as server:
        server.execute(f'DROP DATABASE IF EXISTS "{where["dbname"]}" WITH (FORCE)')
        server.execute(f'CREATE DATABASE "{where["dbname"]}"')
    run(url, f"{PACKAGE}.ours", "migrate_schemas", "-v0")
    run(url, f"{PACKAGE}.ours", "create_tenant", SOURCE, "--set", "name=source", "-v0")
    run(url, f"{PACKAGE}.ours", "migrate_schemas", "growth", "0001", "-v0")
    run(url, f"{PACKAGE}.tenants", "migrate_schemas", "--shared", "dt_clients", "-v0")
    run(url, f"{PACKAGE}.pgschemas", "migrateschema", "-ss", "ps_clients", "-v0")
    with psycopg.connect(url, autocommit=True) as database:
        database.execute(
            f"INSERT INTO {SOURCE}.django_migrations (app, name, applied) "
            "VALUES ('dt_clients', '0001_initial', now()), ('ps_clients', '0001_initial', now())"
        )
        database.execute(FORGET.format(SOURCE))
        dump = subprocess.run(
            [str(Path(programs) / "pg_dump"), "--inserts", "--rows-per-insert=1000", f"--schema={SOURCE}", url],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        script = "\n".join(line for line in dump.splitlines() if not line.startswith("\\"))
        names = [f"fleet_{number:04}" for number in range(count)]
        with psycopg.connect(url, autocommit=True) as copier:
            for name in names:
                copier.execute(script.replace(SOURCE, name))
        database.execute(f"DROP SCHEMA {SOURCE} CASCADE")
        database.execute("DELETE FROM companies_company")
        database.execute("ANALYZE")
    return names


def choose(url: str, names: list[str]) -> None:
    """Have the systems know these tenants alone."""
    with psycopg.connect(url, autocommit=True) as database:
        for table, columns in TENANTS.items():
            database.execute(f"DELETE FROM public.{table}")
            database.execute(f"INSERT INTO public.{table} {columns} FROM unnest(%s::text[]) s", [names])


def take_back(url: str, names: list[str]) -> None:
    """Undo the migration, and see that it was there."""
    with psycopg.connect(url, autocommit=True) as database:
        for name in names:
            database.execute((BACK + FORGET).format(name))


def floor(url: str, names: list[str], jobs: int) -> float:
    """Send the bare DDL, one message a schema, and return the seconds."""
    _, text = run(url, f"{PACKAGE}.ours", "sqlmigrate", "growth", "0002", CMS_PLAIN="1")
    ddl = text.replace("BEGIN;", "").replace("COMMIT;", "")

    def send(some: list[str]) -> None:
        with psycopg.connect(url, autocommit=True) as database:
            for name in some:
                database.execute(
                    f"SET LOCAL search_path = {name}; {ddl} "
                    "INSERT INTO django_migrations (app, name, applied) VALUES ('growth', '0002_order', now())"
                )

    started = time.perf_counter()
    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(send, [names[number::jobs] for number in range(jobs)]))
    return time.perf_counter() - started


def measure(url: str, system: str, names: list[str]) -> float:
    """Run one system and return its milliseconds a schema."""
    settings, command = SYSTEMS[system]
    choose(url, names)
    base, _ = run(url, settings, "check", "--database", "default")
    seconds, _ = run(url, settings, *command)
    take_back(url, names)
    each = (seconds - base) / len(names) * 1000
    print(
        f"{system:32} {len(names):4} schemas {seconds:7.2f} s, start-up {base:5.2f} s, {each:7.2f} ms a schema",
        flush=True,
    )
    return each


def main() -> None:
    """Measure, and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", required=True, help="a database that is made anew")
    parser.add_argument("--schemas", type=int, default=500)
    parser.add_argument("--rivals", type=int, default=20, help="schemas for the rivals")
    parser.add_argument("--programs", default="/usr/bin", help="where pg_dump is")
    parser.add_argument("--keep", action="store_true", help="use the schemas that an earlier run has made")
    parser.add_argument("--only", default="", help="systems whose name begins so")
    options = parser.parse_args()
    url = options.url
    names = [f"fleet_{number:04}" for number in range(options.schemas)]
    if not options.keep:
        started = time.perf_counter()
        names = prepare(url, options.schemas, options.programs)
        print(f"{len(names)} schemas made in {time.perf_counter() - started:.0f} s", flush=True)
    found: dict[str, float] = {}
    for label, jobs in (("bare DDL", 1), ("bare DDL, two connections", 2)):
        found[label] = floor(url, names, jobs) / len(names) * 1000
        take_back(url, names)
        print(f"{label:32} {len(names):4} schemas {found[label]:7.2f} ms a schema", flush=True)
    for system in SYSTEMS:
        if system.startswith(options.only):
            found[system] = measure(url, system, names if system.startswith("pg_tenants") else names[: options.rivals])
    choose(url, names)
    run(url, f"{PACKAGE}.ours", "migrate_schemas", "-v0")
    base, _ = run(url, f"{PACKAGE}.ours", "check", "--database", "default")
    idle, _ = run(url, f"{PACKAGE}.ours", "migrate_schemas", "-v0")
    take_back(url, names)
    print(f"nothing to do in {len(names)} schemas: {idle:.2f} s, start-up {base:.2f} s")
    rivals = [value for system, value in found.items() if system.startswith("django")]
    print(f"pg_tenants / bare DDL: {found['pg_tenants'] / found['bare DDL']:.2f}")
    if rivals:
        print(f"fastest rival / pg_tenants: {min(rivals) / found['pg_tenants']:.1f}")


if __name__ == "__main__":
    main()
