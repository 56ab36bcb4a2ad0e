"""The notice of pending migrations that ``runserver`` and other commands print, or what runs them instead.

Django's compares the record of one schema with the migrations of all apps, so it would always find some missing. Which
app's ``runserver`` is used depends on the order of INSTALLED_APPS, so the method that all commands share is replaced.
"""

from __future__ import annotations

from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError
from django.db import DEFAULT_DB_ALIAS, DatabaseError, connections

from pg_tenants import conf, migrations
from pg_tenants.backends.base import TenantDatabaseWrapperMixin
from pg_tenants.context import current_schema

__all__ = ["replace_notice"]

_djangos = BaseCommand.check_migrations


def replace_notice() -> None:
    """Make all commands' notice look at every schema, or in a tenant at its own."""
    BaseCommand.check_migrations = _check_migrations  # type: ignore[method-assign, assignment]


def _check_migrations(command: BaseCommand) -> None:
    if conf.auto_migrates() and current_schema() is None and type(command).__module__.endswith(".runserver"):
        _migrate(command)
    else:
        _tell(command)


def _migrate(command: BaseCommand) -> None:
    command.stdout.write("Bringing all schemas up to date, as PG_TENANTS['AUTO_MIGRATE'] is on.")
    try:
        # The server's own checks have been run; the streams themselves end lines as the command there does.
        call_command("migrate_schemas", interactive=False, stdout=command.stdout._out, stderr=command.stderr._out)
    except (CommandError, DatabaseError) as exc:
        # As with Django's notice, the server starts all the same, and starts anew when the code was put right.
        command.stderr.write(f"Not all schemas are up to date. {exc}")


def _tell(command: BaseCommand) -> None:
    connection = connections[DEFAULT_DB_ALIAS]
    if not isinstance(connection, TenantDatabaseWrapperMixin) or not connection.is_tenant_aware:
        _djangos(command)
        return
    active, plan = current_schema(), migrations.Options(plan=True)
    chosen = migrations.choices(names=[active] if active else ())
    reports = [migrations.apply(plan, using=alias, names=choice["names"]) for alias, choice in chosen.items()]
    changed = [result.schema for report in reports for result in report.changed]
    if not changed:
        return
    names = ", ".join(changed[:5]) + (", …" if len(changed) > 5 else "")
    counts = f"{len(changed)} of {sum(len(report.results) for report in reports)} schemas ({names})"
    command.stdout.write(
        command.style.NOTICE(f"\nMigrations are pending in {counts}. Run 'python manage.py migrate_schemas'.\n")
    )
