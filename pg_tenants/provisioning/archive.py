"""A tenant in one file, and back: its schema, its row, its domains.

The file is a zip archive of two entries: ``schema.dump``, the schema in the custom format of pg_dump, and
``manifest.json``, which says of what and by what it was made. Other tools can read both.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import logging
import os
import secrets
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from importlib import metadata
from pathlib import Path
from typing import Any

import django
from django.apps import apps
from django.core.exceptions import ValidationError
from django.core.management.color import no_style
from django.core.serializers.json import DjangoJSONEncoder
from django.db import IntegrityError, models, router, transaction
from django.db.migrations.loader import MigrationLoader
from django.utils import timezone
from psycopg import sql

from pg_tenants import conf, schemas
from pg_tenants.context import no_schema
from pg_tenants.exceptions import ArchiveInvalid, CopyFailed, PgTenantsError, TenantInUse
from pg_tenants.modules import Module
from pg_tenants.provisioning import removal, run
from pg_tenants.provisioning._dump import Progress, dump, dump_version, load
from pg_tenants.provisioning._leftovers import hold, remove_leftovers, work_folder
from pg_tenants.provisioning._names import follow
from pg_tenants.provisioning.adopt import listed
from pg_tenants.provisioning.clone import refuse_taken, refuse_transaction

__all__ = ["Manifest", "Progress", "archive", "archive_and_delete", "read_manifest", "restore"]

logger = logging.getLogger("pg_tenants")

FORMAT = 1
DUMP, MANIFEST = "schema.dump", "manifest.json"
_PIECE = 1 << 20
_DAMAGE = (zipfile.BadZipFile, EOFError, zlib.error)


@dataclass(frozen=True, slots=True)
class Manifest:
    """What an archive says of itself.

    Attributes:
        format: the version of the file's format.
        schema_name: the tenant's schema, as the project calls it.
        dumped: what it was called in the database.
        model: the TENANT_MODEL.
        row: the values of the tenant's fields, by the fields' names.
        domains: of each domain, ``domain`` and ``is_primary``.
        migrations: app and name of each migration that the schema has recorded.
        roles: the roles that something in it was granted to, or that a policy is for.
        versions: of ``pg_tenants``, ``django``, ``postgresql`` and ``pg_dump``.
        size, sha256: of the dump.
        created_at: when it was made, in ISO 8601.
    """

    format: int
    schema_name: str
    dumped: str
    model: str
    row: dict[str, Any]
    domains: list[dict[str, Any]]
    migrations: list[list[str]]
    roles: list[str]
    versions: dict[str, Any]
    size: int
    sha256: str
    created_at: str


# -- archive ----------------------------------------------------------------------------------------------------------


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
            manifest = _manifest(tenant, module, home, size, digest.hexdigest())
            box.writestr(MANIFEST, json.dumps(asdict(manifest), cls=DjangoJSONEncoder, indent=1))
        _give_name(temporary, path)
    except OSError as exc:
        raise CopyFailed(
            f"The tenant {name!r} cannot be archived: {path} cannot be written: {exc}. Nothing was changed."
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


def _manifest(tenant: Any, module: Module, home: str, size: int, sha256: str) -> Manifest:
    connection: Any = schemas.tenant_connection(module.database)
    name = connection.physical_schema(tenant.schema_name)
    domains = _domains(home).filter(tenant_id=tenant.pk)
    with connection.without_prefix() as execute:
        table = sql.Identifier(name, "django_migrations").as_string()
        migrations = execute(f"SELECT app, name FROM {table} ORDER BY id").fetchall()  # noqa: S608  # quoted
        roles = execute(_ROLES.format(name=sql.Literal(name).as_string())).fetchall()
    return Manifest(
        format=FORMAT,
        schema_name=tenant.schema_name,
        dumped=name,
        model=type(tenant)._meta.label,
        row={field.attname: _to_json(field, tenant) for field in type(tenant)._meta.concrete_fields},
        domains=[{"domain": row.domain, "is_primary": row.is_primary} for row in domains.order_by("pk")],
        migrations=[[app, migration] for app, migration in migrations],
        roles=[role for (role,) in roles],
        versions={
            "pg_tenants": _own_version(),
            "django": django.get_version(),
            "postgresql": connection.pg_version // 10000,
            "pg_dump": dump_version(module.database),
        },
        size=size,
        sha256=sha256,
        created_at=timezone.now().isoformat(),
    )


def _own_version() -> str:
    try:
        return metadata.version("pg_tenants")
    except metadata.PackageNotFoundError:  # run from a checkout
        return "unknown"


_ROLES = """
SELECT DISTINCT r.rolname FROM (
    SELECT nspacl AS acl FROM pg_catalog.pg_namespace WHERE nspname = {name}
    UNION ALL SELECT c.relacl FROM pg_catalog.pg_class c
        JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = {name}
    UNION ALL SELECT a.attacl FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
        JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = {name}
    UNION ALL SELECT p.proacl FROM pg_catalog.pg_proc p
        JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname = {name}
    UNION ALL SELECT y.typacl FROM pg_catalog.pg_type y
        JOIN pg_catalog.pg_namespace n ON n.oid = y.typnamespace WHERE n.nspname = {name}
    UNION ALL SELECT d.defaclacl FROM pg_catalog.pg_default_acl d
        JOIN pg_catalog.pg_namespace n ON n.oid = d.defaclnamespace WHERE n.nspname = {name}
) every CROSS JOIN pg_catalog.aclexplode(every.acl) g
JOIN pg_catalog.pg_roles r ON r.oid = g.grantee AND g.grantee <> g.grantor AND r.rolname !~ '^pgt_[0-9]+[_~]'
UNION SELECT r.rolname FROM pg_catalog.pg_policy p JOIN pg_catalog.pg_class c ON c.oid = p.polrelid
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_catalog.pg_roles r ON r.oid = ANY (p.polroles) WHERE n.nspname = {name}
ORDER BY 1
"""


def _to_json(field: models.Field[Any, Any], tenant: Any) -> Any:
    value = field.value_from_object(tenant)
    return value if value is None or isinstance(value, (bool, int, float, str)) else field.value_to_string(tenant)


# -- restore ----------------------------------------------------------------------------------------------------------


def read_manifest(path: Path) -> Manifest:
    """Return what an archive says of itself.

    Raises:
        ArchiveInvalid: the file is none, or is damaged.
    """
    with _opened(path) as box:
        return _read(box, path)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        box = zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile) as exc:
        raise ArchiveInvalid(f"{path} cannot be read as an archive of a tenant: {exc}.") from exc
    with box:
        yield box


def _read(box: zipfile.ZipFile, path: Path) -> Manifest:
    try:
        values = json.loads(box.read(MANIFEST))
        found = values.get("format")
        if found != FORMAT:
            raise ArchiveInvalid(
                f"{path} has the format {found!r}; this pg_tenants reads {FORMAT}. Use the one that made it "
                f"({values.get('versions', {}).get('pg_tenants')}), or a newer one."
            )
        return Manifest(**{field.name: values[field.name] for field in fields(Manifest)})
    except (KeyError, TypeError, AttributeError, ValueError, *_DAMAGE) as exc:
        raise ArchiveInvalid(
            f"{path} is no archive of a tenant: its {MANIFEST} is missing or damaged ({exc})."
        ) from exc


def restore(
    model: type[Any],
    path: Path,
    *,
    schema_name: str | None = None,
    domain: str | None = None,
    privileges: bool = True,
    using: str | None = None,
    progress: Progress | None = None,
) -> Any:
    """Make a tenant from an archive, row, schema, domains and all, or nothing; and return it.

    Migrations that the code has and the archive has not are run. A tenant that was suspended stays so.

    Args:
        model: the TENANT_MODEL.
        path: the archive.
        schema_name: another name than the archive's; then the archive's domains are left out.
        domain: the primary domain, instead of those in the archive.
        privileges: grant what was granted to other roles.
        using: the alias of the tenants' rows.
        progress: is told what is done.

    Raises:
        ArchiveInvalid: the file is damaged or of something else, has migrations that the code does not know, or names
            roles that are not on this server.
        SchemaExists: there is a tenant or a schema of this name.
        CopyFailed: the database refuses something, such as rows that refer to shared rows that it does not have.
        ProgramUnavailable: there is no pg_restore that reads it.
        IntegrityError: a domain, or another unique value of the row, is taken.
    """
    with _opened(path) as box, work_folder() as folder:
        manifest = _read(box, path)
        tenant = _tenant(model, manifest, schema_name, path)
        home = using or router.db_for_write(model, instance=tenant)
        module = run.module_of(tenant)
        _refuse_unfit(manifest, module, path, privileges)
        dumped = folder / DUMP
        _extract(box, dumped, manifest, path)
        domains = [{"domain": domain, "is_primary": True}] if domain else manifest.domains
        if not domain and tenant.schema_name != manifest.schema_name:
            domains = []
        _refuse_taken(tenant, domains, module, home, path)
        _settle_key(tenant, home)
        _tell_left_out(tenant, manifest, path, progress)

        def fill(made: Any, of: Module) -> None:
            if progress:
                progress(f"filling {made.schema_name}")
            connection = schemas.tenant_connection(of.database)
            schemas.create(made.schema_name, using=of.database)
            load(
                dumped,
                manifest.dumped,
                made.schema_name,
                using=of.database,
                major=int(manifest.versions["pg_dump"]),
                privileges=privileges,
                progress=progress,
            )
            name = connection.physical_schema(made.schema_name)
            follow(name, manifest.dumped, using=of.database, progress=progress)
            for migration in run.bring_up_to_date(made, of):
                if progress:
                    progress(f"migrated by {migration}")
            for one in domains:
                _domains(home).create(tenant=made, **one)
            _check_row(made, home, path)

        tenant._fill = fill
        with transaction.atomic(using=home):
            tenant.save(using=home)
            _keep_time(tenant, manifest, home)
            _advance_keys(tenant, home)
    return tenant


def _tenant(model: type[Any], manifest: Manifest, schema_name: str | None, path: Path) -> Any:
    """Return an unsaved tenant with what the archive has of its row."""
    tenant = model(schema_name=schema_name or manifest.schema_name)
    for field in model._meta.concrete_fields:
        if field.attname not in manifest.row or field.name == "schema_name":
            continue
        # A tenant of another name is another one.
        if field.primary_key and tenant.schema_name != manifest.schema_name:
            continue
        try:
            setattr(tenant, field.attname, field.to_python(manifest.row[field.attname]))
        except ValidationError as exc:
            raise ArchiveInvalid(f"{path}: the value of {field.name!r} does not fit: {' '.join(exc.messages)}") from exc
    if tenant.status != run.SUSPENDED:
        tenant.status = run.PROVISIONING
    return tenant


def _tell_left_out(tenant: Any, manifest: Manifest, path: Path, progress: Progress | None) -> None:
    left_out = sorted(set(manifest.row) - {field.attname for field in tenant._meta.concrete_fields})
    if left_out:
        text = f"{path} has values of fields that the model has not; they are left out: {', '.join(left_out)}."
        if progress:
            progress(text)
        else:
            logger.warning("%s", text)


def _settle_key(tenant: Any, home: str) -> None:
    """Give up the archived row's key where it is taken by now."""
    with no_schema():
        if tenant.pk is not None and run.rows_of(tenant, home).exists():
            tenant.pk = tenant._meta.pk.get_default()
            for parent in tenant._meta.parents:
                setattr(tenant, parent._meta.pk.attname, tenant.pk)


