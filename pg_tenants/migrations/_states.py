"""The project's states along a plan, computed once for all schemas that have the plan.

Django computes them anew for each database: rendering the models of a large project takes seconds.
"""

from __future__ import annotations

from collections.abc import Iterator
from threading import RLock
from typing import TYPE_CHECKING, Any, NamedTuple

from django.apps import apps as installed
from django.db.migrations.exceptions import IrreversibleError
from django.db.migrations.migration import Migration
from django.db.migrations.state import ModelState, ProjectState, StateApps

from pg_tenants.migrations._executor import ModuleExecutor

if TYPE_CHECKING:
    from django.db.migrations.operations.base import Operation

__all__ = ["Plan", "PlanStates", "Step"]

Plan = list[tuple[Migration, bool]]


class Step(NamedTuple):
    """One operation with the states on both sides of it, in the direction of the plan."""

    operation: Operation
    before: ProjectState
    after: ProjectState


class PlanStates:
    """The states of one plan.

    Args:
        executor: knows the graph and what is applied.
        plan: what is to be run, forwards or backwards.
    """

    def __init__(self, executor: ModuleExecutor, plan: Plan):
        self._executor, self._plan = executor, plan
        self._lock = RLock()
        self._steps: dict[int, list[Step]] = {}
        self._starts: dict[int, ProjectState] = {}
        self._state: ProjectState | None = None
        self._after: StateApps | None = None
        self._before: StateApps | None = None
        self._reached = 0
        self.is_backwards = bool(plan) and plan[0][1]

    def before(self) -> StateApps:
        """Return the models before the plan is run, for receivers of ``pre_migrate``."""
        with self._lock:
            if self._before is None:
                self._before = self._executor._create_project_state(with_applied_migrations=True).apps
            return self._before

    def steps(self, index: int) -> list[Step]:
        """Return the steps of a migration of the plan, in the order in which they are to be run.

        Raises:
            IrreversibleError: one of them is to be taken back and cannot be.
        """
        with self._lock:
            if index not in self._steps:
                found = self._backward_steps(index) if self.is_backwards else self._forward_steps(index)
                self._steps[index] = found
            return self._steps[index]

    def start(self, index: int) -> ProjectState:
        """Return a state to run a migration on as a whole, that it may change."""
        with self._lock:
            self._reach(index)
            return self._bare_copy(self._starts[index])

    def settle(self, state: Any) -> None:
        """Have a state that schemas share render its models once.

        RunPython lets a state forget models whose relations were not looked at yet, and renders them all; so it would
        in each schema.
        """
        with self._lock:
            if state.is_delayed:
                state.clear_delayed_apps_cache()
                state.apps  # noqa: B018
                state.is_delayed = False

    def forget(self, index: int) -> None:
        """Free the memory of a migration's rendered models; they are made again where they are asked for."""
        with self._lock:
            self._steps.pop(index, None)

    def after(self) -> StateApps:
        """Return the models after the plan was run, for receivers of ``post_migrate``.

        Apps without migrations are as they are installed, as Django's command has it.
        """
        with self._lock:
            if self._after is None:
                state = self._end()
                state.clear_delayed_apps_cache()
                rendered = state.apps
                with rendered.bulk_update():
                    keys = [(model.app_label, model.name_lower) for model in rendered.real_models]
                    for key in keys:
                        rendered.unregister_model(*key)
                rendered.render_multiple([ModelState.from_model(installed.get_model(*key)) for key in keys])
                self._after = rendered
            return self._after

    # -- forwards -----------------------------------------------------------------------------------------------------

    def _forward_steps(self, index: int) -> list[Step]:
        migration = self._plan[index][0]
        self._reach(index)
        if index == self._reached:
            assert self._state is not None
            found = list(_forwards(migration, self._state))
            self._reached += 1
            return found
        state = self._bare_copy(self._starts[index])
        state.apps  # noqa: B018  # rendered once
        return list(_forwards(migration, state))

    def _reach(self, index: int) -> None:
        """Bring the running state up to the beginning of a migration."""
        if self.is_backwards:
            self._backward_starts()
            return
        if self._state is None:
            self._state = self._executor._create_project_state(with_applied_migrations=True)
        while self._reached < index:
            self._pass_others(self._reached)
            self._state.apps  # noqa: B018
            for _ in _forwards(self._plan[self._reached][0], self._state):
                pass
            self._reached += 1
        if index == self._reached and index < len(self._plan):
            self._pass_others(index)
            self._state.apps  # noqa: B018  # rendered once, as Django's executor does

    def _pass_others(self, index: int) -> None:
        """Let the state see other modules' migrations that waited for those before this one."""
        assert self._state is not None
        if index in self._starts:
            return
        for migration in self._others()[index]:
            self._state = migration.mutate_state(self._state, preserve=False)
        self._starts[index] = self._bare_copy(self._state)

    def _others(self) -> list[list[Migration]]:
        executor, own = self._executor, self._executor.loader.own_apps
        waiting, planned = executor._waiting(), {migration for migration, _ in self._plan}
        found: list[list[Migration]] = [[]]
        for migration, _ in executor.migration_plan(executor.loader.graph.leaf_nodes(), clean_start=True):
            if migration in planned:
                found.append([])
            elif (migration.app_label, migration.name) in waiting and migration.app_label not in own:
                found[-1].append(migration)
        return found

    # -- backwards ----------------------------------------------------------------------------------------------------

    def _backward_starts(self) -> None:
        """Compute the state before each migration of the plan, as Django's executor does."""
        if self._starts:
            return
        executor = self._executor
        numbers = {migration: index for index, (migration, _) in enumerate(self._plan)}
        applied = self._applied()
        state = executor._create_project_state()
        for migration, _ in executor.migration_plan(executor.loader.graph.leaf_nodes(), clean_start=True):
            if migration in numbers:
                self._starts[numbers[migration]] = self._bare_copy(state)
            if migration in numbers or migration in applied:
                migration.mutate_state(state, preserve=False)

    def _backward_steps(self, index: int) -> list[Step]:
        self._backward_starts()
        migration, state = self._plan[index][0], self._bare_copy(self._starts[index])
        state.apps  # noqa: B018
        for operation in migration.operations:
            if not operation.reversible:
                raise IrreversibleError(f"Operation {operation} in {migration} is not reversible")
        return [Step(each.operation, each.after, each.before) for each in reversed(list(_forwards(migration, state)))]

    def _applied(self) -> set[Migration]:
        loader = self._executor.loader
        return {loader.graph.nodes[key] for key in loader.applied_migrations if key in loader.graph.nodes}

    def _end(self) -> ProjectState:
        if not self._plan:
            return self._executor._create_project_state(with_applied_migrations=True)
        if not self.is_backwards:
            self._reach(len(self._plan))
            assert self._state is not None
            return self._bare_copy(self._state)
        self._backward_starts()
        executor = self._executor
        last = self._plan[-1][0]
        state = self._bare_copy(self._starts[len(self._plan) - 1])
        left = self._applied() - {migration for migration, _ in self._plan}
        full = [m for m, _ in executor.migration_plan(executor.loader.graph.leaf_nodes(), clean_start=True)]
        for migration in full[full.index(last) :]:
            if migration in left:
                migration.mutate_state(state, preserve=False)
        return state

    @staticmethod
    def _bare_copy(state: ProjectState) -> ProjectState:
        """Return a copy without rendered models, which are what is large."""
        return ProjectState(
            models={key: model.clone() for key, model in state.models.items()}, real_apps=state.real_apps
        )


def _forwards(migration: Migration, state: ProjectState) -> Iterator[Step]:
    """Change a state by a migration's operations, and yield each with the states around it."""
    before = state.clone()
    for operation in migration.operations:
        operation.state_forwards(migration.app_label, state)
        after = state.clone()
        yield Step(operation, before, after)
        before = after
