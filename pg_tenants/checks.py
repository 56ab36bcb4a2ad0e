"""System checks. Each has an id of its own; docs/reference/checks lists them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

from django.apps import apps
from django.conf import settings
from django.core import checks
from django.core.cache import caches
from django.core.checks import CheckMessage, Error, Tags, Warning  # noqa: A004  # Django's own names
from django.db import OperationalError, connections, router
from django.db.models import Model
from django.db.utils import DatabaseError, NotSupportedError, ProgrammingError

from pg_tenants import conf, roles
from pg_tenants.backends.base import TenantDatabaseWrapperMixin
from pg_tenants.context import no_schema
from pg_tenants.exceptions import ConfigurationError, InvalidSchemaName, MigrationFailed, PgTenantsError
from pg_tenants.extensions import missing, wanted
from pg_tenants.known_extensions import EXTENSION_NAME, ONLY_LIBRARIES, PRELOADED, remedy
from pg_tenants.migrations import (
    ModuleLoader,
    MovedTables,
    Target,
    moved_tables,
    required_registry,
    sql_problems,
    tenant_targets,
)
from pg_tenants.models import DomainMixin, TenantMixin
from pg_tenants.modules import Registry, app_label, registry
from pg_tenants.names import validate_schema_name
from pg_tenants.provisioning import template
from pg_tenants.provisioning.locks import max_locks_needed
from pg_tenants.resolvers import SessionResolver, resolvers
from pg_tenants.routers import TenantRouter

__all__ = ["register"]

ROUTER = "pg_tenants.routers.TenantRouter"
MIDDLEWARE = "pg_tenants.middleware.TenantMiddleware"
SESSIONS = "django.contrib.sessions.middleware.SessionMiddleware"
CSRF = "django.middleware.csrf.CsrfViewMiddleware"
SHOWN = 5
"""How many schemas a message names."""

_ENGINES = "django.contrib.sessions.backends."
_CACHE_MIDDLEWARE = [f"django.middleware.cache.{name}CacheMiddleware" for name in ("Update", "FetchFrom")]
_PROBLEM_IDS = {
    "unknown": "pg_tenants.E001",
    "type": "pg_tenants.E002",
    "missing": "pg_tenants.E003",
    "debug": "pg_tenants.E095",
}
_SQL_PROBLEM_IDS = {
    "folder": "pg_tenants.E042",
    "name": "pg_tenants.E043",
    "number": "pg_tenants.E044",
    "content": "pg_tenants.E045",
    "reference": "pg_tenants.E046",
    "shared": "pg_tenants.E047",
    "empty": "pg_tenants.W042",
}


def register() -> None:
    """Register the checks."""
    checks.register(check_settings)
    checks.register(check_modules)
    checks.register(check_sql_migrations)
    checks.register(check_models, Tags.models)
    checks.register(check_installation)
    checks.register(check_surroundings)
    checks.register(check_admin, Tags.admin)
    checks.register(check_pgserver)
    checks.register(check_deployment, deploy=True)
    checks.register(check_databases, Tags.database)


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
        ours = [model for model in models if not model._meta.swapped and _is_ours(router.db_for_write(model))]
        if ours:
            yield Error(
                f"The app {config.label!r} has models ({ours[0].__name__}, …) and is in no module, so its tables are "
                "made nowhere.",
                hint=f"Add {config.name!r} to the apps of a module in PG_TENANTS['MODULES']: a fixed one for tables "
                "that all tenants share, a tenant one for tables that each has.",
                id="pg_tenants.E005",
            )


def _is_ours(alias: str) -> bool:
    return isinstance(connections[alias], TenantDatabaseWrapperMixin)


def _bad_names(config: conf.Config) -> Iterator[CheckMessage]:
    schemas = [(f"the module {m.name!r}", m.schema) for m in config.modules.values() if m.schema is not None]
    for owner, name in [*schemas, ("EXTENSIONS_SCHEMA", config.extensions_schema)]:
        try:
            validate_schema_name(name, fixed=True)
        except InvalidSchemaName as exc:
            yield Error(f"The schema of {owner} has a bad name.", hint=str(exc), id="pg_tenants.E011")
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
        elif not _is_ours(module.database):
            yield Error(
                f"DATABASES[{module.database!r}] has the ENGINE {engine!r}, which knows no tenants.",
                hint=f"Set it to {conf.ENGINE!r}, or 'pg_tenants.backends.postgis'.",
                id="pg_tenants.E010",
            )
        elif schema := _bound_to(module.database):
            yield Error(
                f"The module {module.name!r} lives on DATABASES[{module.database!r}], which is bound to the schema "
                f"{schema!r}, where all statements of that alias run.",
                hint="Name an alias without OPTIONS['tenants']['schema'].",
                id="pg_tenants.E096",
            )


def _bound_to(alias: str) -> str | None:
    options = _options_of(alias)
    return None if options is None else options.schema


def _no_tenant_module() -> CheckMessage:
    return Error(
        "PG_TENANTS['MODULES'] has no tenant module.",
        hint="Add one without 'schema', with the apps whose tables each tenant has.",
        id="pg_tenants.E015",
    )


def check_sql_migrations(app_configs: Sequence[Any] | None = None, **kwargs: Any) -> list[CheckMessage]:
    """Find folders of SQL files that are missing or shared, and files that cannot be run as they are."""
    if registry() is None:
        return []
    found: list[CheckMessage] = []
    for problem in sql_problems():
        kind = Warning if problem.kind == "empty" else Error
        found.append(kind(problem.message, hint=problem.remedy, id=_SQL_PROBLEM_IDS[problem.kind]))
    if not found and any(module.sql_migrations for module in registry() or ()):
        try:
            ModuleLoader(None, ())
        except MigrationFailed as exc:
            found.append(Error(str(exc), hint="Correct its 'after' and 'before'.", id=_SQL_PROBLEM_IDS["reference"]))
    return found


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


def check_installation(app_configs: Sequence[Any] | None = None, **kwargs: Any) -> list[CheckMessage]:
    """Find a missing router or middleware, bad options of an alias, and resolvers that cannot be imported."""
    found: list[CheckMessage] = [*_second_pools()]
    if not any(isinstance(entry, TenantRouter) for entry in router.routers):
        found.append(
            Error(
                "The router of pg_tenants is missing.",
                hint=f"Add {ROUTER!r} to DATABASE_ROUTERS.",
                id="pg_tenants.E009",
            )
        )
    for alias in connections.settings:
        connection = connections[alias]
        if isinstance(connection, TenantDatabaseWrapperMixin):
            try:
                connection.tenant_options  # noqa: B018
            except ConfigurationError as exc:
                found.append(Error(str(exc), hint="See the settings reference.", id="pg_tenants.E016"))
            else:
                found.extend(_way_of_migrations(alias, connection))
    if conf.get() is not None:
        try:
            resolvers()
        except ConfigurationError as exc:
            found.append(Error(str(exc), hint="See the settings reference.", id="pg_tenants.E017"))
    return [*found, *_middleware_order(), *_shared_cache()]


def _second_pools() -> Iterator[CheckMessage]:
    """Find pools that take each other's connections: of two aliases for everything on one database."""
    by_place: dict[tuple[str, ...], list[str]] = {}
    for alias in connections.settings:
        options = _options_of(alias)
        pooled = _is_ours(alias) and connections.settings[alias]["OPTIONS"].get("pool")
        if pooled and options is not None and not options.readonly and options.schema is None:
            by_place.setdefault(_place_of(alias, options), []).append(alias)
    for first, *others in by_place.values():
        for alias in others:
            yield Warning(
                f"DATABASES[{first!r}] and DATABASES[{alias!r}] have a pool of connections each, on the same database.",
                hint="Use one of them for all schemas. A second one is of use where it is read-only, or bound to one "
                "schema.",
                id="pg_tenants.W093",
            )


