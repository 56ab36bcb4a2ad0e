"""What `migrate_schemas` shows: a bar on a terminal, lines in logs, JSON for machines."""

from __future__ import annotations

import fcntl
import io
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from psycopg import sql

from pg_tenants.management import progress
from pg_tenants.migrations import Event, Target
from tests.conftest import make_tenant
from tests.integration.test_migrate_schemas import physical, report, run

ROOT = Path(__file__).parents[2]
FIELD = 'migrations.AddField("note", "%s", models.TextField(default=""))'
SLOW = """migrations.RunSQL("SELECT pg_sleep(%s)", "")"""


def command_line(server_params: Any, *args: str, terminal: int | None = None, **environ: str) -> subprocess.Popen[str]:
    """Start the command in a process of its own, on the worker's database."""
    url = "postgresql://{user}:{password}@{host}:{port}/{dbname}".format(**server_params)
    streams: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE if terminal is None else terminal}
    return subprocess.Popen(
        [sys.executable, "-W", "error", "manage.py", "migrate_schemas", *args],
        cwd=ROOT,
        env={
            "PATH": os.environ["PATH"],
            "DJANGO_SETTINGS_MODULE": "tests.notes_settings",
            "DATABASE_URL": url,
            "LANG": "C.UTF-8",
            **environ,
        },
        stdin=subprocess.DEVNULL,
        text=True,
        **streams,
    )


@pytest.fixture
def environ(notes_migrations: Any) -> dict[str, str]:
    """Return what a child process finds the test's migrations by."""
    folder = notes_migrations.folder
    return {"PYTHONPATH": f"{ROOT}:{folder.parent}", "NOTES_MIGRATIONS": folder.name}


def on_terminal(server_params: Any, *args: str, columns: int = 80, **environ: str) -> tuple[int, str, str]:
    """Run it with stderr on a terminal, and return the exit status, stdout and what the terminal got."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    process = command_line(server_params, *args, terminal=theirs, **{"TERM": "xterm", **environ})
    os.close(theirs)
    got = b""
    while True:
        try:
            data = os.read(ours, 4096)
        except OSError:  # the other end is closed
            break
        if not data:
            break
        got += data
    os.close(ours)
    assert process.stdout is not None
    out = process.stdout.read()
    process.stdout.close()
    return process.wait(60), out, got.decode()


def test_a_bar_on_a_terminal(
    acme: Any, globex: Any, notes_migrations: Any, raw: Any, server_params: Any, environ: dict[str, str]
) -> None:
    """It fits a narrow one, failures stand above it, and it is gone at the end; without TERM there are plain lines."""
    notes_migrations.add("0002_slow", SLOW % 0.4)
    raw.execute(sql.SQL("ALTER TABLE {}.notes_note ADD one int").format(sql.Identifier(physical("globex"))))
    notes_migrations.add("0003_one", FIELD % "one")
    status, out, shown = on_terminal(server_params, columns=40, **environ)
    assert status == 1
    assert "Migrating:" in shown
    assert "globex: failed:" in shown
    assert "acme:" not in out
    assert "4 schemas: 1 migrated, 2 up to date, 1 failed" in out
    drawn = [part for part in re.split(r"[\r\n]", shown) if part.startswith("Migrating:")]
    assert drawn
    assert max(map(len, drawn)) <= 40
    run("migrate_schemas", "notes", "--back", "1", "--schema", "acme")
    run("migrate_schemas", "notes", "0001", "--schema", "globex")
    run("migrate_schemas", "notes", "--back", "1", "--fake", "--schema", "acme")
    _, out, shown = on_terminal(server_params, "--schema", "acme", **environ, TERM="dumb")
    assert "Migrating:" not in shown
    assert "acme: Applied notes.0002_slow, notes.0003_one (" in out


def test_lines_in_a_log(acme: Any, globex: Any, notes_migrations: Any) -> None:
    """One for each schema that has changed; more with --verbosity."""
    for number in range(2, 9):
        notes_migrations.add(f"000{number}_f{number}", FIELD % f"f{number}")
    text = run("migrate_schemas", "--schema", "acme")
    (line,) = [line for line in text.splitlines() if "acme:" in line]
    assert re.fullmatch(
        r"  acme: Applied notes\.0002_f2, (notes\.\w+, ){3}notes\.0006_f6 and 2 more \(\d+\.\d\d s\)", line
    )
    assert "globex" not in text
    text = run("migrate_schemas", verbosity=2)
    assert text.count("  globex: Applied notes.") == 7
    assert "  acme: up to date" in text
    assert "  globex: done in " in text
    assert "  globex: begins" in run("migrate_schemas", "notes", "--back", "1", "--schema", "globex", verbosity=3)
    assert run("migrate_schemas", verbosity=0) == ""


def test_a_long_run_says_how_far_it_is(acme: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a log, where nothing was to be said for a while."""
    monkeypatch.setattr(progress, "HEARTBEAT", 0.0)
    text = run("migrate_schemas")
    assert re.search(r"^  2 of 2 schemas, about 0 s left$", text, re.MULTILINE)
    assert re.search(r"^  3 of 3 schemas, about 0 s left$", text, re.MULTILINE)


