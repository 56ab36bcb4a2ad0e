"""Settings: one typed, lazy view of ``PG_TENANTS`` and of ``DATABASES[alias]["OPTIONS"]["tenants"]``.

This is the only module that reads Django's settings for the rest of the package. A setting is read when it is needed,
so ``override_settings`` works.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from psycopg import conninfo
from psycopg import errors as pg_errors

from pg_tenants.databases import TENANT_FIELDS, apply_fields
from pg_tenants.exceptions import ConfigurationError
from pg_tenants.names import normalize_host

__all__ = [
    "ALIAS_KEYS",
    "ENGINE",
    "KEYS",
    "MIGRATIONS_KEYS",
    "NO_ENGINE",
    "TIMEOUTS",
    "AliasOptions",
    "Config",
    "ModuleConfig",
    "Monitoring",
    "Retry",
    "Timeouts",
    "alias_options",
    "auto_migrates",
    "database",
    "django_setting",
    "get",
    "nearest",
    "pgserver",
    "require",
    "settle_media_urls",
    "tenant_options",
]

ENGINE = "pg_tenants.backends.postgresql"
NO_ENGINE = "django.db.backends.dummy"
"""What Django gives an alias that is not configured."""

KEYS = (
    "TENANT_MODEL",
    "DOMAIN_MODEL",
    "MODULES",
    "EXTENSIONS_SCHEMA",
    "RESOLVERS",
    "PUBLIC_HOSTS",
    "PUBLIC_URLCONF",
    "CACHE",
    "CACHE_SECONDS",
    "ROLES",
    "READY_SCHEMAS",
    "PGSERVER",
    "MONITORING",
    "AUTO_MIGRATE",
)
"""The keys of ``PG_TENANTS``."""

MODULE_KEYS = ("apps", "schema", "extensions", "database", "sql_migrations")
ALIAS_KEYS = (*TENANT_FIELDS, "pgserver", "worker", "path")
"""The keys of ``OPTIONS["tenants"]``; ``database()`` sets ``pgserver``, and test runs set ``worker`` and ``path``."""

TIMEOUTS = ("statement", "lock", "idle_in_transaction_session")
"""PostgreSQL's timeouts, of which each alias may have its own as ``…_timeout_ms``."""
MIGRATIONS_KEYS = ("alias",)
"""The keys of ``OPTIONS["tenants"]["migrations"]`` besides timeouts."""

MIGRATION_TIMEOUTS: Mapping[str, int] = {
    "lock_timeout": 5_000,
    "statement_timeout": 0,
    "idle_in_transaction_session_timeout": 0,
}
"""Of migrations, in milliseconds; 0 is none. A lock that is waited for keeps all others from the table, so not long."""


@dataclass(frozen=True, slots=True)
class ModuleConfig:
    """One entry of ``PG_TENANTS["MODULES"]``, as written."""

    name: str
    apps: tuple[str, ...]
    schema: str | None = None
    extensions: tuple[str, ...] = ()
    database: str | None = None
    sql_migrations: Path | None = None


@dataclass(frozen=True, slots=True)
class Monitoring:
    """``PG_TENANTS["MONITORING"]``, parsed."""

    slow_query_threshold_ms: float = 1000.0


