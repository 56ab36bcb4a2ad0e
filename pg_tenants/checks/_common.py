"""What several checks use."""

from __future__ import annotations

from django.db import connections

from pg_tenants import conf
from pg_tenants.backends.base import TenantDatabaseWrapperMixin
from pg_tenants.exceptions import ConfigurationError
from pg_tenants.resolvers import SessionResolver, resolvers

__all__ = ["CSRF", "MIDDLEWARE", "SESSIONS", "is_ours", "options_of", "pgserver_aliases", "resolves_by_session"]

MIDDLEWARE = "pg_tenants.middleware.TenantMiddleware"
SESSIONS = "django.contrib.sessions.middleware.SessionMiddleware"
CSRF = "django.middleware.csrf.CsrfViewMiddleware"


def is_ours(alias: str) -> bool:
    """Return whether an alias has a backend of ours."""
    return isinstance(connections[alias], TenantDatabaseWrapperMixin)


def options_of(alias: str) -> conf.AliasOptions | None:
    """Return the ``OPTIONS["tenants"]`` of an alias of ours; None for others, and where E016 says what is wrong."""
    connection = connections[alias]
    try:
        return connection.tenant_options if isinstance(connection, TenantDatabaseWrapperMixin) else None
    except ConfigurationError:
        return None


def pgserver_aliases() -> list[str]:
    """Return the aliases of the development server."""
    found = []
    for alias in connections.settings:
        options = connections.settings[alias].get("OPTIONS", {}).get("tenants")
        try:
            if conf.alias_options(options, alias).pgserver:
                found.append(alias)
        except ConfigurationError:
            continue  # E016 says why.
    return found


def resolves_by_session() -> bool:
    """Return whether a ``SessionResolver`` is among the resolvers: then one session is meant to serve all tenants."""
    try:
        return conf.get() is not None and any(isinstance(resolve, SessionResolver) for resolve in resolvers())
    except ConfigurationError:
        return False  # E017 says why.
