"""What it costs that instances know their tenant: reading and saving with and without, in turns, in one process.

    python -m tests.benchmarks.instances --url postgresql://postgres@127.0.0.1:5432/postgres

The ratios are of medians, pair by pair of batches, and the times are the process's own, without the server's.
``without`` is Django's own code in the places that are replaced; ``without, again`` is the same code once more, and
shows how far the measurement can be trusted.
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

REPLACED = ("save_base", "delete", "refresh_from_db", "prepare_database_save")


def switches() -> dict[str, Callable[[], None]]:
    """Return functions that put Django's code and ours in place; to be called before Django is set up."""
    from django.db.models import Model, QuerySet

    django: dict[str, Any] = {"db": QuerySet.db, **{name: getattr(Model, name) for name in REPLACED}}
    ours: dict[str, Any] = {}

    def put(found: dict[str, Any]) -> None:
        for name, value in found.items():
            setattr(QuerySet if name == "db" else Model, name, value)

    def use_ours() -> None:
        if not ours:
            ours.update(db=QuerySet.db, **{name: getattr(Model, name) for name in REPLACED})
            assert ours["db"] is not django["db"]
        put(ours)

    return {"with": use_ours, "without": lambda: put(django), "without, again": lambda: put(django)}


def work() -> dict[str, tuple[int, Callable[[], Any]]]:
    """Return what is measured, and how often in a batch."""
    from tests.benchmarks.rows.models import Row

    row = Row.objects.get(id=1)
    return {
        "1,000 rows": (4, lambda: list(Row.objects.all())),
        "10 rows": (40, lambda: list(Row.objects.filter(id__lte=10))),
        "1 row": (40, lambda: Row.objects.get(id=1)),
        "save": (40, row.save),
    }


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", required=True, help="a server where the schema acme may be made anew")
    parser.add_argument("--rounds", type=int, default=200)
    options = parser.parse_args()
    where = conninfo.conninfo_to_dict(options.url)
    with psycopg.connect(options.url, autocommit=True) as connection:
        connection.execute(SETUP.format("acme"))
    params = {key.upper(): str(where.get(name, "")) for key, name in (("name", "dbname"), ("user", "user"))}
    params |= {key.upper(): str(where.get(key, "")) for key in ("password", "host", "port")}
    # Django's code has to be kept before the app replaces it, and importing models needs the settings.
    import django.db.models  # noqa: F401

    ways = switches()
    configure("pg_tenants", params)
    ways["with"]()
    from pg_tenants import schema_context

    print("| | " + " | ".join(ways) + " |")
    print("|---" * (len(ways) + 1) + "|")
    with schema_context("acme"):
        for name, (repeats, function) in work().items():
            times: dict[str, list[float]] = {way: [] for way in ways}
            for turn in range(options.rounds):
                order = list(ways) if turn % 2 else list(reversed(ways))
                for way in order:
                    ways[way]()
                    began = time.process_time()
                    for _ in range(repeats):
                        function()
                    times[way].append((time.process_time() - began) / repeats)
            base = times["without"]
            ratios = [
                statistics.median(mine / first for mine, first in zip(times[way], base, strict=True)) for way in ways
            ]
            cells = [f"{ratio:.3f}" for ratio in ratios]
            cells[list(ways).index("without")] = f"{statistics.median(base) * 1e6:.0f} µs"
            print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
