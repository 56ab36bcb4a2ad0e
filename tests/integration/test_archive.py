"""A tenant in a file, and back: here, under another name, in another database, on another server."""

from __future__ import annotations

import json
import os
import stat
import time
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from django.core.management.base import CommandError
from django.db import connection, transaction
from psycopg import sql

from example_project.customers.models import Domain, Tenant
from example_project.notes.models import Note
from pg_tenants import tenant_context
from pg_tenants.exceptions import (
    ArchiveInvalid,
    CopyFailed,
    ProgramUnavailable,
    SchemaExists,
    TenantInUse,
    UnsafeStatement,
    WrongStatus,
)
from pg_tenants.provisioning import _programs
from pg_tenants.provisioning.archive import read_manifest
from tests.conftest import DATA_PREFIX, set_status
from tests.integration.test_clone import ROLE, dumped, nasty, physical, tenant_schemas
from tests.integration.test_commands import run
from tests.integration.test_races import Child, child, settle

__all__ = ["child", "nasty"]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "acme.tenant"


def restore(file: Path, **options: Any) -> Any:
    return Tenant.objects.restore_tenant(file, **options)


# -- there and back ---------------------------------------------------------------------------------------------------


def test_there_and_back(nasty: Any, file: Path, server_params: Any) -> None:
    """Schema, rows, row and domains are as they were; the file is the owner's alone, and says what it is."""
    Tenant.objects.filter(pk=nasty.pk).update(created_at=datetime(2020, 1, 2, tzinfo=UTC), plan="team")
    before = dumped("acme", server_params)
    lines: list[str] = []
    manifest = nasty.archive(file, progress=lines.append)
    assert lines == ["archiving acme"]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert list(file.parent.iterdir()) == [file]
    assert read_manifest(file) == manifest
    assert (manifest.schema_name, manifest.row["plan"], manifest.roles) == ("acme", "team", [ROLE])
    assert ["notes", "0001_initial"] in manifest.migrations
    assert manifest.domains == [{"domain": "acme.localhost", "is_primary": True}]
    assert dumped("acme", server_params) == before
    with pytest.raises(SchemaExists):
        restore(file)
    number = nasty.pk
    nasty.delete()
    tenant = restore(file, progress=lines.append)
    assert dumped("acme", server_params) == before
    assert tenant.pk == number
    assert (tenant.status, tenant.plan, tenant.name) == ("active", "team", "Acme")
    assert Tenant.objects.get().created_at == tenant.created_at == datetime(2020, 1, 2, tzinfo=UTC)
    assert Domain.objects.get(tenant=tenant).domain == "acme.localhost"
    assert "rows of thing" in lines
    with tenant_context(tenant):
        assert Note.objects.get().title == "note of acme"


def test_under_another_name(nasty: Any, file: Path, raw: Any, server_params: Any) -> None:
    """Beside the one that it was made from, which nobody notices; without its domains, with another key."""
    nasty.suspend()
    nasty.archive(file)
    before = dumped("acme", server_params)
    tenant = restore(file, schema_name="initech", domain="Initech.localhost")
    assert dumped("acme", server_params) == before
    assert dumped("initech", server_params).replace("initech", "acme") == before
    assert tenant.status == "suspended"
    assert tenant.pk != nasty.pk
    assert list(Domain.objects.values_list("domain", "tenant_id").order_by("pk")) == [
        ("acme.localhost", nasty.pk),
        ("initech.localhost", tenant.pk),
    ]
    # The next tenant's key is free.
    Tenant.objects.create(schema_name="hooli")


def test_migrations_that_the_file_lacks(acme: Any, file: Path, raw: Any) -> None:
    """They are run; here on a schema that is as it was before the app's first one."""
    raw.execute(sql.SQL("SET search_path = {}").format(sql.Identifier(physical("acme"))))
    raw.execute("DROP TABLE notes_note_tags, notes_note, notes_tag CASCADE")
    raw.execute("DELETE FROM django_migrations WHERE app = 'notes'; RESET search_path")
    acme.archive(file)
    lines: list[str] = []
    with tenant_context(restore(file, schema_name="initech", progress=lines.append)):
        assert Note.objects.count() == 0
    assert "migrated by notes.0001_initial" in lines


# -- files that are not what they should be ---------------------------------------------------------------------------


def rewritten(file: Path, **values: Any) -> Path:
    """Return a copy of an archive that says something else of itself; None takes the value out."""
    copy = file.with_name("copy.tenant")
    with zipfile.ZipFile(file) as box, zipfile.ZipFile(copy, "w") as other:
        manifest = {**json.loads(box.read("manifest.json")), **values}
        other.writestr("schema.dump", box.read("schema.dump"))
        other.writestr("manifest.json", json.dumps({k: v for k, v in manifest.items() if v is not None}))
    return copy


