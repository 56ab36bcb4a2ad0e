"""Instances know the schema that they were loaded from, and are refused in another one.

Django keeps the alias that an instance was read through in ``instance._state.db``. Here this is a ``TenantAlias``: the
same string, which carries the schema as well. It is made once per query, where Django asks a queryset for its alias, so
a row costs nothing.

The places where Django offers nothing to hook into are replaced by ``install()``. Signals would not do: a listener to
all deletes makes each of them load its rows, and bulk operations send none.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

from django.core.signals import setting_changed
from django.db import connections, router
from django.db.models import Model, QuerySet
from django.db.models import query as queries
from django.db.models.deletion import Collector
from django.db.models.fields import related_descriptors
from django.db.models.query import RawQuerySet
from django.db.models.sql import Query
from django.dispatch import receiver

from pg_tenants.backends.base import TenantDatabaseWrapperMixin
from pg_tenants.context import active
from pg_tenants.exceptions import WrongTenant
from pg_tenants.modules import registry

__all__ = [
    "TenantAlias",
    "check",
    "check_pair",
    "checked_manager",
    "install",
    "is_per_tenant",
    "place_of_app",
    "replace",
]

_ALIASES_KEPT = 4096
_ELSEWHERE = object()
"""The schema on an alias whose backend knows no tenants."""


class TenantAlias(str):
    """A database alias and the schema that was active when it was asked for; it equals the plain alias.

    Where it is known whose schema it was, ``identity`` tells it from a later one of the same name.
    """

    __slots__ = ("identity", "schema")
    schema: str
    identity: str | None

    @classmethod
    def of(cls, alias: str, schema: str, identity: str | None = None) -> TenantAlias:
        """Return the alias with its schema; equal ones are mostly one object."""
        found = _aliases.get((alias, schema, identity))
        if found is None:
            if len(_aliases) >= _ALIASES_KEPT:
                _aliases.clear()
            found = cls(alias)
            found.schema, found.identity = schema, identity
            _aliases[str(alias), schema, identity] = found
        return found

    def is_of(self, schema: object, identity: str | None) -> bool:
        """Return whether it is of this schema, as far as is known."""
        return self.schema == schema and (self.identity == identity or self.identity is None or identity is None)

    def __reduce__(self) -> Any:
        return TenantAlias.of, (str(self), self.schema, self.identity)


_aliases: dict[tuple[str, str, str | None], TenantAlias] = {}
_bound: dict[str, tuple[object, object, object]] = {}


def _place_on(alias: str) -> tuple[object, str | None]:
    """Return the schema that statements through an alias work in now, None for none, and whose it is."""
    settings = connections.settings.get(alias)
    if settings is None:
        return _ELSEWHERE, None
    options = settings["OPTIONS"].get("tenants")
    known = _bound.get(alias)
    if known is None or known[0] is not settings or known[1] is not options:
        connection: Any = connections[alias]
        ours = isinstance(connection, TenantDatabaseWrapperMixin)
        known = (settings, options, connection.tenant_options.schema if ours else _ELSEWHERE)
        _bound[str(alias)] = known
    if known[2]:
        return known[2], None
    target = active()
    return (None, None) if target is None else (target.schema_name, target.identity)


_tenant_apps: frozenset[str] | None = None


def is_per_tenant(model: Any) -> bool:
    """Return whether each tenant has a table of its own for a model."""
    # Asked once per query and more, so the registry is not looked up each time.
    apps = _tenant_apps
    return model._meta.app_label in (apps if apps is not None else _read_tenant_apps())


def _read_tenant_apps() -> frozenset[str]:
    global _tenant_apps
    modules = registry()
    _tenant_apps = frozenset() if modules is None else modules.tenant_apps
    return _tenant_apps


@receiver(setting_changed)
def _forget_tenant_apps(setting: str, **kwargs: Any) -> None:
    global _tenant_apps
    if setting in ("PG_TENANTS", "INSTALLED_APPS"):
        _tenant_apps = None


def place_of_app(app_label: str, alias: str) -> tuple[str, str | None] | None:
    """Return the schema whose copy of an app's tables an alias reaches now, and whose it is, as far as is known.

    It is None where there is one copy for all, or nothing is active.
    """
    modules = registry()
    if modules is None or app_label not in modules.tenant_apps:
        return None
    schema, identity = _place_on(alias)
    return (schema, identity) if isinstance(schema, str) else None


def check(instance: Any, alias: str | None = None, *, idle: bool = False) -> None:
    """Refuse an instance that was loaded from another schema than the active one.

    Instances of apps in fixed modules alone, new ones and those marked as new (``_state.adding``) pass.

    Args:
        instance: a model's instance; anything else passes.
        alias: the database alias that it is to be used through; None for the one that it was loaded through.
        idle: let it pass where nothing is active.

    Raises:
        WrongTenant: it was.
    """
    state: Any = getattr(instance, "_state", None)
    loaded = getattr(state, "db", None)
    if type(loaded) is not TenantAlias or state.adding or not is_per_tenant(instance):
        return
    here, identity = _place_on(alias or loaded)
    if here is _ELSEWHERE or loaded.is_of(here, identity) or (idle and here is None):
        return
    raise WrongTenant(
        f"{_name(instance)} was loaded from the schema {loaded.schema!r}, and {_said(here, identity, loaded)}. Use it "
        f"within the context of {loaded.schema!r}, or load the one that is meant. To copy it, set its pk to None and "
        "its _state.adding to True, and its relations anew."
    )


def check_pair(first: Any, second: Any) -> None:
    """Refuse a relation between instances of two schemas.

    Raises:
        WrongTenant: they were loaded from different ones.
    """
    one, other = first._state, second._state
    if (
        type(one.db) is TenantAlias
        and type(other.db) is TenantAlias
        and not one.db.is_of(other.db.schema, other.db.identity)
        and not (one.adding or other.adding)
        and is_per_tenant(first)
        and is_per_tenant(second)
    ):
        raise WrongTenant(
            f"{_name(first)} was loaded from the schema {one.db.schema!r} and {_name(second)} from "
            f"{other.db.schema!r}, so they cannot be related. Load both in the same tenant's context."
        )


def check_written(instance: Any, alias: str) -> None:
    """Refuse to write an instance, or one with a relation to an instance, that was loaded from another schema.

    Raises:
        WrongTenant: one of them was.
    """
    check(instance, alias)
    if "fields_cache" not in instance._state.__dict__ or not is_per_tenant(instance):
        return
    for field in (*instance._meta.concrete_fields, *instance._meta.private_fields):
        if field.is_relation and field.is_cached(instance):
            check(field.get_cached_value(instance), alias)


def _said(here: object, identity: str | None, loaded: TenantAlias) -> str:
    if here == loaded.schema:
        return f"the active one of that name is another tenant's: its key is {identity!r}, not {loaded.identity!r}"
    return f"the schema {here!r} is active" if here else "no tenant is active"


def _name(instance: Any) -> str:
    # Not by str(), which may ask the database.
    return f"The {instance._meta.label} with the primary key {instance.pk!r}"


def _marked(model: Any, alias: str) -> str:
    """Return the alias for statements on a model's table now, with their schema."""
    schema, identity = _place_on(alias) if is_per_tenant(model) else (None, None)
    return TenantAlias.of(alias, schema, identity) if isinstance(schema, str) else str(alias)


