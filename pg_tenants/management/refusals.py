"""What keeps commands, Django's own and others', from passing over tables that are not where they run.

The methods that all commands share are replaced, so it holds for every app's commands, in whatever order
INSTALLED_APPS lists them.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import DEFAULT_DB_ALIAS, connections
from django.db.migrations.loader import MigrationLoader
from django.db.utils import OperationalError, ProgrammingError

from pg_tenants import schemas
from pg_tenants.backends.base import TenantDatabaseWrapperMixin
from pg_tenants.backends.errors import NO_TENANT
from pg_tenants.context import ActiveContext, active, as_owner
from pg_tenants.exceptions import PgTenantsError
from pg_tenants.migrations import ModuleLoader, Target, fixed_targets, required_registry

__all__ = ["is_tenant_aware", "refuse_absent", "replace_methods", "targets_here"]

GIVEN: tuple[str, ...] = ()
APPS_OF = {
    "dumpdata": GIVEN,
    "remove_stale_contenttypes": ("contenttypes",),
    "showmigrations": GIVEN,
    "sqlmigrate": GIVEN,
    "sqlsequencereset": GIVEN,
}
"""Commands of Django that say nothing of tables which are elsewhere: whose tables they are to find."""

MAKES_TABLES = ("createcachetable",)
"""Commands of Django that send DDL as any statement, which the tables' owner alone may do."""

_djangos_execute = BaseCommand.execute
_djangos_check_history = MigrationLoader.check_consistent_history


def replace_methods() -> None:
    """Make all commands refuse what has no tables here, and look at each schema's own record of migrations."""
    BaseCommand.execute = _execute  # type: ignore[method-assign, assignment]
    MigrationLoader.check_consistent_history = _check_history  # type: ignore[method-assign, assignment]


def is_tenant_aware(alias: str) -> bool:
    """Return whether the active schema decides where an alias's statements run."""
    connection = connections[alias]
    return isinstance(connection, TenantDatabaseWrapperMixin) and connection.is_tenant_aware


def targets_here(using: str) -> list[Target]:
    """Return the schemas that a command works on: the active one, or without it the fixed modules'."""
    target = active()
    if target is None:
        return fixed_targets(using)
    here = required_registry().of_active(target)
    modules = tuple(module for module in here if module.database == using)
    return [Target(target.schema_name, modules, target.tenant)] if modules else []


def refuse_absent(labels: Iterable[str], using: str, command: str) -> None:
    """Refuse apps that have no tables where a command runs.

    Args:
        labels: labels of apps, or of models as ``app.Model``.
        using: the database alias.
        command: its name, for the message.

    Raises:
        CommandError: there is such an app; the message says where its tables are.
    """
    modules = required_registry()
    here = {label for target in targets_here(using) for label in target.apps}
    for label in dict.fromkeys(entry.partition(".")[0] for entry in labels):
        homes = modules.of_app(label)
        if not homes or label in here:
            continue
        names = ", ".join(repr(module.name) for module in homes)
        where = "while no tenant is active" if (target := active()) is None else f"in the schema {target.schema_name!r}"
        fixed = next((module for module in homes if module.is_fixed), None)
        elsewhere = f" and with --database {fixed.database}" if fixed and fixed.database != using else ""
        remedy = f"without a tenant{elsewhere}" if fixed else _in_tenants(command)
        raise CommandError(f"The app {label!r} has no tables {where}: it is in {names}. Run it {remedy}.")


def _in_tenants(command: str) -> str:
    return f"as 'manage.py tenant_command --schema NAME {command} …', or with --all for every tenant"


def _execute(command: BaseCommand, /, *args: Any, **options: Any) -> Any:
    name = type(command).__module__.rpartition(".")[2]
    alias = options.get("database") or DEFAULT_DB_ALIAS
    if name in APPS_OF and is_tenant_aware(alias):
        given = options.get("app_label") or ()
        labels = (*args, given) if isinstance(given, str) else (*args, *given)
        refuse_absent(APPS_OF[name] or labels, alias, name)
    try:
        with as_owner() if name in MAKES_TABLES else nullcontext():
            return _djangos_execute(command, *args, **options)
    except PgTenantsError as exc:
        raise CommandError(str(exc)) from exc
    except OperationalError as exc:
        # In Python, callers expect Django's error.
        on_command_line = getattr(command, "_called_from_command_line", False)
        if not (on_command_line and hasattr(exc.__cause__, "connection_hint")):
            raise
        raise CommandError(str(exc)) from exc
    except ProgrammingError as exc:
        if NO_TENANT not in getattr(exc, "__notes__", ()):
            raise
        what = str(exc).partition("\n")[0]
        raise CommandError(
            f"{what}, and no tenant is active. For tenants' tables run it {_in_tenants(name)}; for fixed modules' "
            "tables run migrate_schemas first."
        ) from exc


def _check_history(loader: MigrationLoader, connection: Any) -> None:
    """Check each schema against its own record; Django's compares one schema's with the migrations of all apps."""
    if not is_tenant_aware(connection.alias):
        _djangos_check_history(loader, connection)
        return
    for target in targets_here(connection.alias):
        if schemas.is_ready(target.schema, using=connection.alias):
            with ActiveContext(target.active):
                ModuleLoader(connection, target.apps).check_consistent_history(connection)