def test_files_that_are_refused(acme: Any, file: Path) -> None:
    """Damaged, cut off, of another kind, ahead of the code, for roles that are not there; and nothing is made."""
    acme.archive(file)
    whole = file.read_bytes()
    acme.delete()
    bad = file.with_name("bad.tenant")
    for content, words in (
        (whole[: len(whole) // 2], "cannot be read as an archive"),
        (whole[:500] + bytes([whole[500] ^ 255]) + whole[501:], "damaged"),
        (b"", "cannot be read as an archive"),
    ):
        bad.write_bytes(content)
        with pytest.raises(ArchiveInvalid, match=words):
            restore(bad)
    with pytest.raises(ArchiveInvalid, match="No such file"):
        restore(file.with_name("none"))
    manifest = read_manifest(file)
    for values, words in (
        ({"format": 2}, "has the format 2; this pg_tenants reads 1"),
        ({"sha256": "0" * 64}, "has another checksum"),
        ({"domains": None}, "manifest.json is missing or damaged"),
        (
            {"migrations": [*manifest.migrations, ["notes", "0099_future"]]},
            r"(?s)ahead of this code.*notes.0099_future",
        ),
        ({"roles": ["nobody_of_this_name"]}, "nobody_of_this_name.* without privileges"),
        ({"row": {**manifest.row, "created_at": "soon"}}, "'created_at' does not fit"),
    ):
        with pytest.raises(ArchiveInvalid, match=words):
            restore(rewritten(file, **values))
    with pytest.raises(ProgramUnavailable, match="no pg_restore of PostgreSQL 99"):
        restore(rewritten(file, versions={**manifest.versions, "pg_dump": 99}))
    assert (tenant_schemas(), Tenant.objects.count()) == ([], 0)
    lines: list[str] = []
    other = rewritten(file, roles=["nobody_of_this_name"], row={**manifest.row, "former": 1})
    assert restore(other, privileges=False, progress=lines.append).is_active
    assert lines[0].endswith("left out: former.")


def test_a_domain_that_is_taken(acme: Any, globex: Any, file: Path) -> None:
    """It is named, and nothing is made."""
    acme.archive(file)
    acme.delete()
    Domain.objects.create(domain="acme.localhost", tenant=globex)
    with pytest.raises(CopyFailed, match=r"acme\.localhost"):
        restore(file)
    assert tenant_schemas() == [physical("globex")]
    assert restore(file, domain="new.localhost").is_active


def test_rows_of_shared_tables_that_are_missing(nasty: Any, file: Path, raw: Any, tmp_path: Path) -> None:
    """The message names the key and the table; nothing is made."""
    nasty.archive(file)
    nasty.delete()
    with pytest.raises(CopyFailed, match=r"(?s)is not present in table .customers_tenant.*Bring that row here first"):
        restore(file, schema_name="initech")
    assert (tenant_schemas(), Tenant.objects.count()) == ([], 0)


# -- what cannot be archived, and what is left ------------------------------------------------------------------------


def test_what_cannot_be_archived(acme: Any, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is there, a folder that is not, an open transaction, a tenant without a schema, no programs."""
    file.write_text("mine")
    with pytest.raises(CopyFailed, match="is there already"):
        acme.archive(file)
    assert file.read_text() == "mine"
    file.unlink()
    for delete in (False, True):
        with pytest.raises(CopyFailed, match="cannot be written"):
            acme.archive(file.parent / "none" / "x", delete=delete)
        assert (acme.status, Tenant.objects.get().status) == ("active", "active")
        with transaction.atomic(), pytest.raises(UnsafeStatement):
            acme.archive(file, delete=delete)
        set_status(acme, "failed")
        with pytest.raises(WrongStatus):
            acme.archive(file, delete=delete)
        set_status(acme, "active")
    monkeypatch.setattr(_programs, "_candidates", lambda program: iter(()))
    for delete in (False, True):
        with pytest.raises(ProgramUnavailable):
            acme.archive(file, delete=delete)
    assert Tenant.objects.get().status == "active"
    assert list(file.parent.iterdir()) == []


def test_killed_in_the_middle(acme: Any, file: Path, child: Any, raw: Any, server_params: Any) -> None:
    """A restore leaves nothing; an archive with deletion leaves the file, the tenant, or both, never neither."""
    acme.archive(file)
    acme.delete()
    victim = child()
    assert victim.ask("stop post_tenant_create") == "ok"
    assert victim.ask(f"run restore_tenant {file}") == "stopped"
    victim.kill()
    settle(raw, server_params["dbname"])
    assert (tenant_schemas(), Tenant.objects.count()) == ([], 0)
    acme = restore(file)
    other, victim = file.with_name("other"), child()
    assert victim.ask("stop post_tenant_delete") == "ok"
    assert victim.ask(f"run archive_tenant acme {other} --delete") == "stopped"
    victim.kill()
    settle(raw, server_params["dbname"])
    assert read_manifest(other).schema_name == "acme"
    assert Tenant.objects.get().status == "deleting"
    with tenant_context(acme):
        assert Note.objects.count() == 1
    acme.refresh_from_db()
    acme.archive(file.with_name("third"), delete=True)
    assert tenant_schemas() == []


def test_nothing_is_lost_between_archive_and_delete(acme: Any, file: Path, child: Any) -> None:
    """What a process wrote until it was stopped is in the file."""
    worker = child()
    assert worker.ask("work acme") == "working"
    time.sleep(0.5)
    acme.archive(file, delete=True, grace=0)
    made, _, error = worker.answer().removeprefix("SchemaDoesNotExist: ").partition(": ")
    assert "is not in the database" in error
    with tenant_context(restore(file)):
        assert Note.objects.count() == int(made) + 1


def test_an_archive_of_one_that_is_held(acme: Any, file: Path, child: Any) -> None:
    """With deletion it is refused after the grace, and there is no file."""
    holder = child()
    assert holder.ask("hold acme") == "stopped"
    with pytest.raises(TenantInUse):
        acme.archive(file, delete=True, grace=0.1)
    assert list(file.parent.iterdir()) == []
    acme.refresh_from_db()
    assert acme.status == "deleting"
    assert holder.ask("go on") == "ok"


# -- elsewhere --------------------------------------------------------------------------------------------------------


@pytest.fixture
def elsewhere() -> Iterator[Any]:
    """Return how psycopg connects to another server, which has an empty database."""
    from django.conf import settings

    from pg_tenants.server import Server, ServerConfig

    folder = Path(settings.PG_TENANTS["PGSERVER"]["data"]).with_name(f"{DATA_PREFIX}{os.getpid()}")
    options = {**settings.PG_TENANTS["PGSERVER"], "name": "elsewhere", "data": f"{folder}-elsewhere"}
    server = Server(ServerConfig.load(options, environ={}))
    server.up()
    try:
        yield server.connection_params()
    finally:
        server.erase()


def test_another_server(nasty: Any, file: Path, raw: Any, elsewhere: dict[str, Any]) -> None:
    """Roles and shared rows that are missing there are named; once they are there, all is, under any name."""
    nasty.archive(file)
    process = Child("postgres://{user}:{password}@{host}:{port}/postgres".format(**elsewhere))
    try:
        with psycopg.connect(**elsewhere, dbname="postgres", autocommit=True) as there:
            assert process.ask("run migrate_schemas") == "ok"
            assert f"not on this server: {ROLE}" in process.ask(f"run restore_tenant {file}")
            assert f'role "{ROLE}" does not exist' in process.ask(f"run restore_tenant {file} --no-privileges")
            there.execute(f"CREATE ROLE {ROLE}")
            assert "Bring that row here first" in process.ask(f"run restore_tenant {file} --as initech")
            assert not there.execute("SELECT FROM pg_namespace WHERE nspname IN ('acme', 'initech')").fetchall()
            assert process.ask(f"run restore_tenant {file}") == "ok"
            # The shared row is there by now.
            assert process.ask(f"run restore_tenant {file} --as initech") == "ok"
            query = "SELECT label, mood::text, twice FROM {}.thing ORDER BY id"
            here = raw.execute(sql.SQL(query).format(sql.Identifier(physical("acme")))).fetchall()
            for name in ("acme", "initech"):
                assert there.execute(sql.SQL(query).format(sql.Identifier(name))).fetchall() == here
            found = there.execute("SELECT schema_name, status FROM customers_tenant ORDER BY 1").fetchall()
            assert found == [("acme", "active"), ("initech", "active")]
    finally:
        process.kill()


# -- commands ---------------------------------------------------------------------------------------------------------


def test_commands(acme: Any, file: Path) -> None:
    """They say what is done, print JSON alone where that is asked for, and errors without a traceback."""
    assert run("archive_tenant", "acme", str(file)).splitlines()[-1].startswith("Archived tenant acme: ")
    with pytest.raises(CommandError, match="is there already"):
        run("archive_tenant", "acme", str(file))
    other = str(file.with_name("other"))
    found = json.loads(run("archive_tenant", "acme", other, "--delete", "--grace", "1", "--json", verbosity=0))
    assert (found["schema_name"], found["versions"]["postgresql"]) == ("acme", connection.pg_version // 10000)
    assert tenant_schemas() == []
    assert json.loads(run("restore_tenant", other, "--json", "--database", "default", verbosity=0)) == {
        "schema_name": "acme",
        "status": "active",
    }
    assert run("restore_tenant", str(file), "--as", "initech").splitlines()[-1] == "Restored tenant initech."
    for args, part in (
        ([other], "already"),
        ([other, "--as", "No"], "cannot be a schema's name"),
        ([other, "--as", "x1", "--domain", "no host"], "no host"),
        ([other, "--as", "x1", "--domain", "acme.localhost"], "acme.localhost"),
    ):
        with pytest.raises(CommandError, match=part):
            run("restore_tenant", *args)
