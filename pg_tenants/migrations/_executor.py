"""Django's migration executor, for the apps of one module in one schema.

A schema records the migrations of its own module alone. What other modules' migrations have made is taken as given, so
a foreign key to a shared model finds its target in the project state, and nothing of the others is run or recorded.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, cast

from django.contrib.postgres.operations import AddIndexConcurrently, RemoveIndexConcurrently
from django.db import transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.migrations.exceptions import CircularDependencyError, InconsistentMigrationHistory
from django.db.migrations.executor import MigrationExecutor
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.migration import Migration
from django.db.migrations.operations import AddIndex, RemoveIndex
from django.db.migrations.state import ProjectState

from pg_tenants.backends.base import TenantDatabaseWrapperMixin
from pg_tenants.exceptions import MigrationFailed
from pg_tenants.migrations._locks import nobody_waits
from pg_tenants.migrations._pieces import erase_marks, has_own_way, in_pieces
from pg_tenants.migrations._record import ModuleRecorder
from pg_tenants.migrations._rendering import rendering_late
from pg_tenants.migrations._sqlfiles import Key
from pg_tenants.migrations._sqlhistory import checksums, record_alone
from pg_tenants.migrations._sqlmigrations import SqlFileMigration, refuse_unknown_references, sql_file_migrations
from pg_tenants.modules import SQL_LABEL

if TYPE_CHECKING:
    from django.db.migrations.operations.base import Operation

__all__ = ["Key", "ModuleExecutor", "ModuleLoader"]


class ModuleLoader(MigrationLoader):
    """Django's loader, which takes the migrations of other modules' apps as applied, and has SQL files too.

    Args:
        connection: where to read what is applied; None for nowhere.
        apps: labels of the module's apps, and of its SQL files.
        history: what is applied, where that is known already.

    Attributes:
        recorded: what the schema itself has recorded, of the module's own apps and SQL files.
        sql: the SQL files of all modules.
    """

    def __init__(
        self, connection: BaseDatabaseWrapper | None, apps: Collection[str], history: Collection[Key] | None = None
    ):
        self.own_apps = frozenset(apps)
        self.recorded: dict[Key, Any] = {}
        self.sql: dict[Key, SqlFileMigration] = {}
        self._history = history
        super().__init__(connection)

    @property
    def applied_migrations(self) -> Any:
        """Return what is applied. Without a connection, Django's loader takes nothing for applied: then the history."""
        return self._applied

    @applied_migrations.setter
    def applied_migrations(self, value: Any) -> None:
        self._applied = dict.fromkeys(self._history) if value == {} and self._history else value

    def load_disk(self) -> None:
        """Load Django's migrations and SQL files.

        Raises:
            MigrationFailed: a file cannot be run as it is.
        """
        super().load_disk()
        self.sql = sql_file_migrations()
        self.disk_migrations.update(self.sql)
        self.migrated_apps.update(label for label, _ in self.sql)
        refuse_unknown_references(self.disk_migrations)

    def build_graph(self) -> None:
        """Build the graph from disk and from what the schema has recorded.

        Raises:
            MigrationFailed: an SQL file is to run both before and after another migration.
        """
        try:
            super().build_graph()
        except CircularDependencyError as exc:
            if not self.sql:
                raise
            raise MigrationFailed(f"Migrations depend on each other: {exc}. Correct 'after' and 'before'.") from exc
        applied: dict[Key, Any] = dict(self.applied_migrations)
        self.recorded = {key: migration for key, migration in applied.items() if key[0] in self.own_apps}
        foreign = {key: node for key, node in self.graph.nodes.items() if key[0] not in self.own_apps}
        self.applied_migrations = {**self.recorded, **foreign}

    def get_migration_by_prefix(self, app_label: str, name_prefix: str) -> Any:
        """Return the migration whose name begins so; of SQL files also the one of this number."""
        for key, migration in self.sql.items():
            if key[0] == app_label and name_prefix.isdecimal() and migration.step.number == int(name_prefix):
                return migration
        return super().get_migration_by_prefix(app_label, name_prefix)

    def check_consistent_history(self, connection: BaseDatabaseWrapper) -> None:
        """Refuse a schema where a migration is recorded and one of the same module that it depends on is not.

        Raises:
            InconsistentMigrationHistory: names both.
            MigrationFailed: an SQL file was changed, is gone, or came late.
        """
        self._refuse_changed_files()
        for key in self.recorded:
            if key not in self.graph.nodes:
                continue
            for parent in self.graph.node_map[key].parents:
                if parent.key in self.applied_migrations or self._may_be_late(key, parent.key):
                    continue
                replaced = self.replacements.get(parent.key)
                if replaced and all(entry in self.recorded for entry in replaced.replaces):
                    continue
                raise InconsistentMigrationHistory(
                    f"Migration {key[0]}.{key[1]} is applied before its dependency {parent.key[0]}.{parent.key[1]} "
                    f"on database {connection.alias!r}."
                )

    def _refuse_changed_files(self) -> None:
        applied = [key for key in self.recorded if key[0].startswith(SQL_LABEL)]
        for key in applied:
            if key not in self.sql:
                raise MigrationFailed(
                    f"The SQL file {key[1]}.sql of {key[0]} is applied and not in the folder any more. Restore it: it "
                    "is needed to make the next schema the same."
                )
            for late in self._unapplied_before(key):
                if not self.sql[late].step.up.late:
                    raise MigrationFailed(
                        f"The file {self.sql[late].step.up.path} is late: {key[1]} is applied already. Give it the "
                        "next free number; or, if it may run after that one, put '-- pg_tenants: late=true' at its top."
                    )
        # Where the history was read with that of others, the checksums were compared there.
        found = checksums(self.connection) if applied and self.connection is not None else {}
        for key in applied:
            file, checksum = self.sql[key].step.up, found.get(key)
            if checksum is not None and not file.accepts(checksum):
                raise MigrationFailed(
                    f"The file {file.path} was changed after it was applied (checksum {checksum[:12]}, now "
                    f"{file.checksum[:12]}). Restore its text and write a file with the next number; or, if both make "
                    f"the same, put '-- pg_tenants: was={checksum[:12]}' at its top."
                )

    def _unapplied_before(self, key: Key) -> list[Key]:
        """Return the SQL files of lower numbers than a file's that are not applied."""
        return [
            other
            for other, migration in self.sql.items()
            if other[0] == key[0]
            and other not in self.applied_migrations
            and migration.step.number < self.sql[key].step.number
        ]

    def _may_be_late(self, key: Key, parent: Key) -> bool:
        return key in self.sql and parent in self.sql and parent[0] == key[0]

    def in_order(self, targets: Iterable[Any], clean_start: bool) -> list[Any]:
        """Return targets of a plan, with those of SQL files where they are to come in it.

        A file that says what it comes after runs as soon as that is applied, which is when it was written; so it finds
        in a new schema what it found in the old ones. One that does not runs when all else is done.
        """
        known = list(targets)
        applied = {} if clean_start else self.applied_migrations
        forwards = [key for key in known if key[1] is not None and key not in applied and key in self.graph.nodes]
        forwards += self._late(known, applied)
        last = [key for key in forwards if key in self.sql]
        wanted = {key for goal in forwards for key in self.graph.forwards_plan(goal) if key in self.sql}
        placed = (key for key, migration in self.sql.items() if key in wanted and migration.is_placed)
        first = [goal for key in placed if key not in applied for goal in (*self._comes_behind(key, applied), key)]
        return [*first, *(key for key in known if key not in last), *(key for key in last if key not in first)]

    def _comes_behind(self, key: Key, applied: Mapping[Key, Any]) -> list[Key]:
        """Return what a file is run behind: what it comes after, and what those that it comes before come after."""
        node = self.graph.node_map[key]
        followers = [child for child in node.children if child.key not in self.sql]
        parents = {*node.parents, *(parent for child in followers for parent in child.parents)}
        return sorted(parent.key for parent in parents if parent.key not in self.sql and parent.key not in applied)

    def _late(self, targets: list[Any], applied: Mapping[Key, Any]) -> list[Key]:
        """Return the files that are to run although a later one, which is a target, is applied."""
        leaves = {key for key in targets if key in self.sql and key in applied and self._is_newest(key)}
        return [late for key in leaves for late in self._unapplied_before(key)]

    def _is_newest(self, key: Key) -> bool:
        number = self.sql[key].step.number
        return all(entry.step.number <= number for other, entry in self.sql.items() if other[0] == key[0])


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
        plan = super().migration_plan(self.loader.in_order(targets, clean_start), clean_start=clean_start)
        if clean_start:
            return plan
        return [step for step in plan if step[0].app_label in self.loader.own_apps]

    def apply_migration(
        self, state: Any, migration: Migration, fake: bool = False, fake_initial: bool = False
    ) -> ProjectState:
        """Apply a migration as Django does, and record it in the same transaction, if it has one."""
        changed = self._changed(migration, fake, backwards=False)
        with self._transaction(changed):
            if fake and isinstance(migration, SqlFileMigration):
                record_alone(self.connection, migration.step, "up")
            late = rendering_late(changed)
            result: ProjectState = super().apply_migration(state, late, fake=fake, fake_initial=fake_initial)
            self._forget(migration, fake)
        return result

    def unapply_migration(self, state: Any, migration: Migration, fake: bool = False) -> ProjectState:
        """Unapply a migration as Django does, and record it in the same transaction, if it has one."""
        changed = self._changed(migration, fake, backwards=True)
        with self._transaction(changed):
            if fake and isinstance(migration, SqlFileMigration):
                record_alone(self.connection, migration.step, "down")
            result: ProjectState = super().unapply_migration(state, changed, fake=fake)
            self._forget(migration, fake)
        return result

    def _changed(self, migration: Migration, fake: bool, *, backwards: bool) -> Migration:
        """Return a migration as it can be run where it is: in a transaction, or operation by operation."""
        if self.connection.in_atomic_block:
            return _in_transaction(migration)
        if fake or migration.atomic or has_own_way(migration, backwards=backwards):
            return migration
        return in_pieces(cast(TenantDatabaseWrapperMixin, self.connection), migration, backwards=backwards)

    def _forget(self, migration: Migration, fake: bool) -> None:
        if fake or not migration.atomic:
            connection = cast(TenantDatabaseWrapperMixin, self.connection)
            erase_marks(connection, migration.app_label, migration.name)

    @contextmanager
    def _transaction(self, migration: Migration) -> Iterator[None]:
        with (
            nobody_waits(cast(TenantDatabaseWrapperMixin, self.connection)),
            transaction.atomic(using=self.connection.alias) if migration.atomic else nullcontext(),
        ):
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
                state = self.apply_migration(state, migration, fake=fake, fake_initial=fake_initial)
                to_run.remove(migration)
            elif (migration.app_label, migration.name) in waiting and migration.app_label not in self.loader.own_apps:
                state = migration.mutate_state(state, preserve=False)
        return state


def _in_transaction(migration: Migration) -> Migration:
    """Return a migration that can be run in a transaction: a tenant is made in one, concurrent indexes included."""
    operations: list[Operation] = []
    for each in migration.operations:
        if type(each) is AddIndexConcurrently:
            operations.append(AddIndex(each.model_name, each.index))
        elif type(each) is RemoveIndexConcurrently:
            operations.append(RemoveIndex(each.model_name, each.name))
        else:
            operations.append(each)
    changed = copy.copy(migration)
    changed.operations = operations  # type: ignore[misc]
    return changed
