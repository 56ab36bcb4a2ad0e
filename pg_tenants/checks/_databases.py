"""What only the database knows: its server, extensions, roles, templates, and tables that were left."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from django.core.checks import CheckMessage, Error, Warning  # noqa: A004  # Django's own names
from django.db import OperationalError, connections
from django.db.utils import DatabaseError, NotSupportedError, ProgrammingError

from pg_tenants import roles
from pg_tenants.backends.base import TenantDatabaseWrapperMixin
from pg_tenants.context import no_schema
from pg_tenants.exceptions import ConfigurationError, PgTenantsError
from pg_tenants.extensions import missing, wanted
from pg_tenants.known_extensions import EXTENSION_NAME, ONLY_LIBRARIES, PRELOADED, remedy
from pg_tenants.migrations import MovedTables, Target, moved_tables, required_registry, tenant_targets
from pg_tenants.modules import registry
from pg_tenants.provisioning import template
from pg_tenants.provisioning.locks import max_locks_needed

__all__ = ["check_databases"]

SHOWN = 5
"""How many schemas a message names."""


def check_databases(databases: Sequence[str] | None = None, **kwargs: Any) -> list[CheckMessage]:
    """Find servers that cannot be reached, are too old, or lack what the modules need."""
    found: list[CheckMessage] = []
    for alias in databases or ():
        connection = connections[alias]
        if isinstance(connection, TenantDatabaseWrapperMixin) and _tenant_aware(connection):
            try:
                with no_schema():
                    connection.ensure_connection()
                    found.extend(_database_problems(connection, alias))
                    found.extend(_moved_apps(alias))
                    found.extend(_roles(connection, alias))
                    found.extend(_refused_templates(alias))
            except NotSupportedError as exc:
                found.append(Error(f"DATABASES[{alias!r}]: {exc}", hint="Upgrade the server.", id="pg_tenants.E021"))
            except PgTenantsError as exc:
                found.append(
                    Error(f"DATABASES[{alias!r}] cannot be used: {exc}", hint="See the message.", id="pg_tenants.E020")
                )
            except OperationalError as exc:
                message, _, hint = str(exc).rpartition("\n")
                found.append(Error(f"DATABASES[{alias!r}] cannot be used: {message}", hint=hint, id="pg_tenants.E020"))
            except DatabaseError as exc:
                found.append(
                    Error(f"DATABASES[{alias!r}] cannot be used: {exc}", hint="See the message.", id="pg_tenants.E020")
                )
    return found


def _tenant_aware(connection: TenantDatabaseWrapperMixin) -> bool:
    try:
        return connection.is_tenant_aware
    except ConfigurationError:
        return False  # That is another check's to say.


def _database_problems(connection: Any, alias: str) -> Iterator[CheckMessage]:
    modules = registry()
    assert modules is not None
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT current_user, current_database(), has_database_privilege(current_database(), 'CREATE'),"
            # Hidden from roles without pg_read_all_settings.
            " (SELECT setting FROM pg_catalog.pg_settings WHERE name = 'shared_preload_libraries')"
        )
        user, database, permitted, preloaded = cursor.fetchone()
        if not permitted:
            yield Warning(
                f"The role {user!r} may not create schemas in the database {database!r}, so it can neither migrate the "
                "first time nor create tenants.",
                hint=f'Run GRANT CREATE ON DATABASE "{database}" TO "{user}" as the database\'s owner.',
                id="pg_tenants.W022",
            )
        needed, current = max_locks_needed(using=alias)
        if current < needed:
            yield Warning(
                f"max_locks_per_transaction is {current}. Creating or dropping several tenants at once takes more "
                "locks than the server has.",
                hint=f"Set max_locks_per_transaction to {needed} or more and restart the server.",
                id="pg_tenants.W024",
            )
        lacking = [name for name in missing(wanted(alias), using=alias) if EXTENSION_NAME.fullmatch(name)]
        cursor.execute("SELECT name FROM pg_catalog.pg_available_extensions WHERE name = ANY(%s)", [lacking])
        available = {name for (name,) in cursor.fetchall()}
    loaded = None if preloaded is None else {entry.strip() for entry in preloaded.split(",")}
    for name in lacking:
        if name not in available and name not in ONLY_LIBRARIES:
            yield Error(
                f"The extension {name!r}, which a module needs, is not available on the server of {alias!r}.",
                hint=f"{remedy(name, str(connection.pg_version // 10000))}.",
                id="pg_tenants.E023",
            )
        elif loaded is not None and name in PRELOADED and name not in loaded:
            yield Error(
                f"The extension {name!r} has to be loaded when the server starts, and is not.",
                hint=f"Add {name} to shared_preload_libraries in postgresql.conf and restart the server.",
                id="pg_tenants.E025",
            )


def _roles(connection: TenantDatabaseWrapperMixin, alias: str) -> Iterator[CheckMessage]:
    if not connection.uses_roles:
        unneeded = roles.leftovers(using=alias)
        if unneeded:
            yield Warning(
                f"PG_TENANTS['ROLES'] is off, and {len(unneeded)} roles are left: {_some(unneeded)}.",
                hint="Run 'manage.py tenant_roles --sync', which removes them.",
                id="pg_tenants.W073",
            )
        return
    targets = [target.schema for target in tenant_targets(alias) if not target.problem]
    lacking = [state for state in roles.states(targets, using=alias) if state.lacking]
    if lacking:
        yield Warning(
            f"The roles of {len(lacking)} tenants are not as PG_TENANTS['ROLES'] needs them: "
            + _some([f"{state.schema} ({', '.join(state.lacking)})" for state in lacking])
            + ". Their statements are refused.",
            hint="Run 'manage.py migrate_schemas', or 'manage.py tenant_roles --sync'.",
            id="pg_tenants.W072",
        )
    if not roles.may_create(using=alias):
        yield Warning(
            f"PG_TENANTS['ROLES'] is on, and the role of DATABASES[{alias!r}] may not make roles, so it can neither "
            "create nor delete tenants.",
            hint="Run ALTER ROLE … CREATEROLE as a superuser, or do this by another role.",
            id="pg_tenants.W074",
        )


def _refused_templates(alias: str) -> Iterator[CheckMessage]:
    for target in (Target("", (module,)) for module in required_registry().tenant if module.database == alias):
        found = template.load(target, using=alias)
        if isinstance(found, template.Refused):
            yield Warning(
                f"The module {found.key!r} has no template, so its schemas are made by running all migrations: "
                f"{found.reason}.",
                hint="See the explanation of provisioning for what its migrations would have to do otherwise.",
                id="pg_tenants.W060",
            )


def _moved_apps(alias: str) -> Iterator[CheckMessage]:
    try:
        moved = moved_tables(alias)
    except ProgrammingError:
        return  # The tenants' own table is not migrated yet.
    groups: dict[tuple[str, bool], list[MovedTables]] = {}
    for entry in moved:
        groups.setdefault((entry.app, entry.target.tenant is None), []).append(entry)
    for (label, fixed), entries in groups.items():
        names = [entry.target.schema for entry in entries]
        schemas = ", ".join(map(repr, names[:SHOWN])) + (f" and {len(names) - SHOWN} more" if names[SHOWN:] else "")
        tables = ", ".join(sorted({table for entry in entries for table in entry.tables}))
        recorded = max(entry.recorded for entry in entries)
        left = f"tables ({tables})" + (f" and {recorded} rows of django_migrations" if recorded else "")
        text = (
            f"The app {label!r} has left {left} in the schema{'s' * (len(names) > 1)} {schemas}, where it is no more."
        )
        if fixed:
            yield Warning(
                f"{text} They are read wherever no tenant's table of that name is found first.",
                hint="Move the rows to the tenants and drop the old tables: see the how-to 'Move an app'.",
                id="pg_tenants.W071",
            )
        else:
            yield Warning(
                f"{text} While such a tenant is active, they are found before the shared tables.",
                hint="Move the rows to the shared tables and drop the old ones: see the how-to 'Move an app'.",
                id="pg_tenants.W070",
            )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if names[SHOWN:] else "")
