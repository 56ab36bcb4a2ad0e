"""The one place where test runs make schemas: by templates, which are kept in the test database.

A template is found by the fingerprint of all that decides how a schema looks, so one that is found is never stale.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.conf import settings
from django.core.management import call_command

from pg_tenants import schemas
from pg_tenants.context import no_schema
from pg_tenants.migrations import Options, Target, migrate_target, prepare_database, required_registry
from pg_tenants.provisioning import template
from pg_tenants.test._lock import turn

__all__ = ["make_schemas", "make_tenant_schema"]


def make_schemas(connection: Any, targets: Sequence[Target], verbosity: int) -> None:
    """Make the fixed modules' schemas of a worker, and what all workers share: extensions and templates.

    Args:
        connection: the connection of the test database.
        targets: the fixed modules' schemas on it.
        verbosity: as of Django's runner.
    """
    alias = connection.alias
    if not connection.is_tenant_aware or not _has_migrations():
        with turn(connection, "build"):
            call_command(
                "migrate", verbosity=max(verbosity - 1, 0), interactive=False, database=alias, run_syncdb=True
            )
        return
    modules = required_registry()
    tenants = [Target(module.name, (module,)) for module in modules.tenant if module.database == alias]
    with no_schema(), turn(connection, "build"):
        prepare_database(alias, targets)
        for target in (*targets, *tenants):
            if template.load(target, using=alias) is None:
                template.build(target, using=alias, once=True)
    for target in targets:
        template.fill(target, using=alias)


def make_tenant_schema(target: Target, *, using: str) -> None:
    """Make one schema of a worker, with all tables."""
    schemas.create(target.schema, using=using)
    if _has_migrations():
        template.fill(target, using=using)
    else:
        migrate_target(target, Options(verbosity=0, interactive=False, run_syncdb=True), using=using)


def _has_migrations() -> bool:
    """Return whether migrations are to be run; without, the tables are those of the models, and no template is kept."""
    return not hasattr(settings.MIGRATION_MODULES, "__contains__") or isinstance(settings.MIGRATION_MODULES, dict)
