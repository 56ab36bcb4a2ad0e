"""How long a test run takes to begin: ``pytest -n 4`` with one small test in each worker, for an application of size.

``python tests/benchmarks/testing.py postgres://postgres@127.0.0.1:5432/bench [workers rounds]``: pytest-django and its
database per worker, without and with ``--reuse-db``, beside ours: the first run, later runs.
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


def run(folder: Path, url: str, *options: str, plain: bool) -> float:
    """Return the seconds of one run."""
    environment = {
        **os.environ,
        "DATABASE_URL": url,
        "PYTHONPATH": str(ROOT),
        "CMS_PLAIN": "1" if plain else "",
    }
    begun = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    seconds = time.perf_counter() - begun
    if done.returncode:
        raise SystemExit(done.stdout[-4000:] + done.stderr[-2000:])
    return seconds


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
        forget(url, name)
    best = {way: min(seconds) for way, seconds in taken.items()}
    for way, seconds in taken.items():
        base = best["theirs" if "first" in way or way == "theirs" else "theirs --reuse-db"]
        shown = ", ".join(f"{each:.1f}" for each in seconds)
        print(f"{way:30} {best[way]:6.2f} s  {best[way] / base:5.2f} of theirs  ({shown})")


if __name__ == "__main__":
    main()
