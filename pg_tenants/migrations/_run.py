"""Migrating: every module in every schema."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from django.db import DEFAULT_DB_ALIAS

from pg_tenants import extensions, roles, schemas
from pg_tenants.exceptions import PgTenantsError
from pg_tenants.migrations._before import made_sure
from pg_tenants.migrations._events import Progress
from pg_tenants.migrations._executor import ModuleLoader
from pg_tenants.migrations._fleet import Fleet
from pg_tenants.migrations._locks import Turns
from pg_tenants.migrations._plan import DEFAULTS, Options, refuse_conflicts, refuse_unknown_app
from pg_tenants.migrations._report import Report
from pg_tenants.migrations._targets import Target, choose, fixed_targets, required_registry, tenant_targets
from pg_tenants.schemas import tenant_connection

__all__ = ["apply", "prepare_database"]


@made_sure
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
        MigrationFailed: an app has migrations that conflict, or what is asked for cannot be done, such as to unapply
            what is irreversible.
    """
    names, modules, exclude = list(names), list(modules), list(exclude)
    loader = ModuleLoader(None, ())
    refuse_conflicts(loader)
    refuse_unknown_app(loader, options)
    fixed = fixed_targets(using)
    fixed_names = {target.schema for target in fixed}
    if not options.plan:
        with _alone(using):
            prepare_database(using, fixed)
    report = Report()
    fleet = Fleet(options, using, report, progress)
    # Tenants are listed after the fixed modules are migrated: their table may be one of them.
    first = choose(fixed, names=[name for name in names if name in fixed_names], modules=modules, exclude=exclude)
    if names and not fixed_names & set(names):
        first = []
    fleet.run(first)
    if report.failed:
        report.stopped_by = "fixed module"
        return report
    if not options.plan:
        with _alone(using):
            roles.ensure_shared(using=using)
    rest = [name for name in names if name not in fixed_names]
    if not names or rest:
        tenants = choose(tenant_targets(using), names=rest, modules=modules, exclude=exclude)
        if not options.plan:
            # Those whose rows were not made by pg_tenants are nobody's.
            identities = {target.schema: target.tenant.schema_identity for target in tenants}
            with _alone(using):
                schemas.assign_missing(identities, using=using)
        fleet.run(tenants, jobs=options.jobs, canary=options.canary)
    if not options.plan:
        _give_roles(report, using)
    return report


@contextmanager
def _alone(using: str) -> Iterator[None]:
    """Wait until no other run changes what all schemas share."""
    turns = Turns(tenant_connection(using))
    try:
        with turns.of(""):
            yield
    finally:
        turns.close()


def prepare_database(using: str, fixed: Sequence[Target]) -> None:
    """Install the modules' extensions and make the fixed modules' schemas."""
    modules = required_registry()
    connection = tenant_connection(using)
    connection.prepare_database()
    extensions.install(extensions.wanted(using), schema=modules.extensions_schema, using=using)
    for target in fixed:
        schemas.create(target.schema, using=using, if_not_exists=True)


def _give_roles(report: Report, using: str) -> None:
    """Give the roles of tenants' schemas what they lack, read for all of them at once."""
    connection = tenant_connection(using)
    if not connection.uses_roles:
        return
    fixed = {target.schema for target in fixed_targets(using)}
    results = {
        connection.physical_schema(result.schema): result
        for result in report.results
        if result.schema not in fixed and not result.error
    }
    for state in roles.states([result.schema for result in results.values()], using=using):
        result = results[state.schema]
        try:
            if state.lacking and roles.ensure(result.schema, using=using):
                report.roles.append(result.schema)
        except PgTenantsError as exc:
            result.error = exc
