"""The registry of modules: which app lives in which schema, and what each schema's search path is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from django.apps import AppConfig, apps
from django.db import DEFAULT_DB_ALIAS, connections
from django.db.models.signals import class_prepared
from django.dispatch import receiver

from pg_tenants import conf
from pg_tenants.context import ActiveSchema
from pg_tenants.exceptions import ConfigurationError, NoActiveTenant
from pg_tenants.names import is_scratch

if TYPE_CHECKING:
    from django.db.models import Model

__all__ = [
    "SQL_LABEL",
    "Module",
    "Registry",
    "TableName",
    "has_ambiguous_tables",
    "mark_ambiguous_tables",
    "registry",
]

SQL_LABEL = "sql:"
"""What goes before a module's name where its SQL files stand beside apps; no app's label has a colon."""


@dataclass(frozen=True, slots=True)
class Module:
    """A named group of apps with a placement of its own.

    Attributes:
        name: the key in ``PG_TENANTS["MODULES"]``.
        schema: the schema of a fixed module; None for a tenant module, which has a schema per tenant.
        apps: labels of its apps.
        extensions: PostgreSQL extensions that its tables need.
        database: the alias it lives on.
        sql_migrations: the folder of its SQL files; None for a module without.
    """

    name: str
    schema: str | None
    apps: tuple[str, ...]
    extensions: tuple[str, ...]
    database: str
    sql_migrations: Path | None = None

    @property
    def sql_label(self) -> str:
        """What its SQL files are called by in place of an app's label, of which it can be none."""
        return f"{SQL_LABEL}{self.name}"

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels of all that is migrated in its schemas: its apps, and its SQL files if it has a folder."""
        return (*self.apps, *([self.sql_label] if self.sql_migrations else []))

    @property
    def is_fixed(self) -> bool:
        """Whether the module lives in one named schema."""
        return self.schema is not None


class Registry:
    """All modules of the project, looked up by app, by schema and by alias."""

    def __init__(self, config: conf.Config):
        self._config = config
        self.extensions_schema = config.extensions_schema
        self.modules: dict[str, Module] = {
            name: Module(
                name=name,
                schema=module.schema,
                apps=tuple(label for entry in module.apps if (label := app_label(entry)) is not None),
                extensions=module.extensions,
                database=module.database or DEFAULT_DB_ALIAS,
                sql_migrations=module.sql_migrations,
            )
            for name, module in config.modules.items()
        }

    def __iter__(self) -> Iterator[Module]:
        return iter(self.modules.values())

    @cached_property
    def fixed(self) -> tuple[Module, ...]:
        """Return the fixed modules in the order of the setting."""
        return tuple(module for module in self if module.is_fixed)

    @cached_property
    def tenant(self) -> tuple[Module, ...]:
        """Return the tenant modules in the order of the setting."""
        return tuple(module for module in self if not module.is_fixed)

    @cached_property
    def _by_app(self) -> dict[str, tuple[Module, ...]]:
        found: dict[str, tuple[Module, ...]] = {}
        for module in self:
            for label in module.apps:
                found[label] = (*found.get(label, ()), module)
        return found

    @cached_property
    def fixed_schemas(self) -> dict[str, Module]:
        """Return the fixed modules by their schema; two modules may share one, then the first is named."""
        return {module.schema: module for module in reversed(self.fixed) if module.schema}

    @cached_property
    def is_in_one_database(self) -> bool:
        """Whether all modules live on the default alias."""
        return all(module.database == DEFAULT_DB_ALIAS for module in self)

    @cached_property
    def tenant_apps(self) -> frozenset[str]:
        """Return the labels of the apps that each tenant has tables of, those in a fixed module as well included."""
        return frozenset(label for module in self.tenant for label in module.apps)

    def of_app(self, label: str) -> tuple[Module, ...]:
        """Return the modules that an app is in; empty for an app in none."""
        return self._by_app.get(label, ())

    def of_schema(self, schema: str, database: str | None = None) -> tuple[Module, ...]:
        """Return the fixed modules that live in ``schema``, of one alias or of all that have such a schema."""
        return tuple(module for module in self.fixed if module.schema == schema and database in (None, module.database))

    def of_active(self, target: ActiveSchema) -> tuple[Module, ...]:
        """Return the modules whose tables are in an active schema.

        A scratch schema is of the module that is named, be it a fixed one.

        Raises:
            ConfigurationError: a tenant's module is unknown, or not given where the project has several.
        """
        if is_scratch(target.schema_name) and (named := self.modules.get(target.module or "")) and named.schema:
            return self.of_schema(named.schema)
        return self.of_schema(target.schema_name) or (self.tenant_module(target.module, target.schema_name),)

    def elsewhere(self, label: str, target: ActiveSchema) -> tuple[Module, ...]:
        """Return the tenant modules of an app that tenants of the active one's module do not have; else nothing."""
        module = self.modules.get(target.module or "")
        if module is None or module.is_fixed or target.schema_name in self.fixed_schemas:
            return ()
        found = self.of_app(label)
        return () if module in found or any(each.is_fixed for each in found) else found

    def tenant_module(self, name: str | None, schema: str = "") -> Module:
        """Return the tenant module called ``name``, or the only one where no name is given.

        Raises:
            ConfigurationError: there is none of that name, or several and none is named.
        """
        if name:
            module = self.modules.get(name)
            if module is None or module.is_fixed:
                raise ConfigurationError(
                    f"The tenant {schema!r} is of module {name!r}, which is no tenant module of PG_TENANTS['MODULES']. "
                    + conf.nearest(name, (module.name for module in self.tenant))
                )
            return module
        if len(self.tenant) != 1:
            names = ", ".join(repr(module.name) for module in self.tenant) or "none"
            raise ConfigurationError(
                f"Which module the schema {schema!r} belongs to cannot be told: PG_TENANTS['MODULES'] has these tenant "
                f"modules: {names}. Give the tenant's field 'module', which create_tenant has as --module, or "
                "schema_context(..., module=...)."
            )
        return self.tenant[0]

    @cached_property
    def databases(self) -> tuple[str, ...]:
        """Return the aliases that modules live on, in the order in which their schemas are migrated.

        Those of fixed modules alone come before those with tenants, as fixed modules' schemas do in one database. Of
        these the first is that of the tenants' rows, which say what schemas there are.
        """
        label = self._config.tenant_model.partition(".")[0]
        of_rows = {module.database for module in self.of_app(label)}
        with_tenants = {module.database for module in self.tenant}
        found = dict.fromkeys(module.database for module in self)
        # The sort keeps the setting's order otherwise.
        return tuple(sorted(found, key=lambda alias: (alias in with_tenants, alias not in of_rows)))

    def home(self, alias: str) -> str:
        """Return the alias that the modules which an alias reaches live on.

        An alias that owns no module is another way into the database of one that does, such as a read-only one: of
        that with the same server and name, else of the only one with the same name, else of the default.
        """
        owners = self.databases
        if alias in owners or len(owners) < 2:
            return alias if alias in owners else DEFAULT_DB_ALIAS
        for keys in (("HOST", "PORT", "NAME"), ("NAME",)):
            here = _place(alias, keys)
            same = [owner for owner in owners if _place(owner, keys) == here]
            if len(same) == 1:
                return same[0]
        return DEFAULT_DB_ALIAS

    def reaches(self, target: ActiveSchema, alias: str) -> bool:
        """Return whether an active schema is in the database of an alias.

        Where which module it is of cannot be told, it is: a statement then proves that the schema is there.
        """
        if len(self.databases) < 2:
            return True
        return self.home(alias) in self._databases_of(target)

    def _databases_of(self, target: ActiveSchema) -> set[str]:
        named = self.modules.get(target.module or "")
        if named is not None and is_scratch(target.schema_name):
            return {named.database}
        fixed = self.of_schema(target.schema_name)
        if fixed:
            return {module.database for module in fixed}
        return {module.database for module in ([named] if named else self.tenant)} or set(self.databases)

    def search_path(self, schema: str | None, alias: str) -> tuple[str, ...]:
        """Return the schemas that statements look in, before the extensions': the active one, the fixed modules'.

        Args:
            schema: the active schema; None for the path without a tenant.
            alias: the database alias; only modules that live in its database are on the path.
        """
        home = self.home(alias)
        path = dict.fromkeys((schema,) if schema else ())
        path.update(dict.fromkeys(module.schema for module in self.fixed if module.schema and module.database == home))
        return tuple(path)


