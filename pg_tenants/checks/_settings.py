"""The settings, and the modules, folders and models that they name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from django.apps import apps
from django.core.checks import CheckMessage, Error
from django.db import connections, router
from django.db.models import Model

from pg_tenants import conf
from pg_tenants.checks._common import is_ours, options_of
from pg_tenants.exceptions import InvalidSchemaName
from pg_tenants.known_extensions import EXTENSION_NAME
from pg_tenants.models import DomainMixin, TenantMixin
from pg_tenants.modules import Registry, app_label, registry
from pg_tenants.names import validate_schema_name

__all__ = ["check_models", "check_modules", "check_settings"]

_PROBLEM_IDS = {
    "unknown": "pg_tenants.E001",
    "type": "pg_tenants.E002",
    "missing": "pg_tenants.E003",
    "debug": "pg_tenants.E095",
}


def check_settings(app_configs: Sequence[Any] | None = None, **kwargs: Any) -> list[CheckMessage]:
    """Find keys of PG_TENANTS that are unknown, missing, or of a wrong type."""
    config = conf.get()
    if config is None:
        return [
            Error(
                "settings.PG_TENANTS is missing.",
                hint="Set it to a dictionary with TENANT_MODEL, DOMAIN_MODEL and MODULES.",
                id="pg_tenants.E003",
            )
        ]
    return [Error(message, hint=hint, id=_PROBLEM_IDS[kind]) for kind, message, hint in config.problems]


def check_modules(app_configs: Sequence[Any] | None = None, **kwargs: Any) -> list[CheckMessage]:
    """Find modules whose apps, schemas, extensions or databases cannot be as written."""
    config, modules = conf.get(), registry()
    if config is None or modules is None:
        return []
    return [
        *_uninstalled_apps(config),
        *_apps_in_two_fixed_modules(modules),
        *_apps_in_no_module(modules),
        *_bad_names(config),
        *_bad_databases(modules),
        *([] if modules.tenant else [_no_tenant_module()]),
    ]


def _uninstalled_apps(config: conf.Config) -> Iterator[CheckMessage]:
    labels = [name for app in apps.get_app_configs() for name in dict.fromkeys((app.label, app.name))]
    for module in config.modules.values():
        for entry in module.apps:
            if app_label(entry) is None:
                yield Error(
                    f"The module {module.name!r} has the app {entry!r}, which is not installed.",
                    hint=f"Add it to INSTALLED_APPS, or correct it. {conf.nearest(entry, labels)}",
                    id="pg_tenants.E004",
                )


def _apps_in_two_fixed_modules(modules: Registry) -> Iterator[CheckMessage]:
    for config in apps.get_app_configs():
        fixed = {module.name: module for module in modules.of_app(config.label) if module.is_fixed}.values()
        if len(fixed) > 1:
            yield Error(
                f"The app {config.label!r} is in several fixed modules: {', '.join(repr(m.name) for m in fixed)}.",
                hint="Leave it in one of them. An app may be in one fixed module and in tenant modules.",
                id="pg_tenants.E006",
            )


def _apps_in_no_module(modules: Registry) -> Iterator[CheckMessage]:
    for config in apps.get_app_configs():
        if modules.of_app(config.label):
            continue
        models = [model for model in config.get_models() if model._meta.managed and not model._meta.proxy]
        ours = [model for model in models if not model._meta.swapped and is_ours(router.db_for_write(model))]
        if ours:
            yield Error(
                f"The app {config.label!r} has models ({ours[0].__name__}, …) and is in no module, so its tables are "
                "made nowhere.",
                hint=f"Add {config.name!r} to the apps of a module in PG_TENANTS['MODULES']: a fixed one for tables "
                "that all tenants share, a tenant one for tables that each has.",
                id="pg_tenants.E005",
            )


def _bad_names(config: conf.Config) -> Iterator[CheckMessage]:
    schemas = [(f"the module {m.name!r}", m.schema) for m in config.modules.values() if m.schema is not None]
    for owner, name in [*schemas, ("EXTENSIONS_SCHEMA", config.extensions_schema)]:
        try:
            validate_schema_name(name, fixed=True)
        except InvalidSchemaName as exc:
            yield Error(f"The schema of {owner} has a bad name.", hint=f"Choose another: {exc}", id="pg_tenants.E011")
    for module in config.modules.values():
        for name in module.extensions:
            if not EXTENSION_NAME.fullmatch(name):
                yield Error(
                    f"The module {module.name!r} has the extension {name!r}, which is no extension's name.",
                    hint="Use lower-case letters, digits, '_' and '-', as in 'pg_trgm'.",
                    id="pg_tenants.E012",
                )


def _bad_databases(modules: Registry) -> Iterator[CheckMessage]:
    for module in modules:
        if module.database not in connections.settings:
            yield Error(
                f"The module {module.name!r} has the database {module.database!r}, which is not in DATABASES.",
                hint=conf.nearest(module.database, connections.settings),
                id="pg_tenants.E014",
            )
        elif (engine := connections.settings[module.database]["ENGINE"]) == conf.NO_ENGINE:
            yield Error(
                f"The module {module.name!r} has no database: it names none, and DATABASES has no default one.",
                hint=f"Set PG_TENANTS['MODULES'][{module.name!r}]['database'] to an alias, or add "
                "DATABASES['default'].",
                id="pg_tenants.E094",
            )
        elif not is_ours(module.database):
            yield Error(
                f"DATABASES[{module.database!r}] has the ENGINE {engine!r}, which knows no tenants.",
                hint=f"Set it to {conf.ENGINE!r}, or 'pg_tenants.backends.postgis'.",
                id="pg_tenants.E010",
            )
        elif (options := options_of(module.database)) and options.schema:
            yield Error(
                f"The module {module.name!r} lives on DATABASES[{module.database!r}], which is bound to the schema "
                f"{options.schema!r}, where all statements of that alias run.",
                hint="Name an alias without OPTIONS['tenants']['schema'].",
                id="pg_tenants.E096",
            )


def _no_tenant_module() -> CheckMessage:
    return Error(
        "PG_TENANTS['MODULES'] has no tenant module.",
        hint="Add one without 'schema', with the apps whose tables each tenant has.",
        id="pg_tenants.E015",
    )


def check_models(app_configs: Sequence[Any] | None = None, **kwargs: Any) -> list[CheckMessage]:
    """Find a TENANT_MODEL or DOMAIN_MODEL that cannot be one, and relations that cannot be kept."""
    config, modules = conf.get(), registry()
    if config is None or modules is None:
        return []
    return [
        *_model_problems("TENANT_MODEL", config.tenant_model, TenantMixin, modules),
        *_model_problems("DOMAIN_MODEL", config.domain_model, DomainMixin, modules),
        *_bad_relations(modules),
    ]


def _model_problems(key: str, name: str, mixin: type[Model], modules: Registry) -> Iterator[CheckMessage]:
    if not name:
        return
    try:
        model = apps.get_model(name)
    except (LookupError, ValueError) as exc:
        yield Error(
            f"PG_TENANTS[{key!r}] is {name!r}, and there is no such model: {exc}",
            hint="Write it as 'app_label.ModelName' of an installed app.",
            id="pg_tenants.E007",
        )
        return
    if not issubclass(model, mixin):
        yield Error(
            f"PG_TENANTS[{key!r}] is {name!r}, which does not inherit from {mixin.__name__}.",
            hint=f"Write class {model.__name__}({mixin.__name__}), from pg_tenants.models.",
            id="pg_tenants.E007",
        )
    homes = modules.of_app(model._meta.app_label)
    if any(not module.is_fixed for module in homes):
        yield Error(
            f"PG_TENANTS[{key!r}] is {name!r}, and its app is in a tenant module, so each tenant would have its own.",
            hint=f"Move the app {model._meta.app_label!r} to a fixed module, such as one with the schema 'public'.",
            id="pg_tenants.E008",
        )


def _bad_relations(modules: Registry) -> Iterator[CheckMessage]:
    for model in apps.get_models(include_auto_created=True):
        for field in model._meta.local_fields:
            target = field.related_model
            if not isinstance(target, type) or not field.remote_field:
                continue
            here, there = modules.of_app(model._meta.app_label), modules.of_app(target._meta.app_label)
            for module in here:
                reachable = module in there or any(m.is_fixed and m.database == module.database for m in there)
                if there and not reachable:
                    places = ", ".join(f"{m.name!r} (on {m.database!r})" for m in there)
                    yield Error(
                        f"{model.__name__}.{field.name} of the module {module.name!r} (on {module.database!r}) refers "
                        f"to {target.__name__}, which is in {places} and cannot be reached from there.",
                        hint="Put both models into one module, or keep the key in a plain field.",
                        obj=field,
                        id="pg_tenants.E013",
                    )