def _options_of(alias: str) -> conf.AliasOptions | None:
    connection = connections[alias]
    try:
        return connection.tenant_options if isinstance(connection, TenantDatabaseWrapperMixin) else None
    except ConfigurationError:
        return None  # E016 says why.


def _place_of(alias: str, options: conf.AliasOptions) -> tuple[str, ...]:
    """Return the server and the database of an alias, the same for what means the same."""
    entry = connections.settings[alias]
    service = str(entry["OPTIONS"].get("service") or "")
    if options.pgserver:
        return "pgserver", str(entry["NAME"])
    host = str(entry["HOST"] or os.environ.get("PGHOST") or "").lower().rstrip(".")
    here = "localhost" if host in ("127.0.0.1", "::1") else host
    return service, here, str(entry["PORT"] or os.environ.get("PGPORT") or 5432), str(entry["NAME"])


def _way_of_migrations(alias: str, connection: TenantDatabaseWrapperMixin) -> Iterator[CheckMessage]:
    options = connection.tenant_options
    direct = options.migrations_alias
    where = f"DATABASES[{alias!r}]['OPTIONS']['tenants']"
    if direct is None:
        if options.pooler and connection.is_tenant_aware:
            yield Warning(
                f"DATABASES[{alias!r}] leads through a pooler, and migrations have no way past it: those that need a "
                "session of their own, such as concurrent indexes, are refused.",
                hint=f"Name an alias that is connected directly in {where}['migrations']['alias'].",
                id="pg_tenants.W048",
            )
    elif direct == alias or direct not in connections.settings or not _is_ours(direct):
        yield Error(
            f"{where}['migrations']['alias'] is {direct!r}, which is no other alias with an ENGINE of pg_tenants.",
            hint=f"Add it to DATABASES, with the same NAME and ENGINE as {alias!r}. "
            + conf.nearest(direct, [name for name in connections.settings if name != alias] or ["none"]),
            id="pg_tenants.E048",
        )
    elif connections.settings[direct]["NAME"] != connection.settings_dict["NAME"] and not options.worker:
        yield Error(
            f"{alias!r} is migrated on the alias {direct!r}, which has another database: "
            f"{connections.settings[direct]['NAME']!r}, not {connection.settings_dict['NAME']!r}.",
            hint=f"Give DATABASES[{direct!r}] the same NAME; the two may differ in HOST, PORT, USER, PASSWORD and "
            "OPTIONS.",
            id="pg_tenants.E049",
        )


