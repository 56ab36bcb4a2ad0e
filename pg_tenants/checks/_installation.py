"""What of the package the project's own settings must name, and in which order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from django.conf import settings
from django.core.cache import caches
from django.core.checks import CheckMessage, Error, Warning  # noqa: A004  # Django's own names
from django.db import connections, router

from pg_tenants import conf
from pg_tenants.backends.base import TenantDatabaseWrapperMixin
from pg_tenants.checks._common import CSRF, MIDDLEWARE, SESSIONS, is_ours, resolves_by_session
from pg_tenants.exceptions import ConfigurationError
from pg_tenants.resolvers import resolvers
from pg_tenants.routers import TenantRouter

__all__ = ["check_installation"]

ROUTER = "pg_tenants.routers.TenantRouter"


def check_installation(app_configs: Sequence[Any] | None = None, **kwargs: Any) -> list[CheckMessage]:
    """Find a missing router or middleware, bad options of an alias, and resolvers that cannot be imported."""
    found: list[CheckMessage] = []
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
    elif direct == alias or direct not in connections.settings or not is_ours(direct):
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


def _middleware_order() -> Iterator[CheckMessage]:
    names = list(settings.MIDDLEWARE)
    sessions_first = _comes_before(names, SESSIONS, MIDDLEWARE)
    if sessions_first and not resolves_by_session():
        yield Warning(
            "SessionMiddleware comes before TenantMiddleware, so sessions are read before the tenant is known.",
            hint=f"Move {MIDDLEWARE!r} to the top of MIDDLEWARE.",
            id="pg_tenants.W001",
        )
    if resolves_by_session() and MIDDLEWARE in names and not sessions_first:
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
