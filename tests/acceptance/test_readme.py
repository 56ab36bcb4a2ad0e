"""The README, executed: its two commands, and its quick start."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.acceptance._documents import (
    CHECKOUT,
    Block,
    Command,
    Reader,
    blocks,
    environment,
    erased_server,
    free_port,
    reachable_folder,
)

# What a project of one's own has besides the quick start: an app with a table for each tenant.
NOTES = Block(
    "python",
    "from django.db import models\n\n\nclass Note(models.Model):\n    text = models.CharField(max_length=200)\n",
    "notes/models.py",
)


@pytest.fixture
def page() -> list[Block]:
    return blocks((CHECKOUT / "README.md").read_text())


@pytest.fixture
def commands(page: list[Block]) -> list[str]:
    """The commands of the README that are run in its checkout."""
    return [line for block in page if block.language == "sh" for line in block.text.splitlines()]


def test_the_demo_from_an_empty_environment(commands: list[str]) -> None:
    """The first command, in a new virtual environment and a new home, serves the tenants of the example."""
    install, _, demo = commands[0].partition(" && ")
    with reachable_folder() as folder:
        venv, home = folder / "venv", folder / "home"
        home.mkdir(mode=0o711)
        subprocess.run([sys.executable, "-m", "venv", venv], check=True, timeout=120)
        environ = environment()
        environ["PATH"] = f"{venv / 'bin'}:{environ['PATH']}"
        # pip keeps the user's configuration and cache; the demo gets a home where nobody has been.
        _shell(install, environ)
        environ |= {"HOME": str(home), "XDG_DATA_HOME": str(home / "data")}
        if (CHECKOUT / ".env").exists():
            environ["DATABASE_URL"] = "pgserver://"
        try:
            said = _shell(f"{demo} --check", environ)
        finally:
            left = list(home.glob("data/**/postmaster.pid"))
    assert "Started PostgreSQL" in said
    assert "acme.localhost: " in said
    assert "All is well: each company saw its own data alone." in said
    assert "Stopped PostgreSQL." in said
    assert not left, "the demo left its server running"


def test_the_tests_are_run_as_ci_runs_them(commands: list[str]) -> None:
    """The second command runs pytest as `.ci/run` does."""
    install, _, run = commands[1].partition(" && ")
    assert install == "pip install -e '.[test]'"
    script = (CHECKOUT / ".ci" / "run").read_text()
    assert run == "pytest -n auto"
    assert re.search(rf"{re.escape(run)}\b", script), f".ci/run does not call {run!r}"


def test_the_quick_start(page: list[Block]) -> None:
    """The settings, models and commands of the quick start make a project with a tenant."""
    with reachable_folder() as folder:
        project = folder / "project"
        project.mkdir()
        environ = environment(PGSERVER_DATA=str(folder / "server"), PGSERVER_PORT=str(free_port()))
        with erased_server(project, environ), Reader(project, environ) as reader:
            reader.run(Command("django-admin startproject app .", ""))
            reader.run(Command("python manage.py startapp customers", ""))
            reader.run(Command("python manage.py startapp notes", ""))
            reader.write(NOTES)
            for block in page:
                if block.file == "settings.py":
                    reader.write(Block(block.language, block.text, "app/settings.py", block.appended))
                elif block.file or block.language == "console":
                    reader.follow([block])
            reader.run(Command("python manage.py makemigrations notes", "..."))
            reader.run(Command("python manage.py migrate_schemas", "...\n  acme: Applied notes.0001_initial ...\n..."))
            reader.run(Command("python manage.py list_tenants", "acme  active        acme.localhost"))


def _shell(command: str, environ: dict[str, str]) -> str:
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=CHECKOUT,
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, f"$ {command}\nstatus {done.returncode}\n{done.stdout}"
    return done.stdout