def check_admin(app_configs: Sequence[Any] | None = None, **kwargs: Any) -> list[CheckMessage]:
    """Find a TENANT_MODEL in the admin that makes schemas inside requests, or whose users have no shared tables."""
    config, modules = conf.get(), registry()
    if config is None or modules is None or not apps.is_installed("django.contrib.admin"):
        return []
    # Models, which this imports, can be imported only after the apps are loaded.
    from django.contrib.admin.sites import all_sites  # noqa: PLC0415

    from pg_tenants.admin import TenantAdmin  # noqa: PLC0415

    found: list[CheckMessage] = []
    registered = [
        entry for site in all_sites for model, entry in site._registry.items() if issubclass(model, TenantMixin)
    ]
    for entry in registered:
        if not isinstance(entry, TenantAdmin):
            found.append(
                Warning(
                    f"{type(entry).__name__}, of {entry.model.__name__}, does not inherit from TenantAdmin: schemas "
                    "are made inside requests, and tenants' own administrators may reach all tenants.",
                    hint=f"Write class {type(entry).__name__}(TenantAdmin), from pg_tenants.admin.",
                    id="pg_tenants.W090",
                )
            )
    needed = ("admin", "contenttypes", settings.AUTH_USER_MODEL.partition(".")[0])
    lacking = [label for label in needed if not any(module.is_fixed for module in modules.of_app(label))]
    if registered and lacking:
        found.append(
            Warning(
                f"Tenants are in the admin, which is for the public hosts, and {', '.join(map(repr, lacking))} in no "
                "fixed module, so there are no tables there for its users and its log.",
                hint="Add these apps to the fixed module of the TENANT_MODEL; they may be in tenant modules as well.",
                id="pg_tenants.W091",
            )
        )
    return found


def _middleware_order() -> Iterator[CheckMessage]:
    names = list(settings.MIDDLEWARE)
    sessions_first = _comes_before(names, SESSIONS, MIDDLEWARE)
    if sessions_first and not _resolves_by_session():
        yield Warning(
            "SessionMiddleware comes before TenantMiddleware, so sessions are read before the tenant is known.",
            hint=f"Move {MIDDLEWARE!r} to the top of MIDDLEWARE.",
            id="pg_tenants.W001",
        )
    if _resolves_by_session() and MIDDLEWARE in names and not sessions_first:
        yield Error(
            "SessionResolver needs sessions, and SessionMiddleware does not come before TenantMiddleware.",
            hint=f"Put {SESSIONS!r} before {MIDDLEWARE!r}, and django.contrib.sessions into a fixed module.",
            id="pg_tenants.E032",
        )
    for needing in ("PrimaryDomainMiddleware", "TenantCsrfMiddleware"):
        name = f"pg_tenants.middleware.{needing}"
        if name in names and not _comes_before(names, MIDDLEWARE, name):
            yield Error(
                f"{needing} does not come after TenantMiddleware, so it does not know the tenant.",
                hint=f"Put {MIDDLEWARE!r} before it.",
                id="pg_tenants.E031",
            )
    if _comes_before(names, CSRF, "pg_tenants.middleware.TenantCsrfMiddleware"):
        yield Error(
            "TenantCsrfMiddleware comes after Django's CsrfViewMiddleware, which refuses what it would accept.",
            hint=f"Put it directly before {CSRF!r}.",
            id="pg_tenants.E033",
        )


