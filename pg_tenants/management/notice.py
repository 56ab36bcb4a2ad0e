"""The notice of pending migrations that ``runserver`` and other commands print.

Django's compares the record of one schema with the migrations of all apps, so it would always find some missing. Which
app's ``runserver`` is used depends on the order of INSTALLED_APPS, so the method that all commands share is replaced.
"""

from __future__ import annotations

from django.core.management.base import BaseCommand
from django.db import DEFAULT_DB_ALIAS, connections

from pg_tenants import migrations
from pg_tenants.backends.base import TenantDatabaseWrapperMixin
from pg_tenants.context import current_schema

__all__ = ["replace_notice"]

_djangos = BaseCommand.check_migrations


def replace_notice() -> None:
    """Make all commands' notice look at every schema, or in a tenant at its own."""
    BaseCommand.check_migrations = _check_migrations  # type: ignore[method-assign, assignment]


def _check_migrations(command: BaseCommand) -> None:
    connection = connections[DEFAULT_DB_ALIAS]
    if not isinstance(connection, TenantDatabaseWrapperMixin) or not connection.is_tenant_aware:
        _djangos(command)
        return
    active = current_schema()
    report = migrations.apply(migrations.Options(plan=True), names=[active] if active else ())
    if not report.changed:
        return
    names = ", ".join(result.schema for result in report.changed[:5]) + (", …" if len(report.changed) > 5 else "")
    counts = f"{len(report.changed)} of {len(report.results)} schemas ({names})"
    command.stdout.write(
        command.style.NOTICE(f"\nMigrations are pending in {counts}. Run 'python manage.py migrate_schemas'.\n")
    )
