"""``AUTO_MIGRATE``: ``runserver`` brings all schemas up to date, in development."""

from __future__ import annotations

import http.client
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.test import override_settings

from pg_tenants import checks
from tests.acceptance.test_demo import free_port
from tests.projects.probe import ROOT, new_database

SETTINGS = """
import os
from example_project.settings import *
DEBUG = os.environ["DEBUG"] == "on"
PG_TENANTS = {**PG_TENANTS, "AUTO_MIGRATE": True}
"""


class Project:
    """The example with AUTO_MIGRATE, on a new database."""

    def __init__(self, environ: dict[str, str], folder: Path):
        (folder / "auto_settings.py").write_text(SETTINGS)
        self.folder = folder
        self.environ = {
            **{key: text for key, text in environ.items() if not key.startswith("PG_TENANTS_TEST")},
            "PYTHONPATH": f"{folder}:{ROOT}",
            "PYTHONUNBUFFERED": "1",
            "PYTHONWARNINGS": "error",
            "DJANGO_SETTINGS_MODULE": "auto_settings",
            "DEBUG": "on",
        }

    def manage(self, *args: str, **environ: str) -> subprocess.CompletedProcess[str]:
        command, env = [sys.executable, "manage.py", *args], {**self.environ, **environ}
        return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120, check=False)

    @contextmanager
    def server(self) -> Iterator[tuple[int, Path]]:
        """Run the development server until it answers, and give its port and what it has written."""
        port, written = free_port(), self.folder / "output"
        with written.open("w") as output:
            process = subprocess.Popen(
                [sys.executable, "manage.py", "runserver", "--noreload", str(port)],
                cwd=ROOT,
                env=self.environ,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
            try:
                deadline = time.monotonic() + 120
                while status(port, "localhost") != 200:
                    assert process.poll() is None, written.read_text()
                    assert time.monotonic() < deadline, written.read_text()
                    time.sleep(0.1)
                yield port, written
            finally:
                process.terminate()
                process.wait(timeout=30)


def status(port: int, host: str) -> int | None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", "/", headers={"Host": host})
        return connection.getresponse().status
    except OSError:
        return None
    finally:
        connection.close()


@pytest.fixture
def project(server_params: dict[str, Any], tmp_path: Path) -> Iterator[Project]:
    with new_database(server_params, "auto") as environ:
        yield Project(environ, tmp_path)


def test_runserver_migrates(project: Project) -> None:
    """All schemas, when it starts, and says so; where one cannot be migrated, it says that, and starts all the same."""
    with project.server() as (_, written):
        text = written.read_text()
    assert "Bringing all schemas up to date" in text
    assert "2 schemas: 2 migrated" in text
    assert "Migrations are pending" not in text
    code = """
from django.core.management import call_command
from example_project.customers.models import Domain, Tenant
from pg_tenants import schema_context, sql
for name in ("acme", "globex"):
    tenant = Tenant.objects.create(schema_name=name, name=name)
    Domain.objects.create(domain=f"{name}.localhost", tenant=tenant)
call_command("migrate_schemas", "notes", "zero", verbosity=0)
with schema_context("globex"):
    sql.execute("CREATE TABLE notes_tag ()")
"""
    done = project.manage("shell", "-v0", "-c", code)
    assert done.returncode == 0, done.stderr
    with project.server() as (port, written):
        assert status(port, "acme.localhost") == 200
        text = written.read_text()
    assert "acme: Applied notes.0001_initial" in text
    assert "Not all schemas are up to date" in text
    assert "globex: ProgrammingError" in text


def test_it_is_for_development(project: Project) -> None:
    """With DEBUG off the server does not start, and nothing is migrated."""
    done = project.manage("runserver", "--noreload", str(free_port()), DEBUG="off", SECRET_KEY="x")
    assert done.returncode == 1
    assert "pg_tenants.E095" in done.stderr
    assert project.manage("migrate_schemas", "--check").returncode == 1


@pytest.mark.parametrize("debug", [True, False])
def test_e095_auto_migrate_in_production(debug: bool) -> None:
    """It is an error with DEBUG off, and says what to do."""
    with override_settings(DEBUG=debug, PG_TENANTS={**settings.PG_TENANTS, "AUTO_MIGRATE": True}):
        found = checks.check_settings()
    assert [message.id for message in found] == ([] if debug else ["pg_tenants.E095"])
    assert all("DEBUG is off" in message.msg and "migrate_schemas" in str(message.hint) for message in found)
