"""Comparing each schema's structure with what the migrations that it has recorded make.

For each set of apps and recorded migrations one reference is made, in a transaction that is rolled back. The schemas
are compared with it by fingerprints, read for hundreds at a time; in full only one of each fingerprint that is unlike
the reference's.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from django.contrib.postgres.operations import NotInTransactionMixin
from django.db import DEFAULT_DB_ALIAS, transaction
from django.db.migrations.migration import Migration
from django.db.migrations.recorder import MigrationRecorder
from django.db.migrations.state import ProjectState

from pg_tenants import schemas
from pg_tenants.catalog import Description, Difference, Fingerprint, compare, describe, fingerprints
from pg_tenants.context import ActiveContext
from pg_tenants.exceptions import MigrationFailed, SchemaDoesNotExist
from pg_tenants.migrations._events import Event, Progress
from pg_tenants.migrations._executor import Key, ModuleExecutor
from pg_tenants.migrations._history import History, read_histories
from pg_tenants.migrations._report import SchemaStructure, Structures
from pg_tenants.migrations._single import sync_unmigrated
from pg_tenants.migrations._states import Plan
from pg_tenants.migrations._targets import Target, check_choice, choose, every_target
from pg_tenants.names import scratch_name
from pg_tenants.schemas import tenant_connection

__all__ = ["in_transaction", "verify"]

# Django makes it without a migration, and its make has changed over the years.
_IGNORED = (MigrationRecorder.Migration._meta.db_table,)
_CONCURRENTLY = re.compile(r"^(\s*(?:CREATE(?:\s+UNIQUE)?|DROP)\s+INDEX)\s+CONCURRENTLY\b", re.IGNORECASE)
_LOCK_TIMEOUT = "5s"

Reference = tuple[Description, Fingerprint | None]
Group = tuple[frozenset[str], History]

Define = Callable[[Target, str, frozenset[str]], bool]
"""Makes in an empty schema, on a database alias, what migrations (as ``app.name``) make, without running them; returns
whether it could."""


def verify(
    *,
    using: str = DEFAULT_DB_ALIAS,
    names: Iterable[str] = (),
    modules: Iterable[str] = (),
    exclude: Iterable[str] = (),
    progress: Progress | None = None,
    define: Define | None = None,
) -> Structures:
    """Compare the structure of schemas with what the migrations that they have recorded make.

    A schema that lacks migrations is compared with the state that it has recorded. Nothing is changed: the references
    are made in transactions that are rolled back. Until then they hold the locks that making a tenant holds, on the
    shared tables that tenants' tables refer to.

    Args:
        using: the database alias.
        names: schemas; none means all.
        modules: modules; none means all.
        exclude: patterns of schemas to leave out.
        progress: told of each schema.
        define: makes what schemas are compared with, where they lack no migration; by default the migrations do.

    Returns:
        what each schema differs in.

    Raises:
        ConfigurationError: a schema or a module is unknown.
    """
    names, modules, exclude = list(names), list(modules), list(exclude)
    check_choice(using, names=names, modules=modules, exclude=exclude)
    targets = choose(every_target(using), names=names, modules=modules, exclude=exclude)
    tell = progress or (lambda event: None)
    tell(Event(kind="run", total=len(targets)))
    results = {target.schema: SchemaStructure(target.schema, target.module_names) for target in targets}
    for target, text in _compare_all(targets, results, using, define):
        tell(Event(kind="done" if results[target.schema].error is None else "failed", target=target, detail=text))
    return Structures(list(results.values()))


def _compare_all(
    targets: Sequence[Target], results: dict[str, SchemaStructure], using: str, define: Define | None
) -> Iterable[tuple[Target, str]]:
    connection = tenant_connection(using)
    readable = [target for target in targets if not target.problem]
    histories = read_histories([target.schema for target in readable], using=using)
    # Read before the structures and once more behind them: who migrates meanwhile is told so, not taken for different.
    seen = fingerprints([connection.physical_schema(t.schema) for t in readable], using=using, ignore=_IGNORED)
    groups: dict[Group, list[Target]] = {}
    for target in targets:
        result = results[target.schema]
        history = histories.get(target.schema)
        if target.problem:
            result.error = target.problem
        elif history is None:
            result.error = _unreadable(target, using)
        else:
            own = frozenset(key for key in history if key[0] in target.apps)
            groups.setdefault((target.apps, own), []).append(target)
            continue
        yield target, str(result.error)
    for (_, history), members in groups.items():
        _compare_group(members, history, seen, results, using, define)
        different = [target.schema for target in members if results[target.schema].differences]
        later = read_histories(different, using=using) if different else {}
        for target in members:
            result = results[target.schema]
            if target.schema in later and later[target.schema] != histories[target.schema]:
                result.differences = []
                result.error = MigrationFailed(
                    f"The schema {target.schema!r} was migrated while it was compared. Run the command again."
                )
            yield target, str(result.error or "; ".join(map(str, result.differences)))


def _unreadable(target: Target, using: str) -> Exception:
    if not schemas.is_ready(target.schema, using=using):
        return SchemaDoesNotExist(
            f"The schema {target.schema!r} is not in the database, or pg_tenants did not make it. A fixed module's "
            "is made by migrate_schemas, a tenant's by provision_tenants."
        )
    return MigrationFailed(
        f"The record of migrations of the schema {target.schema!r} cannot be read: another session has locked it, or "
        "django_migrations is not as Django makes it. Run the command again."
    )


def _compare_group(
    members: Sequence[Target],
    history: History,
    seen: dict[str, Fingerprint | None],
    results: dict[str, SchemaStructure],
    using: str,
    define: Define | None,
) -> None:
    connection = tenant_connection(using)
    try:
        reference, pending = _reference(members[0], history, using, define)
    except Exception as exc:  # noqa: BLE001  # whatever a migration raises is said of the schemas that have it
        for target in members:
            error = MigrationFailed(
                f"The schema {target.schema!r} cannot be compared: what its migrations make could not be made in a "
                "transaction. Correct the migration that fails, or compare this module's schemas by pg_dump. "
                f"{type(exc).__name__}: {str(exc).strip()}"
            )
            error.__cause__ = exc
            results[target.schema].error = error
        return
    description, wanted = reference
    known: dict[Fingerprint, list[Difference]] = {}
    for target in members:
        result = results[target.schema]
        result.pending = pending
        name = connection.physical_schema(target.schema)
        found = seen.get(name)
        if found is not None and found == wanted:
            continue
        try:
            if found is None or found not in known:
                differences = compare(description, describe(name, using=using, ignore=_IGNORED))
                if found is None:
                    result.differences = differences
                    continue
                known[found] = differences
            result.differences = known[found]
        except Exception as exc:  # noqa: BLE001  # an object was dropped while it was described
            result.error = exc


def _reference(target: Target, history: History, using: str, define: Define | None) -> tuple[Reference, list[str]]:
    """Return what the recorded migrations make, and the names of those that are not recorded."""
    connection = tenant_connection(using)
    scratch = scratch_name()
    name = connection.physical_schema(scratch)
    # Extensions may be in the fixed module's own schema, where their types are found without its name.
    beside = [] if target.tenant is not None else [connection.physical_schema(target.schema)]
    with transaction.atomic(using=using):
        schemas.create(scratch, using=using)
        place = Target(scratch, target.modules)
        with ActiveContext(place.active), connection.execute_wrapper(_not_concurrently):
            with connection.cursor() as cursor:
                cursor.execute(f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT}'")
            executor = _Executor(connection, target.apps, history=history)
            applied, steps = executor.start_over()
            plan = [step for step in steps if (step[0].app_label, step[0].name) in applied]
            pending = [f"{m.app_label}.{m.name}" for m, _ in steps if (m.app_label, m.name) not in applied]
            wanted = frozenset(f"{m.app_label}.{m.name}" for m, _ in plan)
            if pending or define is None or not define(place, using, wanted):
                executor.migrate([], plan=plan, state=executor._create_project_state(with_applied_migrations=True))
                sync_unmigrated(executor, target.apps, connection)
        description = describe(name, using=using, ignore=_IGNORED, beside=beside)
        found = fingerprints([name], using=using, ignore=_IGNORED)[name]
        transaction.set_rollback(True, using=using)
    return (description, found), pending


class _Executor(ModuleExecutor):
    """Makes a reference inside a transaction: its indexes need not be made concurrently, as nobody uses the tables."""

    def start_over(self) -> tuple[set[Key], Plan]:
        """Take nothing of the module for applied any more; return what was, and the steps from nothing to the newest.

        Which of squashed migrations and those that they replace are in the plan is as in the schema itself.
        """
        loader = self.loader
        applied = set(loader.applied_migrations)
        loader._history = None
        loader.applied_migrations = {
            key: node for key, node in loader.applied_migrations.items() if key not in loader.recorded
        }
        everything = self.migration_plan(loader.graph.leaf_nodes(), clean_start=True)
        return applied, [step for step in everything if step[0].app_label in loader.own_apps]

    def apply_migration(self, state: ProjectState, migration: Migration, *args: Any, **kwargs: Any) -> ProjectState:
        """Apply a migration, without what keeps its operations from running in a transaction."""
        return super().apply_migration(state, in_transaction(migration), *args, **kwargs)


def in_transaction(migration: Migration) -> Migration:
    """Return a migration whose operations do not refuse to run in a transaction; what they send is the same."""
    if any(isinstance(operation, NotInTransactionMixin) for operation in migration.operations):
        migration = copy.copy(migration)
        vars(migration)["operations"] = [_in_transaction(operation) for operation in migration.operations]
    return migration


def _in_transaction(operation: Any) -> Any:
    if isinstance(operation, NotInTransactionMixin):
        operation = copy.copy(operation)
        operation._ensure_not_in_transaction = lambda schema_editor: None
    return operation


def _not_concurrently(execute: Callable[..., Any], sql: Any, params: Any, many: bool, context: Any) -> Any:
    if isinstance(sql, str):
        sql = _CONCURRENTLY.sub(r"\1", sql)
    return execute(sql, params, many, context)
