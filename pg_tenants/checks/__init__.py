"""System checks. Each has an id of its own; docs/reference/checks lists them."""

from __future__ import annotations

from django.core import checks
from django.core.checks import Tags

from pg_tenants.checks._common import MIDDLEWARE
from pg_tenants.checks._databases import check_databases
from pg_tenants.checks._deployment import check_deployment
from pg_tenants.checks._installation import check_installation
from pg_tenants.checks._redflags import check_deployed_migrations, check_migrations, check_pools, check_sql_files
from pg_tenants.checks._servers import check_pgserver
from pg_tenants.checks._settings import check_models, check_modules, check_settings
from pg_tenants.checks._sqlfiles import check_sql_migrations
from pg_tenants.checks._surroundings import check_admin, check_surroundings

__all__ = [
    "MIDDLEWARE",
    "check_admin",
    "check_databases",
    "check_deployed_migrations",
    "check_deployment",
    "check_installation",
    "check_migrations",
    "check_models",
    "check_modules",
    "check_pgserver",
    "check_pools",
    "check_settings",
    "check_sql_files",
    "check_sql_migrations",
    "check_surroundings",
    "register",
]


def register() -> None:
    """Register the checks."""
    checks.register(check_settings)
    checks.register(check_modules)
    checks.register(check_sql_migrations)
    checks.register(check_sql_files)
    checks.register(check_migrations, Tags.database)
    checks.register(check_deployed_migrations, deploy=True)
    checks.register(check_pools)
    checks.register(check_models, Tags.models)
    checks.register(check_installation)
    checks.register(check_surroundings)
    checks.register(check_admin, Tags.admin)
    checks.register(check_pgserver)
    checks.register(check_deployment, deploy=True)
    checks.register(check_databases, Tags.database)