def _comes_before(names: list[str], first: str, second: str) -> bool:
    return first in names and second in names and names.index(first) < names.index(second)


def _resolves_by_session() -> bool:
    try:
        return conf.get() is not None and any(isinstance(resolve, SessionResolver) for resolve in resolvers())
    except ConfigurationError:
        return False  # E017 says why.


def _shared_cache() -> Iterator[CheckMessage]:
    config = conf.get()
    if config is None or config.cache is None:
        return
    if config.cache not in caches.settings:
        yield Error(
            f"PG_TENANTS['CACHE'] is {config.cache!r}, which is not in CACHES.",
            hint=conf.nearest(config.cache, caches.settings),
            id="pg_tenants.E030",
        )
    elif caches.settings[config.cache]["BACKEND"].endswith((".LocMemCache", ".DummyCache")):
        yield Warning(
            f"PG_TENANTS['CACHE'] is {config.cache!r}, which other processes do not share.",
            hint="Name a cache that they do, such as one of Redis, or leave CACHE out.",
            id="pg_tenants.W030",
        )


def check_surroundings(app_configs: Sequence[Any] | None = None, **kwargs: Any) -> list[CheckMessage]:
    """Find caches and sessions in which tenants could meet."""
    if conf.get() is None:
        return []
    return [*_shared_caches(), *_early_cache_middleware(), *_unbound_sessions()]


def _shared_caches() -> Iterator[CheckMessage]:
    users = []
    if SESSIONS in settings.MIDDLEWARE and settings.SESSION_ENGINE in (f"{_ENGINES}cache", f"{_ENGINES}cached_db"):
        users.append((settings.SESSION_CACHE_ALIAS, "sessions"))
    if any(name in settings.MIDDLEWARE for name in _CACHE_MIDDLEWARE):
        users.append((settings.CACHE_MIDDLEWARE_ALIAS, "the cache middleware"))
    for alias, user in users:
        cache = settings.CACHES.get(alias, {})
        if not cache.get("KEY_FUNCTION") and cache.get("BACKEND") != "django.core.cache.backends.dummy.DummyCache":
            yield Warning(
                f"CACHES[{alias!r}], which {user} use, has no KEY_FUNCTION, so tenants may get each other's values.",
                hint="Set its KEY_FUNCTION to 'pg_tenants.contrib.cache.make_key'.",
                id="pg_tenants.W050",
            )


def _early_cache_middleware() -> Iterator[CheckMessage]:
    names = list(settings.MIDDLEWARE)
    for early in _CACHE_MIDDLEWARE:
        if MIDDLEWARE in names and early in names and names.index(early) < names.index(MIDDLEWARE):
            yield Warning(
                f"{early.rpartition('.')[2]} comes before TenantMiddleware, so pages are cached without their tenant.",
                hint=f"Move {MIDDLEWARE!r} to the top of MIDDLEWARE.",
                id="pg_tenants.W051",
            )


def _unbound_sessions() -> Iterator[CheckMessage]:
    modules, engine = registry(), settings.SESSION_ENGINE.removeprefix(_ENGINES)
    homes = modules.of_app("sessions") if modules else ()
    in_shared_table = bool(homes) and all(module.is_fixed for module in homes)
    shared = engine in ("file", "signed_cookies") or (engine in ("db", "cached_db") and in_shared_table)
    if shared and SESSIONS in settings.MIDDLEWARE:
        yield Warning(
            f"Tenants share the sessions of {settings.SESSION_ENGINE!r}, so one's cookie is good for another's site.",
            hint=f"Set SESSION_ENGINE to 'pg_tenants.contrib.sessions.{engine}'.",
            id="pg_tenants.W052",
        )


