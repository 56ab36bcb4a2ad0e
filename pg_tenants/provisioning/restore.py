"""A tenant from its archive, here or elsewhere."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.color import no_style
from django.db import IntegrityError, router, transaction
from django.db.migrations.loader import MigrationLoader

from pg_tenants import schemas
from pg_tenants.context import no_schema
from pg_tenants.exceptions import ArchiveInvalid, CopyFailed
from pg_tenants.modules import Module
from pg_tenants.provisioning import run
from pg_tenants.provisioning._dump import Progress, load
from pg_tenants.provisioning._leftovers import work_folder
from pg_tenants.provisioning._manifest import DUMP, Manifest, domains_of, extract, opened, read
from pg_tenants.provisioning._names import follow
from pg_tenants.provisioning.adopt import listed
from pg_tenants.provisioning.clone import refuse_taken

__all__ = ["restore"]

logger = logging.getLogger("pg_tenants")


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
    with opened(path) as box, work_folder() as folder:
        manifest = read(box, path)
        tenant = _tenant(model, manifest, schema_name, path)
        home = using or router.db_for_write(model, instance=tenant)
        module = run.module_of(tenant)
        _refuse_unfit(manifest, module, path, privileges)
        dumped = folder / DUMP
        extract(box, dumped, manifest, path)
        domains = [{"domain": domain, "is_primary": True}] if domain else manifest.domains
        if not domain and tenant.schema_name != manifest.schema_name:
            domains = []
        _refuse_taken(tenant, domains, module, home, path)
        _settle_key(tenant, home)
        _tell_left_out(tenant, manifest, path, progress)

        content = _Content(manifest, path, dumped, domains, home, privileges, progress)
        tenant._fill = content.fill
        with transaction.atomic(using=home):
            tenant.save(using=home)
            _keep_time(tenant, manifest, home)
            _advance_keys(tenant, home)
    return tenant


@dataclass(frozen=True)
class _Content:
    """What goes into a restored tenant's schema, and the domains that lead to it."""

    manifest: Manifest
    path: Path
    dumped: Path
    domains: list[dict[str, Any]]
    home: str
    privileges: bool
    progress: Progress | None

    def fill(self, tenant: Any, module: Module) -> None:
        """Make the schema from the dump, and bring it to the newest migration."""
        using, manifest = module.database, self.manifest
        self._tell(f"filling {tenant.schema_name}")
        schemas.create(tenant.schema_name, using=using)
        schemas.assign(tenant.schema_name, tenant.schema_identity, using=using)
        load(
            self.dumped,
            manifest.dumped,
            tenant.schema_name,
            using=using,
            major=int(manifest.versions["pg_dump"]),
            privileges=self.privileges,
            progress=self.progress,
        )
        name = schemas.tenant_connection(using).physical_schema(tenant.schema_name)
        follow(name, manifest.dumped, using=using, progress=self.progress)
        for migration in run.bring_up_to_date(tenant, module):
            self._tell(f"migrated by {migration}")
        for one in self.domains:
            domains_of(self.home).create(tenant=tenant, **one)
        _check_row(tenant, self.home, self.path)

    def _tell(self, text: str) -> None:
        if self.progress:
            self.progress(text)


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
            raise ArchiveInvalid(
                f"{path}: the value of {field.name!r} does not fit the field of this code. Restore it with the "
                f"code that archived it: {' '.join(exc.messages)}"
            ) from exc
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


def _refuse_taken(tenant: Any, domains: list[dict[str, Any]], module: Module, home: str, path: Path) -> None:
    refuse_taken(tenant, module, home)
    with no_schema():
        taken = domains_of(home).filter(domain__in=[one["domain"] for one in domains]).values_list("domain", flat=True)
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
