"""The one place where test runs make schemas: by templates, which are kept in the test database.

A template is found by the fingerprint of all that decides how a schema looks, so one that is found is never stale.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Sequence
from typing import Any

from django.core.management import call_command
from django.db.models.signals import post_migrate

from pg_tenants import extensions, schemas
from pg_tenants.context import no_schema
from pg_tenants.migrations import Options, Target, migrate_target, required_registry
from pg_tenants.names import MARKER_TABLE
from pg_tenants.provisioning import template
from pg_tenants.provisioning.fingerprint import receiver_of
from pg_tenants.test._lock import literal, turn

__all__ = ["fill", "has_templates", "identity", "make_schemas", "make_templates", "make_tenant_schema"]

_OTHER_SCHEMAS = """
SELECT DISTINCT n.nspname
FROM pg_catalog.pg_extension e
JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace
LEFT JOIN pg_catalog.pg_available_extension_versions v ON v.name = e.extname AND v.version = e.extversion
WHERE n.nspname NOT IN ('pg_catalog', {schema}) AND v.schema IS NULL
    AND NOT EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.relnamespace = n.oid AND c.relname = {marker})
ORDER BY 1
"""


def make_schemas(connection: Any, targets: Sequence[Target], verbosity: int) -> None:
    """Make the fixed modules' schemas of a worker where they are missing, and what they need of the database.

    Args:
        connection: the connection of the test database.
        targets: the fixed modules' schemas on it.
        verbosity: as of Django's runner.
    """
    alias = connection.alias
    if not has_templates(connection):
        with turn(connection, "build"):
            call_command("migrate", verbosity=max(verbosity - 1, 0), interactive=False, database=alias, run_syncdb=True)
        return
    make_templates(connection, targets)
    for target in targets:
        if schemas.create(target.schema, using=alias, if_not_exists=True):
            template.fill(target, using=alias)


def make_templates(connection: Any, targets: Sequence[Target]) -> None:
    """Install the modules' extensions and make their templates, where they are missing, which all workers share."""
    modules, alias = required_registry(), connection.alias
    wanted = extensions.wanted(alias)
    tenants = [Target(module.name, (module,)) for module in modules.tenant if module.database == alias]

    def missing() -> list[Target]:
        return [target for target in (*targets, *tenants) if template.load(target, using=alias) is None]

    _see_extensions(connection)
    with no_schema():
        if not extensions.missing(wanted, using=alias) and not missing():
            return
        with turn(connection, "build"):
            connection.prepare_database()
            extensions.install(wanted, schema=modules.extensions_schema, using=alias)
            _see_extensions(connection)
            for target in missing():
                template.build(target, using=alias, once=True)


def _see_extensions(connection: Any) -> None:
    """Put schemas on the path that have extensions of the database, besides the extensions' schema.

    In a test database that somebody else has prepared, an extension may be where the project would not put it; there it
    stays. Schemas that an extension insists on are left out, and so are tenants' and fixed modules'.
    """
    query = _OTHER_SCHEMAS.format(schema=literal(required_registry().extensions_schema), marker=literal(MARKER_TABLE))
    with connection.without_prefix() as execute:
        found = tuple(name for (name,) in execute(query).fetchall())
    if found != connection.tenant_options.path:
        options = connection.settings_dict["OPTIONS"]
        connection.settings_dict["OPTIONS"] = {**options, "tenants": {**(options.get("tenants") or {}), "path": found}}
        connection.read_options()


def identity(connection: Any, target: Target) -> str:
    """Return what tells apart how a schema is made; empty for one that is to be made anew in each run.

    That is the template, and what receivers of ``post_migrate`` write besides: those of an installed package do the
    same as long as its version does; what others do is not known.
    """
    found = template.load(target, using=connection.alias) if has_templates(connection) else None
    receivers = _receivers()
    if not isinstance(found, template.Script) or receivers is None:
        return ""
    text = "\n".join([*receivers, *found.migrations, found.definitions, found.rows])
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _receivers() -> list[str] | None:
    """Return the packages of the receivers of ``post_migrate`` with their versions, or None if one has no version."""
    found = set()
    for entry in post_migrate.receivers:
        package = str(getattr(receiver_of(entry), "__module__", None) or "").partition(".")[0]
        try:
            found.add(f"{package} {importlib.metadata.version(package)}")
        except (importlib.metadata.PackageNotFoundError, ValueError):
            return None
    return sorted(found)


def fill(target: Target, *, using: str) -> None:
    """Fill a schema that has just been made."""
    if has_templates(schemas.tenant_connection(using)):
        template.fill(target, using=using)
    else:
        migrate_target(target, Options(verbosity=0, interactive=False, run_syncdb=True), using=using)


def make_tenant_schema(target: Target, *, using: str) -> None:
    """Make one schema of a worker, with all tables, or none."""
    schemas.create(target.schema, using=using)
    try:
        fill(target, using=using)
    except BaseException:
        schemas.drop(target.schema, using=using)
        raise


def has_templates(connection: Any) -> bool:
    """Return whether schemas are made by templates: not for an alias that has one schema."""
    return bool(connection.is_tenant_aware)