def check_pgserver(app_configs: Sequence[Any] | None = None, **kwargs: Any) -> list[CheckMessage]:
    """Find a configuration of the development server that it would refuse."""
    config, users = conf.get(), _pgserver_aliases()
    if not users and not (config and config.pgserver):
        return []
    try:
        # An extra's libraries, which a project without the development server need not have.
        from pg_tenants.server import ServerConfig, ServerError  # noqa: PLC0415
    except ImportError as exc:
        return [
            Error(
                f"DATABASES[{alias!r}] is the development server, and its libraries are missing ({exc}).",
                hint="Run pip install 'pg_tenants[server]', or name another server.",
                id="pg_tenants.E091",
            )
            for alias in users
        ]
    try:
        ServerConfig.load(conf.pgserver())
    except ServerError as exc:
        return [Error(f"PG_TENANTS['PGSERVER']: {exc}", hint="See the message.", id="pg_tenants.E090")]
    return []


def check_deployment(app_configs: Sequence[Any] | None = None, **kwargs: Any) -> list[CheckMessage]:
    """Find the development server where ``check --deploy`` looks for what is wrong in production."""
    return [
        Warning(
            f"DATABASES[{alias!r}] is the development server, which is not for production: its commits may be lost in "
            "a crash, nobody backs it up, and any process of this user stops it.",
            hint="Name a PostgreSQL that is run for production, as in conf.database('postgresql://…').",
            id="pg_tenants.W092",
        )
        for alias in _pgserver_aliases()
    ]


def _pgserver_aliases() -> list[str]:
    found = []
    for alias in connections.settings:
        options = connections.settings[alias].get("OPTIONS", {}).get("tenants")
        try:
            if conf.alias_options(options, alias).pgserver:
                found.append(alias)
        except ConfigurationError:
            continue  # E016 says why.
    return found


def check_databases(databases: Sequence[str] | None = None, **kwargs: Any) -> list[CheckMessage]:
    """Find servers that cannot be reached, are too old, or lack what the modules need."""
    found: list[CheckMessage] = []
    for alias in databases or ():
        connection = connections[alias]
        if isinstance(connection, TenantDatabaseWrapperMixin) and _tenant_aware(connection):
            try:
                with no_schema():
                    connection.ensure_connection()
                    found.extend(_database_problems(connection, alias))
                    found.extend(_moved_apps(alias))
                    found.extend(_roles(connection, alias))
                    found.extend(_refused_templates(alias))
            except NotSupportedError as exc:
                found.append(Error(f"DATABASES[{alias!r}]: {exc}", hint="Upgrade the server.", id="pg_tenants.E021"))
            except PgTenantsError as exc:
                found.append(
                    Error(f"DATABASES[{alias!r}] cannot be used: {exc}", hint="See the message.", id="pg_tenants.E020")
                )
            except OperationalError as exc:
                message, _, hint = str(exc).rpartition("\n")
                found.append(Error(f"DATABASES[{alias!r}] cannot be used: {message}", hint=hint, id="pg_tenants.E020"))
            except DatabaseError as exc:
                found.append(
                    Error(f"DATABASES[{alias!r}] cannot be used: {exc}", hint="See the message.", id="pg_tenants.E020")
                )
    return found


def _tenant_aware(connection: TenantDatabaseWrapperMixin) -> bool:
    try:
        return connection.is_tenant_aware
    except ConfigurationError:
        return False  # That is another check's to say.


def _database_problems(connection: Any, alias: str) -> Iterator[CheckMessage]:
    modules = registry()
    assert modules is not None
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT current_user, current_database(), has_database_privilege(current_database(), 'CREATE'),"
            # Hidden from roles without pg_read_all_settings.
            " (SELECT setting FROM pg_catalog.pg_settings WHERE name = 'shared_preload_libraries')"
        )
        user, database, permitted, preloaded = cursor.fetchone()
        if not permitted:
            yield Warning(
                f"The role {user!r} may not create schemas in the database {database!r}, so it can neither migrate the "
                "first time nor create tenants.",
                hint=f'Run GRANT CREATE ON DATABASE "{database}" TO "{user}" as the database\'s owner.',
                id="pg_tenants.W022",
            )
        needed, current = max_locks_needed(using=alias)
        if current < needed:
            yield Warning(
                f"max_locks_per_transaction is {current}. Creating or dropping several tenants at once takes more "
                "locks than the server has.",
                hint=f"Set max_locks_per_transaction to {needed} or more and restart the server.",
                id="pg_tenants.W024",
            )
        lacking = [name for name in missing(wanted(alias), using=alias) if EXTENSION_NAME.fullmatch(name)]
        cursor.execute("SELECT name FROM pg_catalog.pg_available_extensions WHERE name = ANY(%s)", [lacking])
        available = {name for (name,) in cursor.fetchall()}
    loaded = None if preloaded is None else {entry.strip() for entry in preloaded.split(",")}
    for name in lacking:
        if name not in available and name not in ONLY_LIBRARIES:
            yield Error(
                f"The extension {name!r}, which a module needs, is not available on the server of {alias!r}.",
                hint=f"{remedy(name, str(connection.pg_version // 10000))}.",
                id="pg_tenants.E023",
            )
        elif loaded is not None and name in PRELOADED and name not in loaded:
            yield Error(
                f"The extension {name!r} has to be loaded when the server starts, and is not.",
                hint=f"Add {name} to shared_preload_libraries in postgresql.conf and restart the server.",
                id="pg_tenants.E025",
            )