def _place(alias: str, keys: tuple[str, ...]) -> tuple[str, ...]:
    entry = connections.settings.get(alias, {})
    place = tuple(str(entry.get(key) or "") for key in keys)
    return place if entry.get("NAME") else (alias,)


def app_label(entry: str) -> str | None:
    """Return the label of an app given by label, name, or the path of its AppConfig; None if it is not installed."""
    config = _app_config(entry)
    return None if config is None else config.label


def _app_config(entry: str) -> AppConfig | None:
    for config in apps.get_app_configs():
        if entry in (config.label, config.name, f"{type(config).__module__}.{type(config).__qualname__}"):
            return config
    return None


_built: tuple[conf.Config, object, Registry] | None = None


def registry() -> Registry | None:
    """Return the registry of the current settings, or None where the project has no ``PG_TENANTS``."""
    global _built
    config = conf.get()
    if config is None:
        return None
    built = _built
    # The mapping of app configs is replaced whenever INSTALLED_APPS are overridden.
    if built is None or built[0] is not config or built[1] is not apps.app_configs:
        apps.check_apps_ready()
        built = (config, apps.app_configs, Registry(config))
        _built = built
    return built[2]


class TableName(str):
    """A model's table name that several modules have, so the model's app decides where it is looked for.

    It equals the plain name; the quoting of identifiers qualifies it. Of two in one query, the second gets an alias.
    """

    __slots__ = ("app",)
    app: str

    @classmethod
    def of(cls, name: str, app: str) -> TableName:
        """Return ``name`` as the table of a model in the app with this label."""
        table = cls(name)
        table.app = app
        return table

    def __getnewargs__(self) -> tuple[str]:
        return (str(self),)

    def schema(self, active: ActiveSchema | None, modules: Registry) -> str | None:
        """Return the schema to qualify the table by, or None for an app in no module.

        Raises:
            NoActiveTenant: the app is in a tenant module too, and neither a tenant nor a schema that has it is active.
        """
        homes = modules.of_app(self.app)
        if not homes:
            return None
        if active is not None and any(module in homes for module in modules.of_active(active)):
            return active.schema_name
        if len(homes) == 1 and homes[0].is_fixed:
            return homes[0].schema
        fixed = [module.schema for module in homes if module.is_fixed]
        shared = f", or schema_context({fixed[0]!r}) for the shared table" if fixed else ""
        raise NoActiveTenant(
            f"The table {str(self)!r} of app {self.app!r} is a tenant's, and no tenant with it is active. "
            f"Use tenant_context(tenant){shared}."
        )


