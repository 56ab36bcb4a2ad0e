"""Django's migration executor, for the apps of one module in one schema.

A schema records the migrations of its own module alone. What other modules' migrations have made is taken as given, so
a foreign key to a shared model finds its target in the project state, and nothing of the others is run or recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from django.db import transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.migrations.exceptions import InconsistentMigrationHistory
from django.db.migrations.executor import MigrationExecutor
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.migration import Migration
from django.db.migrations.state import ProjectState

from pg_tenants.migrations._record import ModuleRecorder

__all__ = ["ModuleExecutor", "ModuleLoader"]

Key = tuple[str, str]


class ModuleLoader(MigrationLoader):
    """Django's loader, which takes the migrations of other modules' apps as applied.

    Args:
        connection: where to read what is applied; None for nowhere.
        apps: labels of the module's apps.
        history: what is applied, where that is known already.

    Attributes:
        recorded: what the schema itself has recorded, of the module's own apps.
    """

    def __init__(
        self, connection: BaseDatabaseWrapper | None, apps: Collection[str], history: Collection[Key] | None = None
    ):
        self.own_apps = frozenset(apps)
        self.recorded: dict[Key, Any] = {}
        self._history = history
        super().__init__(connection)

    @property
    def applied_migrations(self) -> Any:
        """Return what is applied. Without a connection, Django's loader takes nothing for applied: then the history."""
        return self._applied

    @applied_migrations.setter
    def applied_migrations(self, value: Any) -> None:
        self._applied = dict.fromkeys(self._history) if value == {} and self._history else value

    def build_graph(self) -> None:
        """Build the graph from disk and from what the schema has recorded."""
        super().build_graph()
        applied: dict[Key, Any] = dict(self.applied_migrations)
        self.recorded = {key: migration for key, migration in applied.items() if key[0] in self.own_apps}
        foreign = {key: node for key, node in self.graph.nodes.items() if key[0] not in self.own_apps}
        self.applied_migrations = {**self.recorded, **foreign}

    def check_consistent_history(self, connection: BaseDatabaseWrapper) -> None:
        """Refuse a schema where a migration is recorded and one of the same module that it depends on is not.

        Raises:
            InconsistentMigrationHistory: names both.
        """
        for key in self.recorded:
            if key not in self.graph.nodes:
                continue
            for parent in self.graph.node_map[key].parents:
                if parent.key in self.applied_migrations:
                    continue
                replaced = self.replacements.get(parent.key)
                if replaced and all(entry in self.recorded for entry in replaced.replaces):
                    continue
                raise InconsistentMigrationHistory(
                    f"Migration {key[0]}.{key[1]} is applied before its dependency {parent.key[0]}.{parent.key[1]} "
                    f"on database {connection.alias!r}."
                )


class ModuleExecutor(MigrationExecutor):
    """Django's executor for the apps of one module, in the schema that is active.

    Args:
        connection: the connection to migrate on.
        apps: labels of the module's apps.
        progress_callback: as Django's executor has it.
        history: what the schema has recorded; None to ask the database.
    """

    loader: ModuleLoader

    def __init__(
        self,
        connection: BaseDatabaseWrapper,
        apps: Collection[str],
        progress_callback: Callable[..., None] | None = None,
        *,
        history: Collection[Key] | None = None,
    ):
        # Not super().__init__(), which would make Django's own loader.
        self.connection = connection
        self.loader = ModuleLoader(connection if history is None else None, apps, history)
        self.recorder = ModuleRecorder(connection)
        self.progress_callback = progress_callback

    def own_targets(self) -> list[Key]:
        """Return the newest migration of each of the module's apps."""
        return [key for key in self.loader.graph.leaf_nodes() if key[0] in self.loader.own_apps]

    def rows_of(self, migration: Migration) -> list[Key]:
        """Return the rows of ``django_migrations`` for a migration: those that it replaces, and its own."""
        found: list[Key] = []
        for key in migration.replaces:
            replaced = self.loader.disk_migrations.get(key)
            found += [key] if replaced is None else self.rows_of(replaced)
        return list(dict.fromkeys([*found, (migration.app_label, migration.name)]))

    def missing_squashes(self, applied: Collection[Key]) -> list[Key]:
        """Return squashed migrations of the module's apps that are not recorded although all that they replace is."""
        known = set(applied)
        found: list[Key] = []
        for key, migration in self.loader.replacements.items():
            replaced = set(self.rows_of(migration)) - {key}
            if key[0] in self.loader.own_apps and key not in known and replaced <= known:
                found.append(key)
                known.add(key)
        return found

    def migration_plan(self, targets: Any, clean_start: bool = False) -> list[tuple[Migration, bool]]:
        """Return Django's plan; where it is for running, without other modules' migrations."""
        plan = super().migration_plan(targets, clean_start=clean_start)
        if clean_start:
            return plan
        return [step for step in plan if step[0].app_label in self.loader.own_apps]

    def apply_migration(self, state: ProjectState, migration: Migration, *args: Any, **kwargs: Any) -> ProjectState:
        """Apply a migration as Django does, and record it in the same transaction, if it has one."""
        with self._transaction(migration):
            result: ProjectState = super().apply_migration(state, migration, *args, **kwargs)
        return result

    def unapply_migration(self, state: ProjectState, migration: Migration, *args: Any, **kwargs: Any) -> ProjectState:
        """Unapply a migration as Django does, and record it in the same transaction, if it has one."""
        with self._transaction(migration):
            result: ProjectState = super().unapply_migration(state, migration, *args, **kwargs)
        return result

    @contextmanager
    def _transaction(self, migration: Migration) -> Iterator[None]:
        with transaction.atomic(using=self.connection.alias) if migration.atomic else nullcontext():
            yield
        # Inside a larger transaction, what is deferred fires before the next migration, as it would at the commit of
        # this one: PostgreSQL alters no table that has pending trigger events.
        if self.connection.in_atomic_block:
            self.connection.check_constraints()

    def _create_project_state(self, with_applied_migrations: bool = False) -> ProjectState:
        state = ProjectState(real_apps=self.loader.unmigrated_apps)
        if with_applied_migrations:
            waiting = self._waiting()
            for migration, _ in self.migration_plan(self.loader.graph.leaf_nodes(), clean_start=True):
                key = (migration.app_label, migration.name)
                if key in self.loader.applied_migrations and key not in waiting:
                    migration.mutate_state(state, preserve=False)
        return state

    def _waiting(self) -> set[Key]:
        """Return the migrations that are not applied, and other modules' ones that build on such."""
        waiting: set[Key] = set()
        for migration, _ in self.migration_plan(self.loader.graph.leaf_nodes(), clean_start=True):
            key = (migration.app_label, migration.name)
            parents = self.loader.graph.node_map[key].parents
            if key not in self.loader.applied_migrations or any(parent.key in waiting for parent in parents):
                waiting.add(key)
        return waiting

    def _migrate_all_forwards(
        self, state: ProjectState, plan: Any, full_plan: Any, fake: bool, fake_initial: bool
    ) -> ProjectState:
        to_run = {migration for migration, _ in plan}
        waiting = self._waiting()
        for migration, _ in full_plan:
            if not to_run:
                break
            if migration in to_run:
                state.apps  # noqa: B018  # rendered once, as Django's executor does
                state = self.apply_migration(state, migration, fake=fake, fake_initial=fake_initial)
                to_run.remove(migration)
            elif (migration.app_label, migration.name) in waiting and migration.app_label not in self.loader.own_apps:
                state = migration.mutate_state(state, preserve=False)
        return state