def _roles(connection: TenantDatabaseWrapperMixin, alias: str) -> Iterator[CheckMessage]:
    if not connection.uses_roles:
        unneeded = roles.leftovers(using=alias)
        if unneeded:
            yield Warning(
                f"PG_TENANTS['ROLES'] is off, and {len(unneeded)} roles are left: {_some(unneeded)}.",
                hint="Run 'manage.py tenant_roles --sync', which removes them.",
                id="pg_tenants.W073",
            )
        return
    targets = [target.schema for target in tenant_targets(alias) if not target.problem]
    lacking = [state for state in roles.states(targets, using=alias) if state.lacking]
    if lacking:
        yield Warning(
            f"The roles of {len(lacking)} tenants are not as PG_TENANTS['ROLES'] needs them: "
            + _some([f"{state.schema} ({', '.join(state.lacking)})" for state in lacking])
            + ". Their statements are refused.",
            hint="Run 'manage.py migrate_schemas', or 'manage.py tenant_roles --sync'.",
            id="pg_tenants.W072",
        )
    if not roles.may_create(using=alias):
        yield Warning(
            f"PG_TENANTS['ROLES'] is on, and the role of DATABASES[{alias!r}] may not make roles, so it can neither "
            "create nor delete tenants.",
            hint="Run ALTER ROLE … CREATEROLE as a superuser, or do this by another role.",
            id="pg_tenants.W074",
        )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if names[SHOWN:] else "")


def _refused_templates(alias: str) -> Iterator[CheckMessage]:
    for target in (Target("", (module,)) for module in required_registry().tenant if module.database == alias):
        found = template.load(target, using=alias)
        if isinstance(found, template.Refused):
            yield Warning(
                f"The module {found.key!r} has no template, so its schemas are made by running all migrations: "
                f"{found.reason}.",
                hint="See the explanation of provisioning for what its migrations would have to do otherwise.",
                id="pg_tenants.W060",
            )


def _moved_apps(alias: str) -> Iterator[CheckMessage]:
    try:
        moved = moved_tables(alias)
    except ProgrammingError:
        return  # The tenants' own table is not migrated yet.
    groups: dict[tuple[str, bool], list[MovedTables]] = {}
    for entry in moved:
        groups.setdefault((entry.app, entry.target.tenant is None), []).append(entry)
    for (label, fixed), entries in groups.items():
        names = [entry.target.schema for entry in entries]
        schemas = ", ".join(map(repr, names[:SHOWN])) + (f" and {len(names) - SHOWN} more" if names[SHOWN:] else "")
        tables = ", ".join(sorted({table for entry in entries for table in entry.tables}))
        recorded = max(entry.recorded for entry in entries)
        left = f"tables ({tables})" + (f" and {recorded} rows of django_migrations" if recorded else "")
        text = (
            f"The app {label!r} has left {left} in the schema{'s' * (len(names) > 1)} {schemas}, where it is no more."
        )
        if fixed:
            yield Warning(
                f"{text} They are read wherever no tenant's table of that name is found first.",
                hint="Move the rows to the tenants and drop the old tables: see the how-to 'Move an app'.",
                id="pg_tenants.W071",
            )
        else:
            yield Warning(
                f"{text} While such a tenant is active, they are found before the shared tables.",
                hint="Move the rows to the shared tables and drop the old ones: see the how-to 'Move an app'.",
                id="pg_tenants.W070",
            )