@dataclass(frozen=True, slots=True)
class Config:
    """``PG_TENANTS``, parsed.

    ``problems`` holds what is wrong with it, as ``(key, message, hint)``; the system checks report them.
    """

    tenant_model: str = ""
    domain_model: str = ""
    modules: Mapping[str, ModuleConfig] = field(default_factory=dict)
    extensions_schema: str = "public"
    resolvers: tuple[Any, ...] = ("pg_tenants.resolvers.DomainResolver",)
    public_hosts: tuple[str, ...] = ()
    public_urlconf: str | None = None
    cache: str | None = None
    cache_seconds: float = 60
    roles: bool = False
    ready_schemas: int = 0
    pgserver: Mapping[str, Any] = field(default_factory=dict, repr=False)
    monitoring: Monitoring | None = None
    auto_migrate: bool = False
    problems: tuple[tuple[str, str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Retry:
    """How often, and after which pauses, a connection is tried again.

    Attributes:
        attempts: how often it is tried in all.
        delay: seconds before the second attempt.
        backoff: by what each pause is longer than the one before.
        max_delay: the longest pause, in seconds.
    """

    attempts: int = 5
    delay: float = 0.5
    backoff: float = 2.0
    max_delay: float = 10.0


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Limits that PostgreSQL enforces, in milliseconds; None for the server's own.

    Attributes:
        statement: how long a statement may take.
        lock: how long it may wait for a lock.
        idle: how long a transaction may wait for its next statement.
    """

    statement: int | None = None
    lock: int | None = None
    idle: int | None = None

    @property
    def settings(self) -> tuple[tuple[str, str], ...]:
        """Return PostgreSQL's settings and their values."""
        values = zip(TIMEOUTS, (self.statement, self.lock, self.idle), strict=True)
        return tuple((f"{name}_timeout", str(value)) for name, value in values if value is not None)


@dataclass(frozen=True, slots=True)
class AliasOptions:
    """``DATABASES[alias]["OPTIONS"]["tenants"]``, parsed."""

    schema: str | None = None
    pooler: bool | None = None
    pgserver: bool = False
    worker: str = ""
    path: tuple[str, ...] = ()
    readonly: bool = False
    create_db: bool = False
    extensions: tuple[str, ...] = ()
    retry: Retry | None = None
    timeouts: Timeouts = Timeouts()
    migrations: Mapping[str, int] = field(default_factory=lambda: MIGRATION_TIMEOUTS)
    migrations_alias: str | None = None


_parsed: tuple[object, Config] | None = None


def get() -> Config | None:
    """Return the parsed ``PG_TENANTS``, or None where the project has none."""
    global _parsed
    raw = getattr(settings, "PG_TENANTS", None)
    if raw is None:
        return None
    cached = _parsed
    if cached is None or cached[0] is not raw:
        _parsed = cached = (raw, _parse(raw))
    return cached[1]


def django_setting(name: str) -> Any:
    """Return one of Django's own settings."""
    return getattr(settings, name)


def pgserver() -> dict[str, Any]:
    """Return ``PG_TENANTS["PGSERVER"]``; a server that has no name there is called as the project's package.

    It works without ``PG_TENANTS`` as well.
    """
    config = get()
    project = str(getattr(settings, "SETTINGS_MODULE", None) or "default").partition(".")[0]
    return {"name": project, **(config.pgserver if config else {})}


def auto_migrates() -> bool:
    """Return whether ``runserver`` brings all schemas up to date: in development alone."""
    config = get()
    return config is not None and config.auto_migrate and bool(settings.DEBUG)


def settle_media_urls() -> None:
    """Have Django compute relative ``STATIC_URL`` and ``MEDIA_URL`` under the script prefix that holds now.

    It does so when they are first read, and keeps the result for the whole process.
    """
    settings.STATIC_URL, settings.MEDIA_URL  # noqa: B018


def require() -> Config:
    """Return the parsed ``PG_TENANTS``.

    Raises:
        ConfigurationError: the project has none.
    """
    config = get()
    if config is None:
        raise ConfigurationError(
            "settings.PG_TENANTS is missing. Set it to a dictionary with TENANT_MODEL, DOMAIN_MODEL and MODULES."
        )
    return config


def nearest(word: str, known: Iterable[str]) -> str:
    """Return a hint that names the known word nearest to ``word``."""
    names = list(known)
    folded = {name.lower(): name for name in names}
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    close = close or [folded[name] for name in difflib.get_close_matches(word.lower(), folded, n=1, cutoff=0.5)]
    return f"Did you mean {close[0]!r}?" if close else f"Known are {', '.join(names)}."


def _shown(value: object) -> str:
    """Return a value for a message; one that holds a password, as PGSERVER in a tuple by a stray comma, is left out."""
    text = repr(value)
    return text if "password" not in text.lower() else "a value with a password in it"


class _Reader:
    """Takes typed values out of a mapping and collects what is wrong."""

    def __init__(self, raw: Mapping[Any, Any], where: str, problems: list[tuple[str, str, str]]):
        self.raw, self.where, self.problems = raw, where, problems

    def refuse_unknown(self, known: tuple[str, ...]) -> None:
        for key in self.raw:
            if key not in known:
                self.problems.append(("unknown", f"{self.where} has no key {key!r}.", nearest(str(key), known)))

    def wrong(self, key: str, value: object, wanted: str) -> None:
        message = f"{self.where}[{key!r}] is {_shown(value)}, of type {type(value).__name__}."
        self.problems.append(("type", message, f"Set it to {wanted}."))

    def text(self, key: str, default: str = "") -> str:
        value = self.raw.get(key, default)
        if isinstance(value, str):
            return value
        self.wrong(key, value, "a string")
        return default

    def optional_text(self, key: str) -> str | None:
        value = self.raw.get(key)
        if value is not None and (not isinstance(value, str) or not value):
            self.wrong(key, value, "a string, or leave it out")
            return None
        return value

    def folder(self, key: str) -> Path | None:
        """Return a path; a relative one begins at the project's ``BASE_DIR``."""
        value = self.raw.get(key)
        if value is None:
            return None
        if not isinstance(value, (str, os.PathLike)) or not os.fspath(value):
            self.wrong(key, value, "a path, or leave it out")
            return None
        base, path = getattr(settings, "BASE_DIR", None), Path(value)
        if not path.is_absolute() and base is None:
            message = f"{self.where}[{key!r}] is {str(path)!r}, a relative path, and the settings have no BASE_DIR."
            self.problems.append(("type", message, "Give an absolute path, or set BASE_DIR to the project's folder."))
            return None
        return Path(os.path.normpath(path if base is None else Path(base) / path))

    def texts(self, key: str) -> tuple[str, ...]:
        value = self.raw.get(key, ())
        if isinstance(value, (list, tuple, set)) and all(isinstance(item, str) for item in value):
            return tuple(value)
        self.wrong(key, value, "a list of strings")
        return ()

    def seconds(self, key: str, default: float) -> float:
        value = self.raw.get(key, default)
        if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < float("inf"):
            return value
        self.wrong(key, value, "a number of seconds, 0 or more")
        return default

    def boolean(self, key: str) -> bool:
        value = self.raw.get(key)
        if value is not None and not isinstance(value, bool):
            self.wrong(key, value, "True or False")
        return value is True

    def count(self, key: str) -> int:
        value = self.raw.get(key, 0)
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return value
        self.wrong(key, value, "a whole number, 0 or more")
        return 0

    def milliseconds(self, key: str, default: int | None = None) -> int | None:
        value = self.raw.get(key, default)
        if value is None:
            return None
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31:
            return value
        self.wrong(key, value, "a whole number of milliseconds, or None for no limit")
        return default

    def mapping(self, key: str) -> Mapping[str, Any]:
        value = self.raw.get(key) or {}
        if isinstance(value, Mapping):
            return value
        self.wrong(key, value, "a dictionary")
        return {}


def _parse(raw: object) -> Config:
    problems: list[tuple[str, str, str]] = []
    if not isinstance(raw, Mapping):
        message = f"settings.PG_TENANTS is {_shown(raw)}, of type {type(raw).__name__}."
        return Config(problems=(("type", message, "Set it to a dictionary."),))
    read = _Reader(raw, "PG_TENANTS", problems)
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
    read = _Reader(raw, where, problems)
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
    read = _Reader(entry, where, problems)
    read.refuse_unknown(MODULE_KEYS)
    return ModuleConfig(
        name=name,
        apps=read.texts("apps"),
        schema=read.optional_text("schema"),
        extensions=read.texts("extensions"),
        database=read.optional_text("database"),
        sql_migrations=read.folder("sql_migrations"),
    )


def alias_options(raw: object, alias: str) -> AliasOptions:
    """Return the parsed ``OPTIONS["tenants"]`` of a database alias.

    Args:
        raw: the value as written; None where there is none.
        alias: the alias, for messages.

    Raises:
        ConfigurationError: it has an unknown key or a value of a wrong type.
    """
    if raw is None:
        return AliasOptions()
    where = f"DATABASES[{alias!r}]['OPTIONS']['tenants']"
    if not isinstance(raw, Mapping):
        raise ConfigurationError(f"{where} is {raw!r}. Set it to a dictionary.")
    problems: list[tuple[str, str, str]] = []
    read = _Reader(raw, where, problems)
    read.refuse_unknown(ALIAS_KEYS)
    schema, pooler = read.optional_text("schema"), raw.get("pooler")
    if pooler is not None and not isinstance(pooler, bool):
        read.wrong("pooler", pooler, "True, False, or None to find out")
    migrating = _Reader(read.mapping("migrations"), f"{where}['migrations']", problems)
    migrating.refuse_unknown((*MIGRATIONS_KEYS, *(f"{name}_ms" for name in MIGRATION_TIMEOUTS)))
    options = AliasOptions(
        schema=schema,
        pooler=pooler,
        pgserver=bool(raw.get("pgserver")),
        worker=read.text("worker"),
        path=read.texts("path"),
        readonly=read.boolean("readonly"),
        create_db=read.boolean("create_db"),
        extensions=read.texts("extensions"),
        retry=_parse_retry(raw.get("retry"), f"{where}['retry']", problems),
        timeouts=Timeouts(*(read.milliseconds(f"{name}_timeout_ms") for name in TIMEOUTS)),
        migrations={name: migrating.milliseconds(f"{name}_ms", most) or 0 for name, most in MIGRATION_TIMEOUTS.items()},
        migrations_alias=migrating.optional_text("alias"),
    )
    if options.readonly and options.create_db:
        problems.append(("conflict", f"{where} has both readonly and create_db.", "Leave one of them out."))
    if problems:
        raise ConfigurationError(" ".join(f"{message} {hint}" for _, message, hint in problems))
    return options


def _parse_retry(raw: object, where: str, problems: list[tuple[str, str, str]]) -> Retry | None:
    if raw is None or raw is False:
        return None
    if raw is True:
        return Retry()
    if not isinstance(raw, Mapping):
        problems.append(("type", f"{where} is {raw!r}.", "Set it to True, or to a dictionary."))
        return None
    read = _Reader(raw, where, problems)
    read.refuse_unknown(tuple(Retry.__dataclass_fields__))
    attempts = raw.get("attempts", 5)
    if not isinstance(attempts, int) or isinstance(attempts, bool) or attempts < 1:
        read.wrong("attempts", attempts, "a whole number, 1 or more")
        attempts = 1
    backoff = read.seconds("backoff", 2.0)
    if backoff < 1:
        problems.append(("type", f"{where}['backoff'] is {backoff!r}.", "Set it to a factor of 1 or more."))
    return Retry(attempts, read.seconds("delay", 0.5), max(1.0, backoff), read.seconds("max_delay", 10.0))


def tenant_options(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return ``OPTIONS["tenants"]`` of an entry of ``DATABASES`` as written; empty where it has none."""
    return entry["OPTIONS"].get("tenants") or {}


def database(url: str, **options: Any) -> dict[str, Any]:
    """Return an entry for ``DATABASES`` with the engine of pg_tenants.

    Args:
        url: ``postgresql://user:password@host:port/name?sslmode=require``, with any parameter of libpq; or
            ``pgserver://`` (``pgserver:///name`` for another database than ``postgres``) for the development server
            of ``PG_TENANTS["PGSERVER"]``, which the first connection starts.
        options: any of the fields below; others go into ``OPTIONS``, such as ``pool=True`` or a parameter of libpq.

            - ``pool_size`` (5), ``max_overflow`` (10), or ``min_connections`` and ``max_connections``;
              ``pool_timeout`` (30) and ``pool_recycle`` (3600), in seconds: one of them switches Django's connection
              pool on. ``DB_POOL_SIZE`` and ``DB_MAX_OVERFLOW`` in the environment do so as well.
            - ``pool_pre_ping``: ``CONN_HEALTH_CHECKS``.
            - ``ssl_enabled``, ``ssl_mode`` (``verify-full`` with TLS), ``ssl_ca_file``, ``ssl_cert_file``,
              ``ssl_key_file``.
            - ``password``, a text or a callable, or ``password_file``: read whenever a connection is made.
            - ``retry_attempts``, ``retry_delay``, ``retry_backoff``, ``retry_max_delay``: ``retry`` below.
            - ``schema``, ``pooler``, ``readonly``, ``create_db``, ``extensions``, ``retry``, ``statement_timeout_ms``,
              ``lock_timeout_ms``, ``idle_in_transaction_session_timeout_ms``, ``migrations``: the keys of
              ``OPTIONS["tenants"]``. None leaves one out.

    Raises:
        ConfigurationError: the URL is not one of PostgreSQL's, or fields contradict each other.
    """
    scheme = url.partition(":")[0] if "://" in url else ""
    if scheme == "pgserver":
        parts = urlsplit(url)
        if parts.netloc or parts.query:
            raise ConfigurationError(
                "The database URL says more than pgserver:///name can. Put the server's own name, port and so on into "
                "PG_TENANTS['PGSERVER'], or PGSERVER_NAME, PGSERVER_PORT and the like."
            )
        development = {"ENGINE": ENGINE, "NAME": parts.path.strip("/") or "postgres"}
        return apply_fields({**development, "OPTIONS": {"tenants": {"pgserver": True}}}, options)
    if scheme not in ("postgresql", "postgres", "pgsql"):
        raise ConfigurationError(
            f"The database URL begins with {scheme + '://' if scheme else 'no scheme'!r}. "
            "Write postgresql://user:password@host:5432/name, or pgserver:// for the development server."
        )
    try:
        # libpq's own words about a bad URL may contain the password, so they stay out of the message.
        found: dict[str, Any] = conninfo.conninfo_to_dict("postgresql" + url[len(scheme) :])
    except pg_errors.Error:
        found = {}
    if not found.get("dbname"):
        raise ConfigurationError(
            "The database URL cannot be read, or names no database. Write postgresql://user:password@host:5432/name, "
            "and percent-encode special characters in the password."
        )
    entry: dict[str, Any] = {"ENGINE": ENGINE, "NAME": found.pop("dbname")}
    for key in ("user", "password", "host", "port"):
        entry[key.upper()] = str(found.pop(key, "") or "")
    return apply_fields({**entry, "OPTIONS": found}, options)
