"""A tenant in one file: its schema, its row, its domains.

The file is a zip archive of two entries: ``schema.dump``, the schema in the custom format of pg_dump, and
``manifest.json``, which says of what and by what it was made. Other tools can read both. ``restore`` makes a tenant of
it again.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import os
import secrets
import zipfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from django.core.serializers.json import DjangoJSONEncoder
from django.db import models, router, transaction

from pg_tenants import schemas
from pg_tenants.context import no_schema
from pg_tenants.exceptions import CopyFailed, PgTenantsError, TenantInUse
from pg_tenants.modules import Module
from pg_tenants.provisioning import removal, run
from pg_tenants.provisioning._dump import Progress, dump, dump_version
from pg_tenants.provisioning._leftovers import hold, remove_leftovers
from pg_tenants.provisioning._manifest import DUMP, MANIFEST, Manifest, manifest_of, read_manifest
from pg_tenants.provisioning.clone import refuse_transaction

__all__ = ["Manifest", "Progress", "archive", "archive_and_delete", "read_manifest"]

_PIECE = 1 << 20


def archive(tenant: Any, path: Path, *, using: str | None = None, progress: Progress | None = None) -> Manifest:
    """Write a tenant into a new file, as it is at one moment, and return the file's manifest.

    The file has the mode 0600, and its name only when it is complete.

    Args:
        tenant: the tenant.
        path: the file.
        using: the alias of its row.
        progress: is told what is done.

    Raises:
        WrongStatus: the tenant has no schema yet, or is being deleted.
        CopyFailed, ProgramUnavailable: the file is there already or cannot be written, or pg_dump failed or is missing.
        UnsafeStatement: a transaction is open, or the alias leads through a pooler.
    """
    home = using or tenant._state.db or router.db_for_read(type(tenant), instance=tenant)
    with no_schema():
        stored = type(tenant)._base_manager.using(home).get(pk=tenant.pk)
    run.refuse_status(stored, "be archived", (run.ACTIVE, run.SUSPENDED))
    module = run.module_of(stored)
    refuse_transaction(module.database, "archives by pg_dump, which sees what is committed")
    connection = schemas.tenant_connection(module.database)
    with no_schema(), transaction.atomic(using=module.database), connection.without_prefix() as execute:
        execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        execute("SET LOCAL idle_in_transaction_session_timeout = 0")
        snapshot = execute("SELECT pg_catalog.pg_export_snapshot()").fetchone()[0]
        return _write(stored, module, home, path, snapshot=snapshot, progress=progress)


def archive_and_delete(
    tenant: Any,
    path: Path,
    remove: Any,
    *,
    grace: float = 0,
    terminate: bool = False,
    using: str | None = None,
    progress: Progress | None = None,
) -> Manifest:
    """Write a tenant into a new file and delete it; nothing can be written to it between the two.

    Args:
        tenant, path, using, progress: as of ``archive``.
        remove, grace, terminate: as of ``removal.delete``.

    Raises:
        TenantInUse: as of ``removal.delete``.
        PgTenantsError: as of ``archive``; the tenant's status is then as before.
    """
    home = using or tenant._state.db or router.db_for_write(type(tenant), instance=tenant)
    with no_schema():
        stored = type(tenant)._base_manager.using(home).get(pk=tenant.pk)
    # One whose deletion was interrupted may still be archived.
    run.refuse_status(stored, "be archived", (run.ACTIVE, run.SUSPENDED, run.DELETING))
    module = run.module_of(stored)
    # What would fail in any case fails before the tenant is taken out of service.
    _refuse_existing(path)
    dump_version(module.database)
    made: list[Manifest] = []

    def write() -> None:
        if made:
            # Of an attempt that was rolled back, because a session had the schema locked.
            path.unlink()
        made.append(_write(stored, module, home, path, progress=progress))

    try:
        removal.delete(
            tenant, remove, grace=grace, terminate=terminate, using=home, before_drop=write, progress=progress
        )
    except TenantInUse:
        # All attempts were rolled back.
        if made:
            path.unlink()
        raise
    except PgTenantsError:
        # The file stays in any case: whether a commit that failed took place may be unknown.
        tenant.status = stored.status
        with no_schema():
            models.Model.save(tenant, using=home, update_fields=["status"])
        raise
    return made[-1]


def _write(
    tenant: Any,
    module: Module,
    home: str,
    path: Path,
    *,
    snapshot: str | None = None,
    progress: Progress | None = None,
) -> Manifest:
    _refuse_existing(path)
    name, using = tenant.schema_name, module.database
    if progress:
        progress(f"archiving {name}")
    remove_leftovers(path.parent, f".{glob.escape(path.name)}.{'[0-9a-f]' * 16}")
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with _created(temporary) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as box:
            size, digest = 0, hashlib.sha256()
            with (
                dump(name, using=using, snapshot=snapshot) as stream,
                box.open(DUMP, "w", force_zip64=True) as entry,
            ):
                while piece := stream.read(_PIECE):
                    entry.write(piece)
                    digest.update(piece)
                    size += len(piece)
            manifest = manifest_of(tenant, module, home, size, digest.hexdigest())
            box.writestr(MANIFEST, json.dumps(asdict(manifest), cls=DjangoJSONEncoder, indent=1))
        _give_name(temporary, path)
    except OSError as exc:
        raise CopyFailed(
            f"The tenant {name!r} cannot be archived: {path} cannot be written: {exc}. Nothing was changed. Choose "
            "another place, or make room there."
        ) from exc
    finally:
        temporary.unlink(missing_ok=True)
    return manifest


@contextlib.contextmanager
def _created(path: Path) -> Iterator[Any]:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        hold(file)
        yield file
        file.flush()
        os.fsync(file.fileno())


def _give_name(temporary: Path, path: Path) -> None:
    try:
        # A link fails where the name is taken meanwhile; a rename would replace that file.
        path.hardlink_to(temporary)
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        temporary.rename(path)
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _refuse_existing(path: Path) -> None:
    if path.exists():
        raise CopyFailed(f"The file {path} is there already, and is not replaced. Choose another name, or remove it.")
