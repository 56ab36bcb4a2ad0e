"""Migrating one schema by itself, as Django's command does it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from django.apps import apps as installed
from django.core.management.commands.migrate import Command as MigrateCommand
from django.core.management.sql import emit_post_migrate_signal, emit_pre_migrate_signal
from django.db import DEFAULT_DB_ALIAS
from django.db.migrations.migration import Migration
from django.db.migrations.state import ModelState, ProjectState

from pg_tenants import schemas
from pg_tenants.context import ActiveContext
from pg_tenants.migrations._events import Event, Progress
from pg_tenants.migrations._executor import ModuleExecutor
from pg_tenants.migrations._plan import DEFAULTS, Options, names_of, planned
from pg_tenants.migrations._states import Plan
from pg_tenants.migrations._targets import Target
from pg_tenants.schemas import tenant_connection

__all__ = ["migrate_target"]


def migrate_target(
    target: Target,
    options: Options = DEFAULTS,
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
        goals, plan = planned(executor, options)
        names = names_of(plan)
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
