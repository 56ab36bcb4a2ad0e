"""Migrating: every module in every schema."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from django.db import DEFAULT_DB_ALIAS

from pg_tenants import extensions, schemas
from pg_tenants.migrations._events import Progress
from pg_tenants.migrations._executor import ModuleLoader
from pg_tenants.migrations._fleet import Fleet
from pg_tenants.migrations._locks import Turns
from pg_tenants.migrations._plan import DEFAULTS, Options, refuse_conflicts, refuse_unknown_app
from pg_tenants.migrations._report import Report
from pg_tenants.migrations._targets import Target, choose, fixed_targets, required_registry, tenant_targets
from pg_tenants.schemas import tenant_connection

__all__ = ["apply", "prepare_database"]


def apply(
    options: Options = DEFAULTS,
    *,
    using: str = DEFAULT_DB_ALIAS,
    names: Iterable[str] = (),
    modules: Iterable[str] = (),
    exclude: Iterable[str] = (),
    progress: Progress | None = None,
) -> Report:
    """Migrate the schemas that live on an alias: fixed modules first, then tenants.

    A schema that fails stops no other, except that no tenant is touched where a fixed module has failed.

    Args:
        options: what to do in each schema.
        using: the database alias.
        names: schemas; none means all.
        modules: modules; none means all.
        exclude: patterns of schemas to leave alone.
        progress: told what happens.

    Returns:
        what happened in each schema, errors included.

    Raises:
        ConfigurationError: a schema, module, app or migration is unknown.
        ExtensionUnavailable: a module's extension cannot be installed.
        SchemaNotPermitted: a fixed module's schema cannot be created.
        MigrationFailed: an app has migrations that conflict.
    """
    names, modules, exclude = list(names), list(modules), list(exclude)
    loader = ModuleLoader(None, ())
    refuse_conflicts(loader)
    refuse_unknown_app(loader, options)
    fixed = fixed_targets(using)
    fixed_names = {target.schema for target in fixed}
    if not options.plan:
        turns = Turns(tenant_connection(using))
        try:
            with turns.of(""):
                prepare_database(using, fixed)
        finally:
            turns.close()
    report = Report()
    fleet = Fleet(options, using, report, progress)
    # Tenants are listed after the fixed modules are migrated: their table may be one of them.
    first = choose(fixed, names=[name for name in names if name in fixed_names], modules=modules, exclude=exclude)
    if names and not fixed_names & set(names):
        first = []
    fleet.run(first)
    if report.failed:
        return report
    rest = [name for name in names if name not in fixed_names]
    if not names or rest:
        tenants = choose(tenant_targets(using), names=rest, modules=modules, exclude=exclude)
        fleet.run(tenants, jobs=options.jobs, canary=options.canary)
    return report


def prepare_database(using: str, fixed: Sequence[Target]) -> None:
    """Install the modules' extensions and make the fixed modules' schemas."""
    modules = required_registry()
    connection = tenant_connection(using)
    connection.prepare_database()
    wanted = [name for module in modules if module.database == using for name in module.extensions]
    extensions.install(wanted, schema=modules.extensions_schema, using=using)
    for target in fixed:
        schemas.create(target.schema, using=using, if_not_exists=True)
