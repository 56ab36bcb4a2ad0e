"""What monitoring costs: the same queries with and without, in turns, in one process.

    python -m tests.benchmarks.monitoring --url postgresql://postgres@127.0.0.1:5432/postgres

The ratios are of medians of whole times, the server's included, pair by pair of batches. ``off, again`` is ``off`` once
more, and shows how far the measurement can be trusted.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import psycopg
from psycopg import conninfo

from tests.benchmarks.requests import SETUP
from tests.benchmarks.requests_child import configure

WAYS = {"off": None, "off, again": None, "on": True}


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", required=True, help="a server where the schema acme may be made anew")
    parser.add_argument("--rounds", type=int, default=300)
    options = parser.parse_args()
    where = conninfo.conninfo_to_dict(options.url)
    with psycopg.connect(options.url, autocommit=True) as connection:
        connection.execute(SETUP.format("acme"))
    params = {key.upper(): str(where.get(name, "")) for key, name in (("name", "dbname"), ("user", "user"))}
    params |= {key.upper(): str(where.get(key, "")) for key in ("password", "host", "port")}
    configure("pg_tenants", params)
    from django.conf import settings
    from django.core.signals import setting_changed
    from django.db import connection as django_connection

    from pg_tenants import schema_context
    from tests.benchmarks.rows.models import Row

    plain = settings.PG_TENANTS

    def switch(value: bool | None) -> None:
        settings.PG_TENANTS = {**plain, "MONITORING": value}
        setting_changed.send(sender=None, setting="PG_TENANTS", value=settings.PG_TENANTS, enter=True)

    work: dict[str, Callable[[], Any]] = {
        "1 row": lambda: Row.objects.get(id=1),
        "10 rows": lambda: list(Row.objects.filter(id__lte=10)),
        "raw, 1 row": lambda: _raw(django_connection),
    }
    print("| | " + " | ".join(WAYS) + " |")
    print("|---" * (len(WAYS) + 1) + "|")
    with schema_context("acme"):
        for name, function in work.items():
            times: dict[str, list[float]] = {way: [] for way in WAYS}
            for turn in range(options.rounds):
                for way in list(WAYS) if turn % 2 else list(reversed(WAYS)):
                    switch(WAYS[way])
                    function()
                    began = time.perf_counter()
                    for _ in range(30):
                        function()
                    times[way].append((time.perf_counter() - began) / 30)
            base = times["off"]
            cells = [f"{statistics.median(base) * 1e6:.0f} µs"]
            for way in list(WAYS)[1:]:
                pairs = zip(times[way], base, strict=True)
                cells.append(f"{statistics.median(mine / first for mine, first in pairs):.3f}")
            print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


def _raw(connection: Any) -> Any:
    with connection.cursor() as cursor:
        cursor.execute("SELECT id FROM rows_row WHERE id = %s", [1])
        return cursor.fetchone()


if __name__ == "__main__":
    main()
