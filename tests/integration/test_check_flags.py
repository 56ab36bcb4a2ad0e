"""System checks that ask the database: SQL that names a tenant, and a pooler that no setting tells of."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.db import connections
from django.test import override_settings

from pg_tenants import checks

MODULES: dict[str, Any] = settings.PG_TENANTS["MODULES"]


@pytest.mark.parametrize("module", ["tenant", "billing"])
def test_w101_a_tenant_that_is_named_in_an_sql_file(acme: Any, tmp_path: Path, module: str) -> None:
    """Tenants' names are asked of the database, so the check runs where one is named; others' schemas are let be."""
    (tmp_path / "0001_a.sql").write_text("SELECT 1;\nDELETE FROM acme.notes_note; DELETE FROM legacy.orders;")
    modules = {**MODULES, module: {**MODULES[module], "sql_migrations": tmp_path}}
    with override_settings(PG_TENANTS={**settings.PG_TENANTS, "MODULES": modules}):
        assert checks.check_sql_files() == []
        assert checks.check_migrations() == []
        (message,) = checks.check_migrations(databases=["default"])
        acme.delete()
        assert checks.check_migrations(databases=["default"]) == []
    assert message.id == "pg_tenants.W101"
    assert f"{tmp_path / '0001_a.sql'}, line 2, names the schema 'acme'" in message.msg
    assert "{{tables.name}}" in str(message.hint)


def test_w101_in_a_migration(acme: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an app in whatever module."""
    package = tmp_path / f"flagged_{uuid.uuid4().hex}"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "0001_initial.py").write_text(
        "from django.db import migrations\n\nclass Migration(migrations.Migration):\n"
        "    operations = [migrations.RunSQL('UPDATE acme.notes_note SET title = title')]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with override_settings(MIGRATION_MODULES={"billing": package.name}):
        (message,) = checks.check_migrations(databases=["default"])
    assert message.id == "pg_tenants.W101"
    assert "The RunSQL in the migration billing.0001_initial, line 1, names the schema 'acme'" in message.msg


def test_w115_a_pooler_that_is_found_out(through_pgbouncer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the database is named; otherwise check --deploy connects to nothing."""
    entry = {**connections["default"].settings_dict, "DISABLE_SERVER_SIDE_CURSORS": False}
    monkeypatch.setattr(connections, "settings", {"default": entry})
    assert "pg_tenants.W115" not in [message.id for message in checks.check_deployment()]
    found = {message.id: message for message in checks.check_deployment(databases=["default"])}
    assert "'default'" in found["pg_tenants.W115"].msg
    entry["DISABLE_SERVER_SIDE_CURSORS"] = True
    assert "pg_tenants.W115" not in [message.id for message in checks.check_deployment(databases=["default"])]
