"""Migrating: every module in every schema."""

from __future__ import annotations

import sys
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TextIO

from django.apps import apps as installed
from django.core.management.commands.migrate import Command as MigrateCommand
from django.core.management.sql import emit_post_migrate_signal, emit_pre_migrate_signal
from django.db import DEFAULT_DB_ALIAS
from django.db.migrations.loader import AmbiguityError
from django.db.migrations.migration import Migration
from django.db.migrations.state import ModelState, ProjectState

from pg_tenants import extensions, roles, schemas
from pg_tenants.conf import nearest
from pg_tenants.context import ActiveContext
from pg_tenants.exceptions import ConfigurationError, MigrationFailed, PgTenantsError
from pg_tenants.migrations._events import Event, Progress
from pg_tenants.migrations._executor import Key, ModuleExecutor, ModuleLoader
from pg_tenants.migrations._history import History, read_histories
from pg_tenants.migrations._report import Report, SchemaResult
from pg_tenants.migrations._targets import Target, choose, fixed_targets, required_registry, tenant_targets
from pg_tenants.schemas import tenant_connection

__all__ = ["Options", "apply", "migrate_target", "prepare_database"]

_MIGRATING = 0x7067746D
"""The first half of the advisory locks that runs take turns by; the other half is the schema's."""

Plan = list[tuple[Migration, bool]]


@dataclass(frozen=True, slots=True)
class Options:
    """What to do in each schema; the fields mean what the options of Django's ``migrate`` mean."""

    app_label: str | None = None
    migration_name: str | None = None
    fake: bool = False
    fake_initial: bool = False
    plan: bool = False
    run_syncdb: bool = False
    verbosity: int = 1
    interactive: bool = False
    stdout: TextIO | None = None