def _advance_keys(tenant: Any, home: str) -> None:
    """Have the database give no key that was brought along."""
    connection = transaction.get_connection(home)
    owner = run.rows_of(tenant, home).model
    with no_schema(), connection.cursor() as cursor:
        for statement in connection.ops.sequence_reset_sql(no_style(), [owner]):
            cursor.execute(statement)


def _domains(home: str) -> Any:
    return apps.get_model(conf.require().domain_model)._default_manager.using(home)


def _refuse_taken(tenant: Any, domains: list[dict[str, Any]], module: Module, home: str, path: Path) -> None:
    refuse_taken(tenant, module, home)
    with no_schema():
        taken = _domains(home).filter(domain__in=[one["domain"] for one in domains]).values_list("domain", flat=True)
        if names := sorted(taken):
            raise CopyFailed(
                f"{path} has domains that are another tenant's by now: {', '.join(names)}. Restore it with another "
                "domain, or remove these."
            )


def _check_row(tenant: Any, home: str, path: Path) -> None:
    """Have deferred constraints look at the row now, where it can be said what is wrong."""
    try:
        transaction.get_connection(home).check_constraints()
    except IntegrityError as exc:
        raise CopyFailed(
            f"{path}: the row of the tenant {tenant.schema_name!r} refers to a row that is not in this database: "
            f"{exc} Bring that row here first. Nothing was changed."
        ) from exc


