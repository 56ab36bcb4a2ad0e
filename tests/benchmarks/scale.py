"""How things grow with the number of tenants: of a real application (the CMS), or of a small one.

    python -m tests.benchmarks.scale --url postgresql://postgres@127.0.0.1:5432/scale --app cms --tenants 2000
    python -m tests.benchmarks.scale --url postgresql://postgres@127.0.0.1:5432/scale --app small --tenants 10000

The database is made anew. Tenants are made one after the other by ``objects.create``, with the template. A row of the
table is printed whenever a tenth, and all, of them are there; what is said of a request is an ORM query of one row in
one tenant after another, taken at random from ten of them and from all.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import psycopg
from psycopg import conninfo

SETTINGS = {"cms": "tests.benchmarks.rivals.ours", "small": "tests.benchmarks.small_settings"}
LAST = {"cms": ("growth", "0001"), "small": ("auth", "0011")}
"""The app whose last migration is taken back and run again, and the one before that."""

COLUMNS = (
    "tenants",
    "making one, ms",
    "nothing to do, s",
    "one migration, s",
    "verify, s",
    "tables",
    "catalog, MB",
    "database, MB",
    "a request among ten, µs",
    "a request among all, µs",
    "server process that saw ten, MB",
    "server process that saw all, MB",
)
CATALOG = """
SELECT count(*) FILTER (WHERE c.relkind = 'r' AND c.relnamespace <> 'pg_catalog'::regnamespace),
    sum(pg_total_relation_size(c.oid)) FILTER (WHERE c.relnamespace = 'pg_catalog'::regnamespace) / 1e6,
    pg_database_size(current_database()) / 1e6
FROM pg_class c WHERE c.relkind = 'r'
"""


def command(url: str, settings: str, *arguments: str) -> float:
    """Run a Django command in a process of its own, and return its seconds."""
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "django", *arguments],
        env={**os.environ, "DATABASE_URL": url, "DJANGO_SETTINGS_MODULE": settings},
        check=True,
        cwd=Path.cwd(),
        stdout=subprocess.DEVNULL,
    )
    return time.perf_counter() - began


def memory(url: str, names: list[str], table: str) -> float:
    """Return the megabytes of its own that a server process has after a look into each of the schemas."""
    with psycopg.connect(url, autocommit=True) as connection:
        for name in names:
            connection.execute(f'SELECT count(*) FROM "{name}".{table}')
        return psutil.Process(connection.info.backend_pid).memory_full_info().uss / 1e6


def requests(names: list[str], look: Callable[[], Any], times: int = 400) -> float:
    """Return the median microseconds of a query in schemas taken at random."""
    from pg_tenants import schema_context

    chosen = random.Random(1).choices(names, k=times)
    found = []
    for name in chosen:
        began = time.perf_counter()
        with schema_context(name):
            look()
        found.append(time.perf_counter() - began)
    return statistics.median(found) * 1e6


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", required=True, help="a database that is made anew")
    parser.add_argument("--app", choices=SETTINGS, default="small")
    parser.add_argument("--tenants", type=int, default=1000)
    options = parser.parse_args()
    url, settings = options.url, SETTINGS[options.app]
    name = conninfo.conninfo_to_dict(url)["dbname"]
    with psycopg.connect(conninfo.make_conninfo(url, dbname="postgres"), autocommit=True) as server:
        server.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
        server.execute(f'CREATE DATABASE "{name}"')
    command(url, settings, "migrate_schemas", "-v0")
    os.environ.update(DATABASE_URL=url, DJANGO_SETTINGS_MODULE=settings)
    import django

    django.setup()
    from django.contrib.auth.models import Group
    from django.db import connection

    from pg_tenants.models import tenant_model

    model: Any = tenant_model()
    print("| " + " | ".join(COLUMNS) + " |")
    print("|---" * len(COLUMNS) + "|", flush=True)
    names: list[str] = []
    for goal in sorted({max(options.tenants // 10, 10), options.tenants}):
        times = []
        while len(names) < goal:
            began = time.perf_counter()
            model.objects.create(schema_name=f"t{len(names):05}", name=f"Tenant {len(names)}")
            times.append(time.perf_counter() - began)
            names.append(f"t{len(names):05}")
            if len(names) % 50 == 0:
                # PostgreSQL keeps a plan for each foreign key that a connection has had checked, and looks through all
                # of them for each table that is made.
                connection.close()
        with psycopg.connect(url, autocommit=True) as session:
            session.execute("VACUUM ANALYZE")
            tables, catalog, size = session.execute(CATALOG).fetchone() or (0, 0, 0)
        start = command(url, settings, "check", "--database", "default")
        app, before = LAST[options.app]
        command(url, settings, "migrate_schemas", app, before, "-v0")
        row = [
            f"{goal:,}",
            f"{statistics.median(times[-100:]) * 1000:.0f}",
            "",
            f"{command(url, settings, 'migrate_schemas', '-v0') - start:.1f}",
            f"{command(url, settings, 'migrate_schemas', '--verify', '-v0') - start:.1f}",
            f"{tables:,}",
            f"{catalog:,.0f}",
            f"{size:,.0f}",
            f"{requests(names[:10], Group.objects.first):.0f}",
            f"{requests(names, Group.objects.first):.0f}",
            f"{memory(url, names[:10], 'auth_group'):.1f}",
            f"{memory(url, names, 'auth_group'):.1f}",
        ]
        row[2] = f"{command(url, settings, 'migrate_schemas', '-v0') - start:.2f}"
        print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