def apply(
    options: Options = Options(),
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
    _refuse_conflicts(loader)
    _refuse_unknown_app(loader, options)
    fixed = fixed_targets(using)
    fixed_names = {target.schema for target in fixed}
    if not options.plan:
        with _turn("", using, options):
            prepare_database(using, fixed)
    report = Report()
    # Tenants are listed after the fixed modules are migrated: their table may be one of them.
    first = choose(fixed, names=[name for name in names if name in fixed_names], modules=modules, exclude=exclude)
    if names and not fixed_names & set(names):
        first = []
    _run_all(first, options, using, report, progress)
    if report.failed:
        return report
    if not options.plan:
        with _turn("", using, options):
            roles.ensure_shared(using=using)
    rest = [name for name in names if name not in fixed_names]
    if not names or rest:
        _run_all(
            choose(tenant_targets(using), names=rest, modules=modules, exclude=exclude),
            options,
            using,
            report,
            progress,
        )
    if not options.plan:
        _give_roles(report, using)
    return report


class _WrongOptions(ConfigurationError):
    """The migration asked for does not exist: no schema's fault, so nothing is gone on with."""


@contextmanager
def _turn(schema: str, using: str, options: Options) -> Iterator[None]:
    """Wait until no other run migrates this schema; an empty one stands for what all share."""
    if options.plan:
        yield
        return
    # A connection of its own, whose transaction holds the lock: migrations have transactions of their own, and a lock
    # of the session would not survive a pooler.
    holder = tenant_connection(using).copy()
    try:
        with holder.without_prefix() as execute:
            execute(
                "BEGIN; SET LOCAL lock_timeout = 0; SET LOCAL statement_timeout = 0; "
                "SET LOCAL idle_in_transaction_session_timeout = 0; "
                f"SELECT pg_catalog.pg_advisory_xact_lock({_MIGRATING}, {zlib.crc32(schema.encode()) - 2**31})"
            )
            yield
            execute("ROLLBACK")
    finally:
        holder.close()


def prepare_database(using: str, fixed: Sequence[Target]) -> None:
    """Install the modules' extensions and make the fixed modules' schemas."""
    modules = required_registry()
    connection = tenant_connection(using)
    connection.prepare_database()
    wanted = [name for module in modules if module.database == using for name in module.extensions]
    extensions.install(wanted, schema=modules.extensions_schema, using=using)
    for target in fixed:
        schemas.create(target.schema, using=using, if_not_exists=True)


def _run_all(
    targets: Sequence[Target], options: Options, using: str, report: Report, progress: Progress | None
) -> None:
    chosen = [target for target in targets if target.problem or options.app_label in (None, *target.apps)]
    histories = read_histories([target.schema for target in chosen if not target.problem], using=using)
    pending: dict[tuple[frozenset[str], History], list[str] | Exception] = {}
    if progress:
        progress(Event(kind="run", total=len(chosen)))
    for target in chosen:
        result = SchemaResult(target.schema, target.module_names)
        report.results.append(result)
        started = time.monotonic()
        try:
            if target.problem:
                raise target.problem
            known = _known_plan(target, histories.get(target.schema), options, using, pending)
            if known is None or (known and not options.plan):
                with _turn(target.schema, using, options):
                    result.applied = migrate_target(target, options, using=using, progress=progress)
            else:
                result.applied = list(known)
        except _WrongOptions:
            raise
        except Exception as exc:  # noqa: BLE001  # whatever a migration raises is this schema's result
            result.error = exc
        result.seconds = time.monotonic() - started
        if progress:
            progress(_ended(target, result))


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


def _ended(target: Target, result: SchemaResult) -> Event:
    if result.error is not None:
        return Event(kind="failed", target=target, detail=str(result.error).strip(), seconds=result.seconds)
    return Event(kind="done", target=target, migrations=tuple(result.applied), seconds=result.seconds)


def _known_plan(
    target: Target,
    history: History | None,
    options: Options,
    using: str,
    known: dict[tuple[frozenset[str], History], list[str] | Exception],
) -> list[str] | None:
    """Return what is to be run in a schema, from its history alone; None where the schema has to be looked at.

    Schemas with the same apps and the same history have the same plan, which is made once.
    """
    if history is None or options.run_syncdb:
        return None
    key = (target.apps, history)
    if key not in known:
        try:
            _, plan = _planned(ModuleExecutor(tenant_connection(using), target.apps, history=history), options)
            known[key] = _names(plan)
        except _WrongOptions:
            raise
        except Exception as exc:  # noqa: BLE001  # that of each schema with this history
            known[key] = exc
    found = known[key]
    if isinstance(found, Exception):
        raise found
    return found


def _planned(executor: ModuleExecutor, options: Options) -> tuple[list[Any], Plan]:
    executor.loader.check_consistent_history(executor.connection)
    goals = _goals(executor, options)
    return goals, executor.migration_plan(goals)


def _names(plan: Plan) -> list[str]:
    return [("-" if backwards else "") + f"{m.app_label}.{m.name}" for m, backwards in plan]


def migrate_target(
    target: Target,
    options: Options = Options(),
    *,
    using: str = DEFAULT_DB_ALIAS,
    progress: Progress | None = None,
) -> list[str]:
    """Migrate one schema, and return the migrations that were run, or in a plan would be.

    Raises:
        Exception: whatever a migration raises; that migration is rolled back if it is atomic.
    """
    connection = tenant_connection(using)
    # Nothing is made for a plan, so a schema may still be missing; then it is taken for an empty one.
    blank = options.plan and not schemas.is_ready(target.schema, using=using)
    with ActiveContext(target.active):
        executor = ModuleExecutor(connection, target.apps, _callback(target, progress), history=() if blank else None)
        goals, plan = _planned(executor, options)
        names = _names(plan)
        if options.plan:
            return names
        if progress:
            progress(Event(kind="start", target=target))
        synced = _sync_unmigrated(executor, target, options, connection) if options.run_syncdb else []
        if plan or synced:
            _migrate(executor, goals, plan, options, connection)
        return names + synced


def _migrate(executor: ModuleExecutor, goals: list[Any], plan: Plan, options: Options, connection: Any) -> None:
    before = executor._create_project_state(with_applied_migrations=True)
    signal = {"stdout": options.stdout or sys.stdout, "plan": plan}
    emit_pre_migrate_signal(options.verbosity, options.interactive, connection.alias, apps=before.apps, **signal)
    after: ProjectState = executor.migrate(
        goals, plan=plan, state=before.clone(), fake=options.fake, fake_initial=options.fake_initial
    )
    # Receivers of post_migrate see apps without migrations as they are installed, as Django's command does it.
    after.clear_delayed_apps_cache()
    rendered = after.apps
    with rendered.bulk_update():
        keys = [(state.app_label, state.name_lower) for state in rendered.real_models]
        for key in keys:
            rendered.unregister_model(*key)
    rendered.render_multiple([ModelState.from_model(installed.get_model(*key)) for key in keys])
    emit_post_migrate_signal(options.verbosity, options.interactive, connection.alias, apps=rendered, **signal)


def _callback(target: Target, progress: Progress | None) -> Callable[..., None] | None:
    if progress is None:
        return None
    tell = progress

    def callback(action: str, migration: Migration | None = None, fake: bool = False) -> None:
        if action in ("apply_success", "unapply_success") and migration is not None:
            verb, sign = ("Unapplied", "-") if action.startswith("un") else ("Applied", "")
            name = f"{migration.app_label}.{migration.name}"
            detail = f"{verb} {name}{' (faked)' if fake else ''}"
            tell(Event(kind="migration", target=target, migrations=(sign + name,), detail=detail))

    return callback


def _refuse_conflicts(loader: ModuleLoader) -> None:
    conflicts = loader.detect_conflicts()
    if conflicts:
        names = "; ".join(f"{', '.join(names)} in {app}" for app, names in sorted(conflicts.items()))
        raise MigrationFailed(
            f"Conflicting migrations: there are several leaf nodes in the migration graph ({names}). Run "
            "'python manage.py makemigrations --merge'."
        )


def _refuse_unknown_app(loader: ModuleLoader, options: Options) -> None:
    label = options.app_label
    if label is None:
        return
    if label not in installed.app_configs:
        known = [config.label for config in installed.get_app_configs()]
        raise ConfigurationError(f"No installed app has the label {label!r}. {nearest(label, known)}")
    if not required_registry().of_app(label):
        raise ConfigurationError(
            f"The app {label!r} is in no module, so no schema has its tables. Add it to a module of "
            "PG_TENANTS['MODULES']."
        )
    if label not in loader.migrated_apps and not options.run_syncdb:
        raise ConfigurationError(f"The app {label!r} has no migrations. Run 'python manage.py makemigrations {label}'.")


def _goals(executor: ModuleExecutor, options: Options) -> list[Any]:
    """Return the targets of Django's executor."""
    label, name = options.app_label, options.migration_name
    if label is None:
        return executor.own_targets()
    if name is None:
        return [key for key in executor.loader.graph.leaf_nodes() if key[0] == label]
    if name == "zero":
        return [(label, None)]
    try:
        migration = executor.loader.get_migration_by_prefix(label, name)
    except AmbiguityError as exc:
        raise _WrongOptions(f"More than one migration of {label!r} begins with {name!r}. Give more of it.") from exc
    except KeyError as exc:
        raise _WrongOptions(
            f"The app {label!r} has no migration that begins with {name!r}. See 'manage.py showmigrations {label}'."
        ) from exc
    key: Key = (label, migration.name)
    if key not in executor.loader.graph.nodes and key in executor.loader.replacements:
        key = executor.loader.replacements[key].replaces[-1]
    return [key]


def _sync_unmigrated(executor: ModuleExecutor, target: Target, options: Options, connection: Any) -> list[str]:
    """Make the tables of apps without migrations, as Django's ``--run-syncdb`` does; return them as ``app.table``."""
    labels = executor.loader.unmigrated_apps & target.apps
    if options.app_label:
        labels &= {options.app_label}
    if not labels:
        return []
    with connection.cursor() as cursor:
        before = set(connection.introspection.table_names(cursor))
        command = MigrateCommand(stdout=options.stdout)
        command.verbosity = 0
        connection.qualifies_own_tables = True
        try:
            command.sync_apps(connection, labels)
        finally:
            connection.qualifies_own_tables = False
        return [f"(tables).{name}" for name in connection.introspection.table_names(cursor) if name not in before]
