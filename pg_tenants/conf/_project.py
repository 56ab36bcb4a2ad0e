"""``PG_TENANTS``."""

from __future__ import annotations

from collections.abc import Mapping

from django.conf import settings

from pg_tenants.conf._model import KEYS, MODULE_KEYS, Config, ModuleConfig, Monitoring
from pg_tenants.conf._reading import Reader, shown
from pg_tenants.names import normalize_host

__all__ = ["parse"]


def parse(raw: object) -> Config:
    """Return PG_TENANTS as typed values; what is wrong with it is in ``problems``, for the checks to tell."""
    problems: list[tuple[str, str, str]] = []
    if not isinstance(raw, Mapping):
        message = f"settings.PG_TENANTS is {shown(raw)}, of type {type(raw).__name__}."
        return Config(problems=(("type", message, "Set it to a dictionary."),))
    read = Reader(raw, "PG_TENANTS", problems)
    read.refuse_unknown(KEYS)
    for key in KEYS[:3]:
        if not raw.get(key):
            problems.append(("missing", f"PG_TENANTS has no {key!r}.", f"Add {key!r} to settings.PG_TENANTS."))
    modules = {
        str(name): module
        for name, entry in read.mapping("MODULES").items()
        if (module := _parse_module(str(name), entry, problems))
    }
    resolvers = raw.get("RESOLVERS", Config.__dataclass_fields__["resolvers"].default)
    if not isinstance(resolvers, (list, tuple)) or not resolvers:
        read.wrong(
            "RESOLVERS", resolvers, "a list of dotted paths, callables, or pairs of a dotted path and its options"
        )
        resolvers = ()
    auto_migrate = read.boolean("AUTO_MIGRATE")
    if auto_migrate and not settings.DEBUG:
        # Asked for here, where the settings are first read: test runs switch DEBUG off later.
        message = "PG_TENANTS['AUTO_MIGRATE'] is on, and DEBUG is off."
        problems.append(("debug", message, "Set it to DEBUG, and run migrate_schemas when you deploy."))
    hosts = []
    for host in read.texts("PUBLIC_HOSTS"):
        try:
            hosts.append(normalize_host(host))
        except ValueError as exc:
            problems.append(("type", f"PG_TENANTS['PUBLIC_HOSTS']: {exc}", "Write it as in www.example.com."))
    return Config(
        tenant_model=read.text("TENANT_MODEL"),
        domain_model=read.text("DOMAIN_MODEL"),
        modules=modules,
        extensions_schema=read.text("EXTENSIONS_SCHEMA", "public"),
        resolvers=tuple(resolvers),
        public_hosts=tuple(hosts),
        public_urlconf=read.optional_text("PUBLIC_URLCONF"),
        cache=read.optional_text("CACHE"),
        cache_seconds=read.seconds("CACHE_SECONDS", 60),
        roles=read.boolean("ROLES"),
        ready_schemas=read.count("READY_SCHEMAS"),
        pgserver=read.mapping("PGSERVER"),
        monitoring=_parse_monitoring(raw.get("MONITORING"), problems),
        auto_migrate=auto_migrate,
        problems=tuple(problems),
    )


def _parse_monitoring(raw: object, problems: list[tuple[str, str, str]]) -> Monitoring | None:
    if raw is None or raw is False:
        return None
    if raw is True:
        return Monitoring()
    where = "PG_TENANTS['MONITORING']"
    if not isinstance(raw, Mapping):
        problems.append(
            ("type", f"{where} is {raw!r}, of type {type(raw).__name__}.", "Set it to True or a dictionary.")
        )
        return None
    read = Reader(raw, where, problems)
    read.refuse_unknown(tuple(Monitoring.__dataclass_fields__))
    threshold = raw.get("slow_query_threshold_ms", 1000.0)
    if isinstance(threshold, bool) or not isinstance(threshold, (int, float)) or not 0 <= threshold < float("inf"):
        read.wrong("slow_query_threshold_ms", threshold, "a number of milliseconds, 0 or more")
        return Monitoring()
    return Monitoring(float(threshold))


def _parse_module(name: str, entry: object, problems: list[tuple[str, str, str]]) -> ModuleConfig | None:
    where = f"PG_TENANTS['MODULES'][{name!r}]"
    if not isinstance(entry, Mapping):
        problems.append(("type", f"{where} is {entry!r}, of type {type(entry).__name__}.", "Set it to a dictionary."))
        return None
    read = Reader(entry, where, problems)
    read.refuse_unknown(MODULE_KEYS)
    return ModuleConfig(
        name=name,
        apps=read.texts("apps"),
        schema=read.optional_text("schema"),
        extensions=read.texts("extensions"),
        database=read.optional_text("database"),
        sql_migrations=read.folder("sql_migrations"),
    )
