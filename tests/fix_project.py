"""A user's project in a folder of its own, for tests of the test plugin."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

ROOT = Path(__file__).resolve().parent.parent

SETTINGS = """
from tests.child_settings import *
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
TEST_RUNNER = "pg_tenants.test.TenantDiscoverRunner"
"""
INI = """
[pytest]
DJANGO_SETTINGS_MODULE = project_settings
filterwarnings = error
addopts = -p no:cacheprovider
"""
HEAD = """
import os
import pytest
from django.contrib.auth.models import User
from django.db import connection, transaction
from django.test import TestCase
from example_project.customers.models import Domain, Tenant
from example_project.notes.models import Note
from pg_tenants import current_schema, tenant_context
from pg_tenants.context import no_schema
from pg_tenants.test import TenantLiveServerTestCase, TenantRequestFactory, TenantTestCase, TenantTransactionTestCase

def value(sql):
    with connection.cursor() as cursor:
        cursor.execute(sql)
        return cursor.fetchone()[0]
"""

CLEAN = HEAD + "def test_clean(tenant):\n    assert User.objects.count() == 0\n    assert Tenant.objects.count() == 1\n"


class Project:
    """A project of a user in a folder of its own, with a test database of its own."""

    def __init__(self, pytester: pytest.Pytester, url: str, database: str):
        self.pytester, self.database = pytester, f"test_{database}"
        self.environment = {
            **{key: text for key, text in os.environ.items() if not key.startswith(("PYTEST_", "DJANGO_"))},
            "DATABASE_URL": f"{url}/{database}",
            "PYTHONPATH": f"{pytester.path}{os.pathsep}{ROOT}",
            "DJANGO_SETTINGS_MODULE": "project_settings",
        }
        self.write("project_settings.py", SETTINGS)
        self.write("pytest.ini", INI)
        self.params = psycopg.conninfo.conninfo_to_dict(f"{url}/{self.database}")

    def write(self, name: str, text: str) -> None:
        (self.pytester.path / name).write_text(text)

    def command(self, *command: str) -> list[str]:
        return [sys.executable, "-m", *command]

    def start(self, *command: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(*command),
            cwd=self.pytester.path,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, *command: str) -> tuple[int, str]:
        done = subprocess.run(
            self.command(*command),
            cwd=self.pytester.path,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    def passes(self, *options: str, count: int | None = None) -> str:
        """Run pytest, see that all tests pass, and return what it printed."""
        code, output = self.run("pytest", "-q", *options)
        assert code == 0, output
        assert count is None or f"{count} passed" in output, output
        return output

    def manages(self, *command: str) -> str:
        code, output = self.run("django", *command)
        assert code == 0, output
        return output

    def sql(self, statement: str) -> list[Any]:
        with psycopg.connect(**self.params, autocommit=True) as session:
            cursor = session.execute(statement)  # type: ignore[call-overload]
            return cursor.fetchall() if cursor.description else []

    def schemas(self) -> list[str]:
        query = "SELECT nspname FROM pg_namespace WHERE nspname ~ '^(test|kept)_' ORDER BY 1"
        return [name for (name,) in self.sql(query)]


@pytest.fixture
def project(pytester: pytest.Pytester, server_params: dict[str, Any], worker_id: str) -> Iterator[Project]:
    params = server_params
    url = f"postgres://{params['user']}:{params['password']}@{params['host']}:{params['port']}"
    made = Project(pytester, url, f"testing_{worker_id}")
    yield made
    with psycopg.connect(**{**params, "dbname": "postgres"}, autocommit=True) as session:
        session.execute(f'DROP DATABASE IF EXISTS "{made.database}" WITH (FORCE)')  # type: ignore[call-overload]


def wait_for(condition: Callable[[], Any], seconds: float = 120) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.05)
    raise AssertionError("It did not come.")
