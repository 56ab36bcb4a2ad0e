"""How long a test run takes to begin: ``pytest -n 4`` with one small test in each worker, for an application of size.

``python -m tests.benchmarks.testing postgres://postgres@127.0.0.1:5432/bench [workers rounds]``: pytest-django and its
database per worker, without and with ``--reuse-db``, beside ours: the first run, later runs. Then the database's part
of it in one process: Django's test database, which is migrated, beside a new worker's schemas, of which the template is
there, and beside schemas that an earlier run has left.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psycopg

ROOT = Path(__file__).resolve().parent.parent.parent
PLAIN = "def test_one(db):\n    from wagtail.models import Site\n    assert Site.objects.count() == 1\n"
OURS = "def test_one(tenant):\n    from wagtail.models import Site\n    assert Site.objects.count() == 1\n"
WHERE = "--dist=each"
# As on a user's machine: where compiled files are not kept, what pip has not installed is compiled by each process.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
DATABASE_PART = """
import sys, time
import django
django.setup()
from django.db import connection
begun = time.perf_counter()
if sys.argv[1] == "plain":
    connection.creation.create_test_db(verbosity=0, autoclobber=True)
else:
    from pg_tenants.test import creation, tenants
    creation.install(sys.argv[1])
    connection.creation.create_test_db(verbosity=0)
    tenants.make_ready()
print(time.perf_counter() - begun)
"""


def run(folder: Path, url: str, *options: str, plain: bool) -> float:
    """Return the seconds of one run."""
    environment = {
        **ENVIRONMENT,
        "DATABASE_URL": url,
        "PYTHONPATH": str(ROOT),
        "CMS_PLAIN": "1" if plain else "",
    }
    begun = time.perf_counter()
    _output([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options], folder, environment)
    return time.perf_counter() - begun


def database_part(folder: Path, url: str, worker: str) -> float:
    """Return the seconds of the database's part in one process; ``plain`` is Django's own."""
    environment = {
        **ENVIRONMENT,
        "DATABASE_URL": url,
        "PYTHONPATH": str(ROOT),
        "CMS_PLAIN": "1" if worker == "plain" else "",
        "DJANGO_SETTINGS_MODULE": "tests.projects.cms.settings",
    }
    return float(_output([sys.executable, "-c", DATABASE_PART, worker], folder, environment))


def _output(command: list[str], folder: Path, environment: dict[str, str]) -> str:
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stdout[-4000:] + done.stderr[-2000:])
    return done.stdout


def forget(url: str, name: str) -> None:
    """Drop the test databases of a name."""
    with psycopg.connect(url.rpartition("/")[0] + "/postgres", autocommit=True) as session:
        for (found,) in session.execute(
            "SELECT datname FROM pg_database WHERE starts_with(datname, %s)", [f"test_{name}"]
        ).fetchall():
            session.execute(f'DROP DATABASE "{found}" WITH (FORCE)')  # type: ignore[call-overload]


def main() -> None:
    """Measure, and print a table."""
    url, workers, rounds = sys.argv[1], *map(int, (*sys.argv[2:], 4, 3)[:2] if len(sys.argv) > 3 else (4, 3))
    name = url.rpartition("/")[2]
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        for kind, body in (("plain", PLAIN), ("ours", OURS)):
            (folder / kind).mkdir()
            (folder / kind / "test_one.py").write_text(body)
            (folder / kind / "pytest.ini").write_text(
                "[pytest]\nDJANGO_SETTINGS_MODULE = tests.projects.cms.settings\n"
            )
        many = ("-n", str(workers), WHERE)
        ways = {
            "theirs": ("plain", many),
            "theirs --reuse-db": ("plain", (*many, "--reuse-db")),
            "ours, first": ("ours", many),
            "ours, later": ("ours", many),
        }
        # Each later run needs one before it.
        forget(url, name)
        run(folder / "plain", f"{url}_kept", *many, "--reuse-db", plain=True)
        run(folder / "ours", f"{url}_kept", *many, plain=False)
        taken: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(rounds):
            for way, (kind, options) in ways.items():
                kept = "first" not in way and way != "theirs"
                if not kept:
                    forget(url, f"{name}_new")
                taken[way].append(
                    run(folder / kind, f"{url}_{'kept' if kept else 'new'}", *options, plain=kind == "plain")
                )
        parts: dict[str, list[float]] = {"migrated": [], "from the template": [], "left by an earlier run": []}
        for number in range(rounds):
            parts["migrated"].append(database_part(folder, f"{url}_part", "plain"))
            for part in ("from the template", "left by an earlier run"):
                parts[part].append(database_part(folder, f"{url}_kept", f"new{number}"))
        forget(url, name)
    best = {way: min(seconds) for way, seconds in taken.items()}
    for way, seconds in taken.items():
        base = best["theirs" if "first" in way or way == "theirs" else "theirs --reuse-db"]
        shown = ", ".join(f"{each:.1f}" for each in seconds)
        print(f"{way:30} {best[way]:6.2f} s  {best[way] / base:5.2f} of theirs  ({shown})")
    for part, seconds in parts.items():
        shown = ", ".join(f"{each:.2f}" for each in seconds)
        faster = min(parts["migrated"]) / min(seconds)
        print(f"database, {part:24} {min(seconds):6.2f} s  {faster:5.1f} times faster  ({shown})")


if __name__ == "__main__":
    main()
