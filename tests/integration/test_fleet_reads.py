"""What a run reads: a few statements for hundreds of schemas, and one schema's trouble is its own."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import connection
from django.test.utils import CaptureQueriesContext
from psycopg import sql

from example_project.customers.models import Tenant
from pg_tenants import schemas

MANY = 110


def physical(name: str) -> str:
    return schemas.tenant_connection().physical_schema(name)


def add(raw: Any, count: int, start: int = 0) -> list[str]:
    """Add tenants whose schemas have nothing but what a run reads."""
    names = [f"fleet{number}" for number in range(start, start + count)]
    statement = sql.SQL(
        "CREATE SCHEMA {0}; CREATE TABLE {0}.pg_tenants_marker ();"
        " CREATE TABLE {0}.django_migrations AS TABLE {1}.django_migrations"
    )
    acme = sql.Identifier(physical("acme"))
    raw.execute(sql.SQL("; ").join(statement.format(sql.Identifier(physical(name)), acme) for name in names))
    columns = [f.column for f in Tenant._meta.local_fields if f.column not in ("id", "schema_name")]
    with connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO customers_tenant (schema_name, {', '.join(columns)})"
            f" SELECT new, {', '.join(columns)} FROM customers_tenant, unnest(%s::text[]) AS new"
            " WHERE schema_name = 'acme'",
            [names],
        )
    return names


@pytest.fixture
def fleet(acme: Any, raw: Any) -> Iterator[list[str]]:
    """Return the names of many tenants that are as far as ``acme``."""
    names = add(raw, MANY)
    yield names
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM customers_tenant WHERE schema_name LIKE 'fleet%%'", [])
    dropped = (sql.Identifier(physical(name)) for name in names)
    raw.execute(sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(sql.SQL(", ").join(dropped)))


def run(*args: str) -> tuple[dict[str, Any], int]:
    out = io.StringIO()
    with CaptureQueriesContext(connection) as seen:
        call_command("migrate_schemas", "--json", "--skip-checks", *args, stdout=out, stderr=io.StringIO())
    return json.loads(out.getvalue()), len(seen)


@pytest.mark.parametrize("options", [[], ["--plan"], ["--list"], ["--check"]], ids=lambda options: "".join(options))
def test_statements_do_not_grow_with_the_fleet(fleet: list[str], raw: Any, options: list[str]) -> None:
    """A hundred schemas more cost a few statements more."""
    run()  # makes the template, once
    found, before = run(*options)
    assert {entry["schema"] for entry in found["schemas"]} == {"public", "billing", "acme", *fleet}
    assert not any(entry["migrations"] for entry in found["schemas"])
    fleet += add(raw, 100, start=MANY)
    found, after = run(*options)
    assert len(found["schemas"]) == MANY + 103
    assert 0 < after - before <= 5
    assert after < 60


def test_a_schema_that_lacks_one_migration_is_found(fleet: list[str], raw: Any) -> None:
    """Among hundreds that do not."""
    table = sql.Identifier(physical(fleet[107]), "django_migrations")
    raw.execute(sql.SQL("DELETE FROM {} WHERE app = 'notes'").format(table))
    found, _ = run("--plan")
    assert [(entry["schema"], entry["migrations"]) for entry in found["schemas"] if entry["migrations"]] == [
        (fleet[107], ["notes.0001_initial"])
    ]


def test_trouble_of_one_is_not_the_others(fleet: list[str], raw: Any) -> None:
    """A schema that has gone, and one with another kind of table, are named; the others are read."""
    raw.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(sql.Identifier(physical(fleet[3]))))
    raw.execute(
        sql.SQL("ALTER TABLE {} DROP COLUMN app").format(sql.Identifier(physical(fleet[105]), "django_migrations"))
    )
    with pytest.raises(CommandError, match="2 schemas failed") as failure:
        run()
    assert fleet[3] in str(failure.value)
    assert fleet[105] in str(failure.value)
    assert "SchemaDoesNotExist" in str(failure.value)