_ambiguous: frozenset[str] = frozenset()


def mark_ambiguous_tables(models: Iterable[type[Model]] | None = None) -> list[type[Any]]:
    """Mark the tables whose name alone does not say which schema is meant, and return their models.

    These are tables of one name in several modules, and tables of an app that is in a fixed and in a tenant module.
    Models that are made later, such as those of migrations, are marked when they are made.
    """
    global _ambiguous
    found = registry()
    if found is None:
        return []
    by_name: dict[str, list[type[Model]]] = {}
    for model in models if models is not None else apps.get_models(include_auto_created=True):
        meta = model._meta
        if not meta.proxy and meta.managed and found.of_app(meta.app_label):
            by_name.setdefault(meta.db_table, []).append(model)
    marked = []
    for name, group in by_name.items():
        placements = {module.name for model in group for module in found.of_app(model._meta.app_label)}
        fixed = any(module.is_fixed for model in group for module in found.of_app(model._meta.app_label))
        if len(placements) > 1 and fixed:
            for model in group:
                model._meta.db_table = TableName.of(str(name), model._meta.app_label)
                marked.append(model)
    _ambiguous = frozenset(str(model._meta.db_table) for model in marked)
    return marked


def has_ambiguous_tables() -> bool:
    """Return whether any table was marked."""
    return bool(_ambiguous)


@receiver(class_prepared)
def _mark_if_ambiguous(sender: type[Model], **kwargs: Any) -> None:
    meta = sender._meta
    if meta.db_table in _ambiguous and not meta.proxy and meta.managed:
        meta.db_table = TableName.of(str(meta.db_table), meta.app_label)
