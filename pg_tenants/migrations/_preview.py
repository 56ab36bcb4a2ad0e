"""What a run would do, told without doing any of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from django.db import DEFAULT_DB_ALIAS, transaction
from django.db.migrations.migration import Migration

from pg_tenants import extensions, schemas
from pg_tenants.context import ActiveContext, no_schema
from pg_tenants.migrations._executor import ModuleExecutor
from pg_tenants.migrations._history import read_histories
from pg_tenants.migrations._plan import Options
from pg_tenants.migrations._report import Report
from pg_tenants.migrations._run import apply
from pg_tenants.migrations._targets import Target, every_target, fixed_targets
from pg_tenants.migrations._verify import in_transaction
from pg_tenants.schemas import tenant_connection

__all__ = ["Preview", "Script", "preview"]


@dataclass(slots=True)
class Script:
    """What would be run in schemas that have the same migrations pending.

    Attributes:
        schemas: their names.
        module: their module.
        migrations: what would be run, as ``app.name``; backwards ones begin with ``-``.
        sql: the statements, as far as they can be told, and comments; those that Django's ``sqlmigrate`` prints.
    """

    schemas: list[str]
    module: str
    migrations: list[str]
    sql: list[str]


@dataclass(slots=True)
class Preview:
    """What a run would do.

    Attributes:
        report: the migrations of each schema.
        extensions: extensions that would be installed.
        schemas: fixed modules' schemas that would be made.
        scripts: the SQL, once for all schemas that have the same migrations pending.
    """

    report: Report
    extensions: list[str] = field(default_factory=list)
    schemas: list[str] = field(default_factory=list)
    scripts: list[Script] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        scripts = [
            {"schemas": s.schemas, "module": s.module, "migrations": s.migrations, "sql": "\n".join(s.sql)}
            for s in self.scripts
        ]
        made = {"extensions": self.extensions, "schemas_to_create": self.schemas, "scripts": scripts}
        return {**self.report.as_dict(), **made}


def preview(
    options: Options,
    *,
    using: str = DEFAULT_DB_ALIAS,
    names: Iterable[str] = (),
    modules: Iterable[str] = (),
    exclude: Iterable[str] = (),
) -> Preview:
    """Return what ``apply`` would do. Nothing is written, and SQL is made out in transactions that may only read.

    Args:
        options: what would be done in each schema.
        using: the database alias.
        names: schemas; none means all.
        modules: modules; none means all.
        exclude: patterns of schemas to leave out.

    Raises:
        ConfigurationError: a schema, module, app or migration is unknown.
        MigrationFailed: an app has migrations that conflict.
    """
    report = apply(replace(options, plan=True), using=using, names=names, modules=modules, exclude=exclude)
    return Preview(
        report,
        extensions.missing(extensions.wanted(using), using=using),
        [target.schema for target in fixed_targets(using) if not schemas.is_ready(target.schema, using=using)],
        _scripts(report, using),
    )


def _scripts(report: Report, using: str) -> list[Script]:
    found: dict[tuple[str, tuple[str, ...]], Script] = {}
    for result in report.changed:
        script = found.setdefault((result.module, tuple(result.applied)), Script([], result.module, result.applied, []))
        script.schemas.append(result.schema)
    targets = {target.schema: target for target in every_target(using)} if found else {}
    for script in found.values():
        target = targets[script.schemas[0]]
        history = read_histories([target.schema], using=using)[target.schema]
        there = schemas.is_ready(target.schema, using=using)
        with (
            ActiveContext(target.active) if there else no_schema(),
            transaction.atomic(using=using),
            tenant_connection(using).cursor() as cursor,
        ):
            cursor.execute("SET TRANSACTION READ ONLY")
            executor = ModuleExecutor(tenant_connection(using), target.apps, history=history or frozenset())
            for name, statements in _collect(executor, target, script.migrations):
                script.sql += [f"-- {name}", *statements]
    return list(found.values())


def _collect(executor: ModuleExecutor, target: Target, names: list[str]) -> Iterator[tuple[str, list[str]]]:
    wanted = {name for name in names if not name.startswith("-")}
    for name in names:
        label, _, own = name[1:].partition(".")
        if name.startswith("-") and (migration := executor.loader.graph.nodes.get((label, own))):
            state = executor.loader.project_state((label, own), at_end=False)
            yield name, _sql(executor, migration, state, backwards=True)[0]
    if not wanted:
        return
    # The states are those of a run: see ModuleExecutor._migrate_all_forwards.
    waiting = executor._waiting()
    state = executor._create_project_state(with_applied_migrations=True)
    for migration, _ in executor.migration_plan(executor.loader.graph.leaf_nodes(), clean_start=True):
        name = f"{migration.app_label}.{migration.name}"
        if name in wanted and migration.app_label in target.apps:
            statements, state = _sql(executor, migration, state)
            yield name, statements
        elif (migration.app_label, migration.name) in waiting and migration.app_label not in target.apps:
            state = migration.mutate_state(state, preserve=False)


def _sql(
    executor: ModuleExecutor, migration: Migration, state: Any, *, backwards: bool = False
) -> tuple[list[str], Any]:
    connection = executor.connection
    try:
        editor = connection.schema_editor(collect_sql=True, atomic=migration.atomic)
        with transaction.atomic(using=connection.alias), editor:
            step = in_transaction(migration)
            run = step.unapply if backwards else step.apply
            state = run(state, editor, collect_sql=True)
    except Exception as exc:  # noqa: BLE001  # whatever an operation raises that cannot do without its tables
        key = (migration.app_label, migration.name)
        text = " ".join(f"{type(exc).__name__}: {exc}".split())
        return [f"-- Its SQL cannot be told before it runs ({text})"], executor.loader.project_state(key)
    return list(editor.collected_sql), state
