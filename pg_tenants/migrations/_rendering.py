"""Project states whose models are rendered when they are asked for.

For each operation Django's executor renders the model that it changes and all that this one is related to, in both
directions and over any number of steps: in a project of fifty tables most of the time of a migration. The common
operations look at less: at the model, and at what it refers to. They are run on a ``LazyState``, which notes what has
changed and renders what somebody looks at. All others are run on Django's own states.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any

from django.apps.registry import Apps
from django.db.migrations import operations
from django.db.migrations.migration import Migration
from django.db.migrations.state import AppConfigStub, ModelState, ProjectState, StateApps
from django.db.migrations.utils import resolve_relation
from django.db.models import Model

__all__ = ["LazyState", "rendering_late"]

_Key = tuple[str, str]
_References = frozenset[tuple[object, _Key]]

_OF_BEFORE = frozenset(
    {
        operations.AddField,
        operations.AlterField,
        operations.AlterUniqueTogether,
        operations.DeleteModel,
        operations.RemoveConstraint,
        operations.RemoveField,
        operations.RemoveIndex,
        operations.RenameField,
        operations.RenameIndex,
    }
)
"""Operations of Django that look at one model as it was, and at what it refers to, not at what refers to it."""

_OF_AFTER = frozenset(
    {
        operations.AddConstraint,
        operations.AddIndex,
        operations.AlterModelManagers,
        operations.AlterModelOptions,
        operations.CreateModel,
        operations.RunSQL,
    }
)
"""Those that look, if they do, at one model as it is then, and at what it refers to."""


# -- which operations -------------------------------------------------------------------------------------------------


def rendering_late(migration: Migration) -> Migration:
    """Return a migration that renders for each operation what this one looks at, where that is known."""

    def apply(state: ProjectState, schema_editor: Any, collect_sql: bool = False) -> ProjectState:
        if type(migration).apply is not Migration.apply:
            return migration.apply(_ordinary(state), schema_editor, collect_sql)
        for operation in migration.operations:
            part = copy.copy(migration)
            part.operations = [operation]  # type: ignore[misc]
            state = part.apply(_prepared(state, part.app_label, operation), schema_editor, collect_sql)
        return state

    made = copy.copy(migration)
    vars(made)["apply"] = apply
    return made


def _prepared(state: ProjectState, label: str, operation: Any) -> ProjectState:
    """Return the state for an operation, with what this one looks at as it was: of that, a copy is made."""
    if _renders_all(operation):
        state = LazyState.of(state)
        state.apps.complete()
        return state
    if not _looks_ahead(state, label, operation):
        return _ordinary(state)
    state = LazyState.of(state)
    if type(operation) in _OF_BEFORE:
        with suppress(LookupError):
            state.apps.get_model(label, getattr(operation, "model_name", None) or operation.name)
    return state


def _ordinary(state: ProjectState) -> ProjectState:
    if isinstance(state, LazyState):
        state = ProjectState(models=state.models, real_apps=state.real_apps)
    state.apps  # noqa: B018  # rendered once, as Django's executor does
    return state


def _looks_ahead(state: ProjectState, label: str, operation: Any) -> bool:
    if isinstance(operation, operations.AlterField) and _is_referred_to(state, label, operation, operation.name):
        return False
    if isinstance(operation, operations.RenameField) and _is_referred_to(state, label, operation, operation.old_name):
        return False
    return type(operation) in _OF_BEFORE | _OF_AFTER and all(
        _looks_ahead(state, label, each) for each in getattr(operation, "state_operations", None) or ()
    )


def _is_referred_to(state: ProjectState, label: str, operation: Any, name: str) -> bool:
    """Return whether foreign keys may refer to the field that an operation is about: it then alters theirs, too."""
    key = (label, operation.model_name_lower)
    model = state.models.get(key)
    fields = [getattr(operation, "field", None), model.fields.get(name) if model else None]
    if any(getattr(field, "primary_key", False) for field in fields):
        return True
    to_field = (
        resolve_relation(field.remote_field.model, *other)
        for other, model in state.models.items()
        for field in model.fields.values()
        if name in (getattr(field, "to_fields", None) or ())
    )
    return any(each == key or each not in state.models or state.models[each].options.get("proxy") for each in to_field)


def _renders_all(operation: Any) -> bool:
    """Return whether an operation has all models rendered before it looks at any, as RunPython does."""
    methods = ("state_forwards", "database_forwards")
    return all(getattr(type(operation), method) is getattr(operations.RunPython, method) for method in methods)


# -- states -----------------------------------------------------------------------------------------------------------


class LazyState(ProjectState):
    """Django's state, with models that are rendered when they are asked for."""

    apps: _LazyApps

    @classmethod
    def of(cls, state: ProjectState) -> LazyState:
        """Return a state with the models of another one, which is not used any more."""
        if isinstance(state, LazyState):
            return state
        made = cls(models=state.models, real_apps=state.real_apps)
        made.apps = _LazyApps(made.real_apps, made.models)
        return made

    def clone(self) -> LazyState:
        """Return a copy, which shares what is rendered."""
        made = LazyState(models={key: each.clone() for key, each in self.models.items()}, real_apps=self.real_apps)
        made.apps = self.apps.clone_for(made.models)
        return made

    def reload_model(self, app_label: str, model_name: str, delay: bool = False) -> None:
        """Note that a model has changed."""
        self.apps.change({(app_label, model_name)})

    def reload_models(self, models: Iterable[_Key], delay: bool = True) -> None:
        """Note that models have changed."""
        self.apps.change(set(models))

    def remove_model(self, app_label: str, model_name: str) -> None:
        """Remove a model."""
        super().remove_model(app_label, model_name)
        self.apps.change({(app_label, model_name)})

    def clear_delayed_apps_cache(self) -> None:
        """Have all models rendered, as who calls this wants it."""
        self.apps.complete()