def _keep_time(tenant: Any, manifest: Manifest, home: str) -> None:
    """Give the row the time of the first tenant's, which saving sets to now."""
    tenant.created_at = tenant._meta.get_field("created_at").to_python(manifest.row["created_at"])
    run.rows_of(tenant, home).update(created_at=tenant.created_at)


def _refuse_unfit(manifest: Manifest, module: Module, path: Path, privileges: bool) -> None:
    loader = MigrationLoader(None)
    known = set(loader.disk_migrations) | {
        old for migration in loader.disk_migrations.values() for old in migration.replaces
    }
    applied = {(app, name) for app, name in manifest.migrations if app in module.apps}
    if ahead := sorted(applied - known):
        raise ArchiveInvalid(
            f"{path} is of a schema that is ahead of this code. Restore it with the newer code. It has these "
            f"migrations, which are not here:\n{listed(['.'.join(one) for one in ahead])}"
        )
    if not privileges:
        return
    with no_schema(), schemas.tenant_connection(module.database).without_prefix() as execute:
        there = {name for (name,) in execute("SELECT rolname FROM pg_catalog.pg_roles").fetchall()}
    if missing := sorted(set(manifest.roles) - there):
        raise ArchiveInvalid(
            f"{path} grants rights to roles that are not on this server: {', '.join(missing)}. Create them, or restore "
            "without privileges."
        )


def _extract(box: zipfile.ZipFile, to: Path, manifest: Manifest, path: Path) -> None:
    digest = hashlib.sha256()
    try:
        with box.open(DUMP) as entry, to.open("wb") as file:
            while piece := entry.read(_PIECE):
                digest.update(piece)
                file.write(piece)
    except KeyError as exc:
        raise ArchiveInvalid(f"{path} is no archive of a tenant: it has no {DUMP}.") from exc
    except _DAMAGE as exc:
        raise ArchiveInvalid(f"{path} is damaged: {exc}.") from exc
    if digest.hexdigest() != manifest.sha256:
        raise ArchiveInvalid(f"{path} is damaged: its {DUMP} has another checksum than it was written with.")