# -- what is replaced -------------------------------------------------------------------------------------------------


def install() -> None:
    """Make Django's models and querysets mark and check instances; once per process."""
    if isinstance(QuerySet.db, _Alias):
        return
    queryset: Any
    for queryset in (QuerySet, RawQuerySet):
        replace(queryset, "db", _Alias(queryset.db.fget))
    replace(Model, "save_base", _save_base(Model.save_base))
    replace(Model, "delete", _delete(Model.delete))
    replace(Model, "refresh_from_db", _checking_self(Model.refresh_from_db))
    replace(Model, "prepare_database_save", _checking_self(Model.prepare_database_save))
    replace(QuerySet, "bulk_create", _bulk(QuerySet.bulk_create))
    replace(QuerySet, "bulk_update", _bulk(QuerySet.bulk_update))
    replace(QuerySet, "contains", _contains(QuerySet.contains))
    replace(Collector, "related_objects", _related_objects(Collector.related_objects))
    replace(queries, "prefetch_one_level", _prefetch(queries.prefetch_one_level))
    replace(Query, "check_query_object_type", _value_of_filter(Query.check_query_object_type))
    for module, name in (
        (related_descriptors, "create_reverse_many_to_one_manager"),
        (related_descriptors, "create_forward_many_to_many_manager"),
    ):
        replace(module, name, checked_manager(getattr(module, name)))


def replace(owner: Any, name: str, value: Any) -> None:
    """Put ``value`` in the place of an attribute of Django's; type checkers have fixed ideas about those."""
    setattr(owner, name, value)


def _related_objects(original: Any) -> Any:
    """Wrap what a deletion asks for rows that refer to those deleted: not where the active schema has no such table.

    In other schemas PostgreSQL looks, and refuses with ``RowInUse``; so a foreign key without a constraint is asked
    for all the same, which is an error.
    """

    @functools.wraps(original)
    def related_objects(collector: Any, related_model: Any, related_fields: Any, objs: Any) -> Any:
        if _is_elsewhere(related_model, collector.using) and all(field.db_constraint for field in related_fields):
            return related_model._base_manager.using(collector.using).none()
        return original(collector, related_model, related_fields, objs)

    return related_objects