class _LazyApps(StateApps):
    """Django's registry of a state's models, which renders them when they are asked for.

    A model that is registered is as its state is, and so is all that it refers to, over any number of steps.

    Args:
        real_apps: labels of apps without migrations.
        states: the models of the project's state. Who changes them tells ``change()``.
    """

    def __init__(self, real_apps: Any, states: dict[_Key, ModelState]):
        self._passive = True
        super().__init__(real_apps, states)
        self._passive = False
        self._states = states
        self._real = {(each.app_label, each.name_lower): each for each in self.real_models}
        self._stale: set[_Key] = {*states, *self._real}
        self._references: dict[_Key, _References] = {}
        self._rendered: dict[_Key, _References] = {}

    def clone_for(self, states: dict[_Key, ModelState]) -> _LazyApps:
        """Return a copy for a copy of the project's state."""
        made = copy.copy(self)
        made.all_models, made.app_configs, made._pending_operations = defaultdict(dict), {}, defaultdict(list)
        for label in self.app_configs:
            made.all_models[label] = dict(self.all_models[label])
            made.app_configs[label] = config = AppConfigStub(label)
            config.apps = made
            config.import_models()
        made._states, made._stale = states, set(self._stale)
        made._references, made._rendered = dict(self._references), dict(self._rendered)
        return made

    # -- who asks -----------------------------------------------------------------------------------------------------

    def get_model(self, app_label: str, model_name: str | None = None, require_ready: bool = True) -> Any:
        """Return a model, rendered together with what it refers to."""
        if not self._passive:
            label, name = (app_label, model_name) if model_name else app_label.split(".")
            self._render(_reach({(label, name.lower())}, self._targets))
        return super().get_model(app_label, model_name, require_ready)

    def get_models(self, include_auto_created: bool = False, include_swapped: bool = False) -> Any:
        """Return all models."""
        self.complete()
        return super().get_models(include_auto_created, include_swapped)

    get_models.cache_clear = Apps.get_models.cache_clear  # type: ignore[attr-defined]

    def complete(self) -> None:
        """Render all that is stale."""
        if not self._passive:
            self._render(self._stale)

    def _render(self, keys: set[_Key]) -> None:
        wanted = [self._state_of(key) for key in keys & self._stale]
        if not wanted:
            return
        self._passive = True
        try:
            super().render_multiple(wanted)
        finally:
            self._passive = False
        for state in wanted:
            key = (state.app_label, state.name_lower)
            self._stale.discard(key)
            self._rendered[key] = self._references_of(key)

    def render_multiple(self, model_states: list[ModelState]) -> None:
        """Render models, but not those that Django renders when a registry is made."""
        if not self._passive:
            super().render_multiple(model_states)

    # -- who changes --------------------------------------------------------------------------------------------------

    def change(self, keys: set[_Key]) -> None:
        """Take models that were changed, added or removed for stale, and whatever refers to them.

        So is what they do not refer to any more, or in another way: it would keep the way back.
        """
        for key in keys:
            self._references.pop(key, None)
        left = {
            target
            for key in keys
            for reference in self._rendered.pop(key, frozenset()) - self._references_of(key)
            if (target := reference[1]) not in self._stale
        }
        stale = _reach(keys | left, self._holders()) - self._stale
        with self.bulk_update():
            for key in stale:
                self._forget(key)
        self._stale = {key for key in self._stale | stale if key in self._states or key in self._real}

    def _forget(self, key: _Key) -> None:
        model: Any = self.all_models[key[0]].get(key[1])
        for field in model._meta.local_many_to_many if model is not None else ():
            # A name as yet, where what it names is not there.
            through = getattr(field.remote_field.through, "_meta", None)
            if through is not None and through.auto_created is model:
                self.unregister_model(through.app_label, through.model_name)
        self.unregister_model(*key)

    # -- what refers to what ------------------------------------------------------------------------------------------

    def _state_of(self, key: _Key) -> ModelState:
        return self._states.get(key) or self._real[key]

    def _references_of(self, key: _Key) -> _References:
        if key not in self._references:
            known = key in self._states or key in self._real
            self._references[key] = frozenset(_references(self._state_of(key))) if known else frozenset()
        return self._references[key]

    def _targets(self, key: _Key) -> Iterator[_Key]:
        return (target for _, target in self._references_of(key))

    def _holders(self) -> Callable[[_Key], Iterable[_Key]]:
        holders: dict[_Key, list[_Key]] = {}
        for key in (*self._states, *self._real):
            for target in self._targets(key):
                holders.setdefault(target, []).append(key)
        return lambda key: holders.get(key, ())


def _reach(keys: set[_Key], following: Callable[[_Key], Iterable[_Key]]) -> set[_Key]:
    """Return keys, and all that comes of following them."""
    found, left = set(keys), list(keys)
    while left:
        more = set(following(left.pop())) - found
        found |= more
        left += more
    return found


def _references(state: ModelState) -> Iterator[tuple[object, _Key]]:
    """Yield what a model inherits from and what its fields refer to, each with what its way back depends on."""
    me = (state.app_label, state.name_lower)
    for base in state.bases:
        if isinstance(base, str) or (issubclass(base, Model) and base is not Model and not base._meta.abstract):
            yield "base", resolve_relation(base, *me)
    for name, field in state.fields.items():
        if not field.remote_field:
            continue
        names = (getattr(field.remote_field, each, None) for each in ("related_name", "related_query_name"))
        way_back = (name, type(field), *names, state.options.get("default_related_name"))
        for target in (field.remote_field.model, getattr(field.remote_field, "through", None)):
            if target:
                yield way_back, resolve_relation(target, *me)
