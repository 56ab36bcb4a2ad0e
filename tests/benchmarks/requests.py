"""Requests of 1, 5 and 20 ORM queries: plain Django, pg_tenants and two rivals, side by side in one run.

    pip install django-tenants django-pgschemas
    python -m tests.benchmarks.requests --url postgresql://postgres@127.0.0.1:5432/postgres

Each system runs in a process of its own; they take turns in short batches, so that a machine whose speed drifts slows
all of them. The ratios are of medians, pair by pair of batches. Round trips are counted by the proxy that also adds the
delay.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg import conninfo

from tests.fix_wire import Wire

RIVALS = {"django-tenants": "django_tenants", "django-pgschemas": "django_pgschemas"}
SETUP = """
DROP SCHEMA IF EXISTS {0} CASCADE; CREATE SCHEMA {0}; CREATE TABLE {0}.pg_tenants_marker ();
CREATE TABLE {0}.rows_row (id bigint PRIMARY KEY, text varchar(50) NOT NULL, number int NOT NULL);
INSERT INTO {0}.rows_row SELECT g, '{0}', g FROM generate_series(1, 1000) g; ANALYZE {0}.rows_row;
"""


@dataclass
class System:
    """A process that runs requests, behind a proxy of its own."""

    name: str
    wire: Wire
    process: subprocess.Popen[str]
    batches: dict[tuple[str, int], list[float]] = field(default_factory=dict)
    trips: dict[tuple[str, int], float] = field(default_factory=dict)

    def order(self, mode: str, queries: int, repeats: int) -> list[float]:
        """Run requests and return the seconds of each."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{mode} {queries} {repeats}\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise SystemExit(f"{self.name} has ended")
        times: list[float] = json.loads(answer)
        return times


def start(name: str, where: dict[str, Any], delay: float, through_proxy: bool) -> System:
    """Start a system's process."""
    wire = Wire((where["host"], int(where["port"])), delay=delay)
    port = wire.port if through_proxy else where["port"]
    params = {"NAME": where["dbname"], "USER": where["user"], "PASSWORD": where.get("password", "")}
    params |= {"HOST": "127.0.0.1", "PORT": str(port)}
    command = [sys.executable, "-m", "tests.benchmarks.requests_child", name, json.dumps(params)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    return System(name, wire, process)


def measure(systems: list[System], rounds: int, repeats: int) -> None:
    """Let the systems take turns."""
    for mode in ("autocommit", "atomic"):
        for queries in (1, 5, 20):
            batch = max(4, repeats // queries)
            for system in systems:
                system.order(mode, queries, 4)
                system.wire.reset()
                system.order(mode, queries, 4)
                system.trips[mode, queries] = system.wire.round_trips / 4
            for _ in range(rounds):
                for system in systems:
                    times = system.order(mode, queries, batch)
                    system.batches.setdefault((mode, queries), []).append(statistics.median(times))


def report(systems: list[System], counted: bool) -> None:
    """Print a table of ratios to the first system."""
    base = systems[0]
    print("| mode | queries | " + " | ".join(system.name for system in systems) + " |")
    print("|---" * (len(systems) + 2) + "|")
    for key in base.batches:
        cells = []
        for system in systems:
            ratios = [mine / first for mine, first in zip(system.batches[key], base.batches[key], strict=True)]
            text = f"{statistics.median(ratios):.2f}"
            if system is base:
                text = f"{statistics.median(base.batches[key]) * 1e3:.2f} ms"
            cells.append(text + (f" ({system.trips[key]:g})" if counted else ""))
        print(f"| {key[0]} | {key[1]} | " + " | ".join(cells) + " |")


def main() -> None:
    """Measure on loopback, then with a delay for each round trip."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", required=True, help="a server where schemas acme and globex may be made anew")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--delays", type=float, nargs="*", default=[0.0, 1.0], metavar="MS")
    options = parser.parse_args()
    where = conninfo.conninfo_to_dict(options.url)
    with psycopg.connect(options.url, autocommit=True) as connection:
        for schema in ("acme", "globex"):
            connection.execute(SETUP.format(schema))
        version = connection.info.server_version // 10000
    names = ["django", "pg_tenants"]
    for name, module in RIVALS.items():
        if importlib.util.find_spec(module):
            names += [name, f"{name} limited"]
    for delay in options.delays:
        systems = [start(name, where, delay / 1e3, bool(delay)) for name in names]
        try:
            measure(systems, options.rounds if not delay else max(5, options.rounds // 2), 60)
            print(f"\nPostgreSQL {version}, {f'{delay:g} ms more per round trip' if delay else 'loopback'};", end=" ")
            print("ratios to plain Django" + (", round trips of a request in brackets" if delay else ""), end="\n\n")
            report(systems, bool(delay))
        finally:
            for system in systems:
                system.process.kill()
                system.process.wait()
                system.wire.close()


if __name__ == "__main__":
    main()
