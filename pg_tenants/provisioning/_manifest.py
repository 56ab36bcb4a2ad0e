"""What an archive says of itself, and what is in it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, fields
from importlib import metadata
from pathlib import Path
from typing import Any

import django
from django.apps import apps
from django.db import models
from django.utils import timezone
from psycopg import sql

from pg_tenants import conf, schemas
from pg_tenants.exceptions import ArchiveInvalid
from pg_tenants.modules import Module
from pg_tenants.provisioning._dump import dump_version

__all__ = ["DUMP", "MANIFEST", "Manifest", "domains_of", "extract", "manifest_of", "opened", "read", "read_manifest"]

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


# -- write ------------------------------------------------------------------------------------------------------------


def manifest_of(tenant: Any, module: Module, home: str, size: int, sha256: str) -> Manifest:
    """Return the manifest of a dump of this size and hash, with what is in the database now."""
    connection: Any = schemas.tenant_connection(module.database)
    name = connection.physical_schema(tenant.schema_name)
    domains = domains_of(home).filter(tenant_id=tenant.pk)
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


def domains_of(home: str) -> Any:
    """Return the rows of the DOMAIN_MODEL on an alias."""
    return apps.get_model(conf.require().domain_model)._default_manager.using(home)


# -- read -------------------------------------------------------------------------------------------------------------


def read_manifest(path: Path) -> Manifest:
    """Return what an archive says of itself.

    Raises:
        ArchiveInvalid: the file is none, or is damaged.
    """
    with opened(path) as box:
        return read(box, path)


@contextlib.contextmanager
def opened(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open an archive.

    Raises:
        ArchiveInvalid: the file is none, or is damaged.
    """
    try:
        box = zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile) as exc:
        raise ArchiveInvalid(
            f"{path} cannot be read as an archive of a tenant: {exc}. Give a file that archive_tenant has written."
        ) from exc
    with box:
        yield box


def read(box: zipfile.ZipFile, path: Path) -> Manifest:
    """Return the manifest of an open archive.

    Raises:
        ArchiveInvalid: it is missing or damaged, or of another format.
    """
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
            f"{path} is no archive of a tenant: its {MANIFEST} is missing or damaged ({exc}). Give a file that "
            "archive_tenant has written, or another copy of it."
        ) from exc


def extract(box: zipfile.ZipFile, to: Path, manifest: Manifest, path: Path) -> None:
    """Write the dump that is in an open archive into a file.

    Raises:
        ArchiveInvalid: it is missing or damaged.
    """
    digest = hashlib.sha256()
    try:
        with box.open(DUMP) as entry, to.open("wb") as file:
            while piece := entry.read(_PIECE):
                digest.update(piece)
                file.write(piece)
    except KeyError as exc:
        raise ArchiveInvalid(
            f"{path} is no archive of a tenant: it has no {DUMP}. Give a file that archive_tenant has written."
        ) from exc
    except _DAMAGE as exc:
        raise ArchiveInvalid(f"{path} is damaged: {exc}. Use another copy of it.") from exc
    if digest.hexdigest() != manifest.sha256:
        raise ArchiveInvalid(
            f"{path} is damaged: its {DUMP} has another checksum than it was written with. Use another copy of it."
        )
