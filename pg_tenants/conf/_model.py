"""What settings are parsed into, and the keys that there are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pg_tenants.databases import TENANT_FIELDS

__all__ = [
    "ALIAS_KEYS",
    "ENGINE",
    "KEYS",
    "MIGRATIONS_KEYS",
    "MIGRATION_TIMEOUTS",
    "MODULE_KEYS",
    "NO_ENGINE",
    "TIMEOUTS",
    "AliasOptions",
    "Config",
    "ModuleConfig",
    "Monitoring",
    "Retry",
    "Timeouts",
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
