"""kill -9 while a tenant is cloned, archived or restored: nothing is half, and the next attempt tidies up."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
from psycopg import sql

from example_project.customers.models import Tenant
from example_project.notes.models import Note
from pg_tenants import tenant_context
from pg_tenants.provisioning.archive import read_manifest
from tests.integration.test_clone import physical, tenant_schemas
from tests.integration.test_races import child, settle

__all__ = ["child"]

OLD = time.time() - 3600


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder where this process and its children have their temporary files."""
    found = tmp_path / "temporary"
    found.mkdir()
    monkeypatch.setenv("TMPDIR", str(found))
    monkeypatch.setattr(tempfile, "tempdir", str(found))
    return found


def age(folder: Path) -> list[Path]:
    """Return what is in a folder, made old."""
    found = sorted(folder.iterdir())
    for path in found:
        os.utime(path, (OLD, OLD))
    return found


def notes(name: str) -> int:
    with tenant_context(Tenant.objects.get(schema_name=name)):
        return Note.objects.count()


def test_a_clone_is_killed(acme: Any, globex: Any, folder: Path, child: Any, raw: Any, server_params: Any) -> None:
    """There is no clone, its name is free, and the copy of the rows is removed by the next one."""
    victim = child()
    assert victim.ask("stop post_tenant_create") == "ok"
    assert victim.ask("run clone_tenant acme sandbox --data") == "stopped"
    (work,) = age(folder)
    # As long as its process lives, nobody takes it away.
    globex.clone("other", data=True)
    assert list(folder.iterdir()) == [work]
    victim.kill()
    settle(raw, server_params["dbname"])
    assert sorted(tenant_schemas()) == sorted(physical(name) for name in ("acme", "globex", "other"))
    age(folder)
    acme.clone("sandbox", data=True)
    assert notes("sandbox") == notes("acme") == 1
    assert list(folder.iterdir()) == []


def test_a_restore_is_killed(acme: Any, folder: Path, child: Any, raw: Any, server_params: Any, tmp_path: Path) -> None:
    """The same; the archive serves again."""
    file = tmp_path / "acme.tenant"
    acme.archive(file, delete=True)
    victim = child()
    assert victim.ask("stop post_tenant_create") == "ok"
    assert victim.ask(f"run restore_tenant {file}") == "stopped"
    victim.kill()
    settle(raw, server_params["dbname"])
    assert (tenant_schemas(), Tenant.objects.count()) == ([], 0)
    assert len(age(folder)) == 1
    Tenant.objects.restore_tenant(file)
    assert notes("acme") == 1
    assert list(folder.iterdir()) == []


def test_an_archive_is_killed(acme: Any, child: Any, raw: Any, server_params: Any, tmp_path: Path) -> None:
    """There is no file of that name, the tenant is as it was, and what was written is removed by the next attempt."""
    file = tmp_path / "files" / "acme.tenant"
    file.parent.mkdir()
    victim = child()
    with raw.transaction():
        table = sql.Identifier(physical("acme"), "notes_note")
        raw.execute(sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(table))
        # pg_dump waits for the table.
        victim.tell(f"run archive_tenant acme {file}")
        deadline = time.monotonic() + 60
        while not any(file.parent.iterdir()):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        victim.kill()
    settle(raw, server_params["dbname"])
    (left,) = age(file.parent)
    assert left.name.startswith(".acme.tenant.")
    acme.refresh_from_db()
    assert (acme.status, notes("acme")) == ("active", 1)
    assert acme.archive(file) == read_manifest(file)
    assert list(file.parent.iterdir()) == [file]
