"""Comparing schemas with what their migrations make."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import connection
from psycopg import sql

from pg_tenants import migrations, schemas, tenant_context
from pg_tenants.migrations import Structures
from tests.conftest import make_tenant
from tests.integration.test_migrate_schemas import physical


def change(raw: Any, schema: str, *statements: str) -> None:
    raw.execute(sql.SQL("SET search_path = {}, public").format(sql.Identifier(physical(schema))))
    for statement in statements:
        raw.execute(statement)
    raw.execute("RESET search_path")


def found(structures: Structures) -> dict[str, list[str]]:
    assert not structures.failed, structures.failed[0].error
    return {
        result.schema: [f"{d.change} {d.kind} {d.name}" for d in result.differences]
        for result in structures.results
        if result.differences
    }


def test_schemas_as_their_migrations_make_them(acme: Any, globex: Any) -> None:
    """Fixed modules' and tenants' do not differ, and nothing is left of the comparison."""
    before = schemas.list()
    structures = migrations.verify()
    assert [result.schema for result in structures.results] == ["public", "billing", "acme", "globex"]
    assert found(structures) == {}
    assert schemas.list() == before
