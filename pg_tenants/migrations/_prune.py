"""Removing the records of migrations whose files are gone."""

from __future__ import annotations

import time
from collections.abc import Iterable

from django.db import DEFAULT_DB_ALIAS, DatabaseError, transaction
from django.db.migrations.recorder import MigrationRecorder

from pg_tenants.context import ActiveContext
from pg_tenants.exceptions import ConfigurationError, MigrationFailed
from pg_tenants.migrations._direct import direct
from pg_tenants.migrations._events import Event, Progress
from pg_tenants.migrations._executor import Key, ModuleLoader
from pg_tenants.migrations._history import read_histories
from pg_tenants.migrations._report import Report, SchemaResult
from pg_tenants.migrations._targets import Target, check_choice, choose, every_target
from pg_tenants.schemas import tenant_connection

__all__ = ["prune"]


def prune(
    app_label: str,
    *,
    using: str = DEFAULT_DB_ALIAS,
    names: Iterable[str] = (),
    modules: Iterable[str] = (),
    exclude: Iterable[str] = (),
    plan: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Delete from each schema's record the migrations of an app that have no file any more, as Django's ``--prune``.

    Args:
        app_label: the app.
        using: the database alias.
        names: schemas; none means all.
        modules: modules; none means all.
        exclude: patterns of schemas to leave alone.
        plan: delete nothing.
        progress: told of each schema.

    Returns:
        what was deleted in each schema, or with ``plan`` would be, as ``-app.name``.

    Raises:
        ConfigurationError: a schema, a module or the app is unknown.
        MigrationFailed: a squashed migration replaces one that has no file, and may not be recorded itself.
    """
    names, modules, exclude = list(names), list(modules), list(exclude)
    check_choice(using, names=names, modules=modules, exclude=exclude, app_label=app_label)
    loader = ModuleLoader(None, ())
    if app_label not in loader.migrated_apps:
        raise ConfigurationError(
            f"The app {app_label!r} has no migrations, so nothing of it can be pruned. Name an app that has some."
        )
    chosen = choose(every_target(using), names=names, modules=modules, exclude=exclude)
    targets = [target for target in chosen if target.problem or app_label in target.apps]
    histories = read_histories([target.schema for target in targets if not target.problem], using=using)
    gone = {
        target.schema: sorted(
            key
            for key in histories.get(target.schema) or ()
            if key[0] == app_label and key not in loader.disk_migrations
        )
        for target in targets
    }
    _refuse_replaced(loader, {key for keys in gone.values() for key in keys})
    tell = progress or (lambda event: None)
    tell(Event(kind="run", total=len(targets)))
    report = Report()
    with direct(using):
        for target in targets:
            started = time.monotonic()
            known = histories.get(target.schema) is not None
            result = _prune_one(target, gone[target.schema], using, is_known=known, plan=plan)
            result.seconds = time.monotonic() - started
            report.results.append(result)
            tell(
                Event(
                    kind="done" if result.error is None else "failed",
                    target=target,
                    migrations=tuple(result.applied),
                    detail="" if result.error is None else str(result.error),
                    seconds=result.seconds,
                )
            )
    return report


def _prune_one(target: Target, keys: list[Key], using: str, *, is_known: bool, plan: bool) -> SchemaResult:
    result = SchemaResult(target.schema, target.module_names)
    if target.problem or not is_known:
        result.error = target.problem or MigrationFailed(
            f"The record of migrations of the schema {target.schema!r} cannot be read: it is not there, another "
            "session has locked it, or django_migrations is not as Django makes it. Run the command again."
        )
        return result
    result.applied = [f"-{label}.{name}" for label, name in keys]
    if not plan:
        result.error = _delete(target, keys, using)
    return result


def _delete(target: Target, keys: list[Key], using: str) -> Exception | None:
    try:
        if keys:
            with ActiveContext(target.active), transaction.atomic(using=using):
                recorder = MigrationRecorder(tenant_connection(using))
                for label, name in keys:
                    recorder.record_unapplied(label, name)
    except DatabaseError as exc:
        return exc
    return None


def _refuse_replaced(loader: ModuleLoader, gone: set[Key]) -> None:
    squashed = {
        f"{label}.{name}"
        for (label, name), migration in loader.replacements.items()
        if any(replaced in gone for replaced in migration.replaces)
    }
    if squashed:
        raise MigrationFailed(
            f"Nothing was pruned: {', '.join(sorted(squashed))} still has 'replaces', and a schema that knows only the "
            "migrations which it replaces would lose their record. Apply it everywhere, delete 'replaces' in it, then "
            "prune."
        )
