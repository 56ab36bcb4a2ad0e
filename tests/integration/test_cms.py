"""Wagtail, an application of 50 tables and 225 migrations, in tenants."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import sql

CREATE = """
import django; django.setup()
from django.db import transaction
from tests.projects.cms.companies.models import Company
with transaction.atomic():
    Company.objects.create(schema_name="acme", name="Acme")
try:
    with transaction.atomic():
        Company.objects.create(schema_name="globex", name="Globex")
        raise RuntimeError
except RuntimeError:
    pass
"""


@pytest.fixture
def database(server_params: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Return how to connect to an empty database."""
    name = sql.Identifier(f"{server_params['dbname']}_cms")
    with psycopg.connect(**server_params, autocommit=True) as server:
        server.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(name))
        server.execute(sql.SQL("CREATE DATABASE {}").format(name))
        yield {**server_params, "dbname": f"{server_params['dbname']}_cms"}
        server.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(name))


def test_a_tenant_is_made_in_one_transaction(database: dict[str, Any]) -> None:
    """Rows that a migration wrote, with constraints that are deferred, do not stop the next one's ALTER TABLE."""
    pytest.importorskip("wagtail")
    url = "postgresql://{user}:{password}@{host}:{port}/{dbname}".format(**database)
    environment = {**os.environ, "DATABASE_URL": url, "DJANGO_SETTINGS_MODULE": "tests.projects.cms.settings"}
    environment["PYTHONWARNINGS"] = "ignore"
    for command in (["-m", "django", "migrate_schemas", "-v0"], ["-c", CREATE]):
        done = subprocess.run(
            [sys.executable, *command], env=environment, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stderr
    with psycopg.connect(**database) as bare:
        assert bare.execute("SELECT schema_name FROM companies_company").fetchall() == [("acme",)]
        assert bare.execute("SELECT nspname FROM pg_namespace WHERE nspname ~ '^(acme|globex)'").fetchall() == [
            ("acme",)
        ]
        count = bare.execute("SELECT count(*) FROM acme.django_migrations").fetchone()
        assert count is not None
        assert count[0] > 200
