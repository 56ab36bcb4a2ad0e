"""The fleet: which schemas there are to migrate, and the choice among them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from django.apps import apps
from django.db import DEFAULT_DB_ALIAS, router

from pg_tenants import conf, schemas
from pg_tenants.context import ActiveSchema, no_schema
from pg_tenants.exceptions import ConfigurationError
from pg_tenants.modules import Module, Registry, registry

__all__ = ["Target", "choose", "fixed_targets", "required_registry", "tenant_targets"]


@dataclass(frozen=True, slots=True)
class Target:
    """A schema to migrate.

    Attributes:
        schema: its name.
        modules: the modules whose tables are in it; several fixed modules may share a schema.
        tenant: the tenant's row; None for a fixed module's schema.
        problem: why it cannot be migrated at all.
    """

    schema: str
    modules: tuple[Module, ...]
    tenant: Any = None
    problem: Exception | None = None

    @property
    def apps(self) -> frozenset[str]:
        """Return the labels of the apps whose tables are in it, and of its modules' SQL files."""
        return frozenset(label for module in self.modules for label in module.labels)

    @property
    def module_names(self) -> str:
        """Return the modules' names, joined by commas."""
        return ", ".join(module.name for module in self.modules)

    @property
    def active(self) -> ActiveSchema:
        """Return what is active while it is migrated."""
        return ActiveSchema(self.schema, self.modules[0].name, self.tenant)


def required_registry() -> Registry:
    """Return the registry of modules.

    Raises:
        ConfigurationError: the project has no ``PG_TENANTS``.
    """
    conf.require()
    modules = registry()
    assert modules is not None
    return modules


def fixed_targets(using: str = DEFAULT_DB_ALIAS) -> list[Target]:
    """Return the fixed modules' schemas that live on an alias, in the order of the setting."""
    modules = required_registry()
    names = dict.fromkeys(module.schema for module in modules.fixed if module.database == using)
    return [Target(name, modules.of_schema(name)) for name in names if name]


def tenant_targets(using: str = DEFAULT_DB_ALIAS) -> list[Target]:
    """Return the tenants' schemas that live on an alias, sorted by name; none before the tenants' table exists.

    Tenants whose schema is still to be made are left out: it is made with all migrations.
    """
    modules = required_registry()
    model = apps.get_model(conf.require().tenant_model)
    home = router.db_for_read(model)
    with no_schema():
        place = next((module.schema for module in modules.of_app(model._meta.app_label) if module.is_fixed), None)
        if place is None or not schemas.table_exists(model._meta.db_table, schema=place, using=home):
            return []
        made = model._base_manager.using(home).exclude(status__in=("provisioning", "failed"))
        tenants = list(made.order_by("schema_name"))
    found = [_tenant_target(modules, tenant) for tenant in tenants]
    return [target for target in found if target.problem or target.modules[0].database == using]


def _tenant_target(modules: Registry, tenant: Any) -> Target:
    try:
        return Target(tenant.schema_name, (modules.tenant_module(tenant.module or None, tenant.schema_name),), tenant)
    except ConfigurationError as exc:
        return Target(tenant.schema_name, (), tenant, exc)


def choose(
    targets: Sequence[Target], *, names: Iterable[str] = (), modules: Iterable[str] = (), exclude: Iterable[str] = ()
) -> list[Target]:
    """Return the targets of these names and modules, without those that match a pattern.

    Args:
        targets: all there are.
        names: schemas; none means all.
        modules: modules; none means all.
        exclude: patterns as of a shell, such as ``trial_*``.

    Raises:
        ConfigurationError: a schema or a module is unknown.
    """
    wanted, of_modules, patterns = set(names), set(modules), list(exclude)
    known = {target.schema for target in targets}
    _refuse_unknown("schema", wanted, known)
    _refuse_unknown("module", of_modules, set(required_registry().modules))
    return [
        target
        for target in targets
        if (not wanted or target.schema in wanted)
        and (not of_modules or any(module.name in of_modules for module in target.modules))
        and not any(fnmatchcase(target.schema, pattern) for pattern in patterns)
    ]


def _refuse_unknown(kind: str, wanted: set[str], known: set[str]) -> None:
    for name in sorted(wanted - known):
        raise ConfigurationError(f"There is no {kind} {name!r} to migrate. {conf.nearest(name, sorted(known)[:50])}")