def _is_elsewhere(model: Any, alias: str) -> bool:
    """Return whether a model's table is in tenants' schemas alone, and not in what is active."""
    connection, modules = connections[alias], registry()
    if modules is None or not (isinstance(connection, TenantDatabaseWrapperMixin) and connection.is_tenant_aware):
        return False
    homes, target = modules.of_app(model._meta.app_label), active()
    if not homes or any(module.is_fixed for module in homes):
        return False
    return target is None or not set(homes) & set(modules.of_active(target))


class _Alias(property):
    """The property ``db`` of querysets, which Django asks once and more for each query that it sends."""

    def __init__(self, original: Any):
        def db(queryset: Any) -> str:
            alias: str = original(queryset)
            model = queryset.model
            if model is None or not is_per_tenant(model):
                return str(alias)
            if queryset._hints:
                check(queryset._hints.get("instance"), alias)
            schema, identity = _place_on(alias)
            given = queryset._db
            if type(given) is TenantAlias and schema is not _ELSEWHERE and not given.is_of(schema, identity):
                raise WrongTenant(
                    f"A query on {model._meta.label} has the database alias of an instance that was loaded from the "
                    f"schema {given.schema!r}, and {_said(schema, identity, given)}. "
                    f"Make it within the context of {given.schema!r}, or name the alias as text."
                )
            return TenantAlias.of(alias, schema, identity) if isinstance(schema, str) else str(alias)

        super().__init__(db, doc=original.__doc__)


def _save_base(original: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(original)
    def save_base(
        self: Any,
        raw: bool = False,
        force_insert: Any = False,
        force_update: bool = False,
        using: str | None = None,
        update_fields: Any = None,
    ) -> None:
        alias = using or router.db_for_write(self.__class__, instance=self)
        check_written(self, alias)
        original(self, raw, force_insert, force_update, _marked(self, alias), update_fields)

    return save_base


def _delete(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def delete(self: Any, using: str | None = None, keep_parents: bool = False) -> Any:
        check(self, using)
        return original(self, using, keep_parents)

    return delete


def _checking_self(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        check(self)
        return original(self, *args, **kwargs)

    return method


def _bulk(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def method(self: Any, objs: Iterable[Any], *args: Any, **kwargs: Any) -> Any:
        objs = list(objs)
        alias = self._db or router.db_for_write(self.model, **self._hints)
        for instance in objs:
            check_written(instance, alias)
        return original(self, objs, *args, **kwargs)

    return method


def _contains(original: Callable[..., bool]) -> Callable[..., bool]:
    @functools.wraps(original)
    def contains(self: Any, obj: Any) -> bool:
        # It is looked for by its key.
        check(obj)
        return original(self, obj)

    return contains


def _prefetch(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def prefetch_one_level(instances: Any, *args: Any, **kwargs: Any) -> Any:
        # Django looks at the first alone, and gives related objects to all by their keys.
        alias = None
        for instance in instances:
            if instance._state.db is not alias:
                check(instance)
                alias = instance._state.db
        return original(instances, *args, **kwargs)

    return prefetch_one_level


def _value_of_filter(original: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(original)
    def check_query_object_type(self: Any, value: Any, opts: Any, field: Any) -> None:
        original(self, value, opts, field)
        # A query may be made before its tenant is active.
        check(value, idle=True)

    return check_query_object_type


def checked_manager(factory: Callable[..., Any]) -> Callable[..., Any]:
    """Return a factory of related managers whose methods look at the instances that they are given.

    Django compares these by primary key where it removes or replaces them, and a generic relation adds them by it as
    well; nobody is told about that.
    """

    @functools.wraps(factory)
    def make(*args: Any, **kwargs: Any) -> Any:
        manager = factory(*args, **kwargs)

        def checked(name: str) -> Callable[..., Any]:
            original = getattr(manager, name)

            @functools.wraps(original)
            def method(self: Any, *objs: Any, **options: Any) -> Any:
                if name == "set":
                    objs = (tuple(objs[0]), *objs[1:]) if objs else (tuple(options.pop("objs")),)
                for instance in objs[0] if name == "set" else objs:
                    check(instance)
                return original(self, *objs, **options)

            return method

        methods = {name: checked(name) for name in ("add", "remove", "set") if hasattr(manager, name)}
        return type(manager.__name__, (manager,), {**methods, "__module__": manager.__module__})

    return make