def test_events_for_machines(acme: Any, notes_migrations: Any, server_params: Any, environ: dict[str, str]) -> None:
    """Lines of JSON on stderr while it runs, and one document on stdout."""
    notes_migrations.add("0002_one", FIELD % "one")
    process = command_line(server_params, "--json", "--exclude", "none_*", **environ)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    document = json.loads(out)
    assert (document["changed"], document["failed"]) == (1, 0)
    events = [json.loads(line) for line in err.splitlines()]
    assert [event["event"] for event in events if event.get("schema") == "acme"] == ["start", "migration", "done"]
    assert [event["total"] for event in events if event["event"] == "run"] == [2, 1]
    assert events[0] == {"event": "warning", "detail": "The pattern 'none_*' of --exclude matches no schema."}
    assert events[-1]["migrations"] == ["notes.0002_one"]


def test_where_both_streams_lead_to_one_place(acme: Any, capfd: pytest.CaptureFixture[str]) -> None:
    """The document stands there alone, so that it can be read."""
    out = io.StringIO()
    call_command("migrate_schemas", "--json", stdout=out, stderr=out)
    assert json.loads(out.getvalue())["failed"] == 0


def test_colours(acme: Any, notes_migrations: Any, raw: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """None with NO_COLOR or --no-color; with --force-color there are some."""
    assert "\x1b[" in run("migrate_schemas", force_color=True)
    assert "\x1b[" not in run("migrate_schemas", no_color=True)
    monkeypatch.setattr("django.core.management.color.supports_color", lambda: True)
    assert "\x1b[" in run("migrate_schemas")
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[" not in run("migrate_schemas")
    assert "\x1b[" in run("migrate_schemas", force_color=True)


@pytest.mark.parametrize("options", [(), ("--json",)], ids=["text", "json"])
def test_ctrl_c(
    acme: Any,
    globex: Any,
    notes_migrations: Any,
    raw: Any,
    server_params: Any,
    environ: dict[str, str],
    options: tuple[str, ...],
) -> None:
    """It says what is done and what is taken back, without a traceback; the next run does the rest."""
    notes_migrations.add("0002_one", FIELD % "one")
    statement = "SELECT pg_sleep(CASE current_schema() WHEN '{}' THEN 60 ELSE 0 END)".format(physical("globex"))
    notes_migrations.add("0003_slow", f'migrations.RunSQL("{statement}", "")')
    process = command_line(server_params, *options, **environ)
    deadline = time.monotonic() + 60
    sleeping = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'"
    while raw.execute(sleeping).fetchone() == (0,):
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert "Interrupted: 3 of 4 schemas are done, 1 of them changed. What ran in globex was broken off" in err
    if options:
        document = json.loads(out)
        assert document["interrupted"]
        assert [entry["schema"] for entry in document["schemas"]] == ["public", "billing", "acme"]
    assert report("--plan") == {"public": [], "billing": [], "acme": [], "globex": ["notes.0003_slow"]}


def test_without_tqdm_there_are_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is an extra."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    from pg_tenants.management.commands.migrate_schemas import Command

    monkeypatch.setenv("TERM", "xterm")
    command = Command(stdout=io.StringIO(), stderr=Terminal())  # type: ignore[arg-type]
    bar = progress.watch(command, verbosity=1, machine=False)
    assert type(bar) is progress.Bar
    bar.close()
    monkeypatch.setitem(sys.modules, "tqdm", None)
    assert type(progress.watch(command, verbosity=1, machine=False)) is progress.Lines


def test_retries_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """With their reason, on stderr."""
    from pg_tenants.management.commands.migrate_schemas import Command

    out, err = io.StringIO(), io.StringIO()
    command = Command(stdout=out, stderr=err)  # type: ignore[arg-type]
    seen = progress.watch(command, verbosity=1, machine=False)
    seen(Event(kind="run", total=1))
    seen(Event(kind="retry", target=Target("acme", ()), detail="lock timeout"))
    seen(Event(kind="failed", target=Target("acme", ()), detail="lock timeout"))
    assert "acme: is tried again: lock timeout" in err.getvalue()
    assert seen.far == "1 of 1 schemas, 1 failed"


def test_an_unexpected_error_is_no_interruption(acme: Any) -> None:
    """A failing schema has the exit status 1."""
    make_tenant("initech").delete()
    with pytest.raises(CommandError) as caught:
        run("migrate_schemas", "--schema", "initech")
    assert caught.value.returncode == 1
