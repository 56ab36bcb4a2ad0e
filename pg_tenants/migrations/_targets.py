"""The fleet: which schemas there are to migrate, and the choice among them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from django.apps import apps
from django.db import DEFAULT_DB_ALIAS, router

from pg_tenants import conf, schemas
from pg_tenants.context import ActiveSchema, no_schema
from pg_tenants.exceptions import ConfigurationError
from pg_tenants.modules import Module, Registry, registry

__all__ = [
    "Target",
    "check_choice",
    "choose",
    "every_target",
    "fixed_targets",
    "required_registry",
    "tenant_targets",
    "unmatched",
    "waiting_tenants",
]

_WITHOUT_SCHEMA = ("provisioning", "failed")
_SHOWN = 20
_WILDCARDS = re.compile(r"[*?\[]")


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
        """Return what is active while it is migrated: with the rights of the tables' owner."""
        return ActiveSchema(self.schema, self.modules[0].name, self.tenant, as_owner=True)


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
    return [Target(name, modules.of_schema(name, using)) for name in names if name]


def tenant_targets(using: str = DEFAULT_DB_ALIAS) -> list[Target]:
    """Return the tenants' schemas that live on an alias, sorted by name; none before the tenants' table exists.

    Tenants whose schema is still to be made are left out: it is made with all migrations.
    """
    modules = required_registry()
    tenants = _tenants(lambda rows: rows.exclude(status__in=_WITHOUT_SCHEMA))
    found = [_tenant_target(modules, tenant) for tenant in tenants]
    # Of a tenant without a module it cannot be told in which of the tenants' databases its schema is.
    has_tenants = any(module.database == using for module in modules.tenant)
    return [t for t in found if (has_tenants if t.problem else t.modules[0].database == using)]


def waiting_tenants() -> dict[str, str]:
    """Return the tenants whose schema is still to be made, by name, with their status."""
    tenants = _tenants(lambda rows: rows.filter(status__in=_WITHOUT_SCHEMA))
    return {tenant.schema_name: tenant.status for tenant in tenants}


def every_target(using: str = DEFAULT_DB_ALIAS) -> list[Target]:
    """Return all schemas that live on an alias: the fixed modules', then the tenants'."""
    return [*fixed_targets(using), *tenant_targets(using)]


def _tenants(choice: Callable[[Any], Any]) -> list[Any]:
    model = apps.get_model(conf.require().tenant_model)
    home = router.db_for_read(model)
    with no_schema():
        homes = required_registry().of_app(model._meta.app_label)
        place = next((module.schema for module in homes if module.is_fixed), None)
        if place is None or not schemas.table_exists(model._meta.db_table, schema=place, using=home):
            return []
        return list(choice(model._base_manager.using(home)).order_by("schema_name"))


def _tenant_target(modules: Registry, tenant: Any) -> Target:
    try:
        return Target(tenant.schema_name, (modules.tenant_module(tenant.module or None, tenant.schema_name),), tenant)
    except ConfigurationError as exc:
        return Target(tenant.schema_name, (), tenant, exc)


def check_choice(
    using: str,
    *,
    names: Iterable[str] = (),
    modules: Iterable[str] = (),
    exclude: Iterable[str] = (),
    app_label: str | None = None,
) -> None:
    """Refuse a choice that names what is not there, or of which nothing can be left.

    Args:
        using: the database alias.
        names: schemas.
        modules: modules.
        exclude: patterns as of a shell. One without a wildcard is a name, which has to be there.
        app_label: the app whose migrations are asked for.

    Raises:
        ConfigurationError: a schema or a module is unknown, has no schema yet, or is not of the modules or the app.
    """
    wanted, of_modules, patterns = set(names), set(modules), list(exclude)
    known_modules = required_registry().modules
    _refuse_unknown("module", of_modules, set(known_modules))
    if not wanted and not patterns:
        return
    targets = {target.schema: target for target in every_target(using)}
    waiting = waiting_tenants() if wanted - set(targets) else {}
    for name in sorted(wanted & set(waiting)):
        raise ConfigurationError(
            f"The tenant {name!r} has the status {waiting[name]!r}, so there is no schema to migrate yet. Run "
            f"'manage.py provision_tenants {name}', which makes it with all migrations."
        )
    _refuse_unknown("schema", wanted, set(targets))
    named = {pattern for pattern in patterns if not _WILDCARDS.search(pattern)}
    _refuse_unknown("schema", named - set(waiting_tenants() if named - set(targets) else ()), set(targets), "exclude")
    for target in map(targets.__getitem__, sorted(wanted)):
        if of_modules and not any(module.name in of_modules for module in target.modules):
            raise ConfigurationError(
                f"The schema {target.schema!r} is of the module {target.module_names!r}, which was not chosen. Leave "
                "--module out, or name that one."
            )
    if wanted and app_label and not any(app_label in targets[name].apps or targets[name].problem for name in wanted):
        raise ConfigurationError(
            f"None of the chosen schemas ({', '.join(sorted(wanted))}) has tables of the app {app_label!r}: it is in "
            + (", ".join(repr(module.name) for module in required_registry().of_app(app_label)) or "no module")
            + ". Choose schemas of its modules, or leave the app out."
        )


def unmatched(using: str, exclude: Iterable[str]) -> list[str]:
    """Return the patterns that match no schema of an alias."""
    patterns = list(exclude)
    known = [target.schema for target in every_target(using)] if patterns else []
    return [pattern for pattern in patterns if not any(fnmatchcase(name, pattern) for name in known)]


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


def _refuse_unknown(kind: str, wanted: set[str], known: set[str], purpose: str = "migrate") -> None:
    for name in sorted(wanted - known):
        hint = conf.nearest(name, sorted(known)) if known else "There is none at all."
        raise ConfigurationError(f"There is no {kind} {name!r} to {purpose}. {_shortened(hint)}")


def _shortened(hint: str) -> str:
    names = hint.split(", ")
    return hint if len(names) <= _SHOWN else ", ".join(names[:_SHOWN]) + ", …"
