"""What several checks use."""

from __future__ import annotations

from django.db import connections

from pg_tenants.backends.base import TenantDatabaseWrapperMixin

__all__ = ["CSRF", "MIDDLEWARE", "SESSIONS", "is_ours"]

MIDDLEWARE = "pg_tenants.middleware.TenantMiddleware"
SESSIONS = "django.contrib.sessions.middleware.SessionMiddleware"
CSRF = "django.middleware.csrf.CsrfViewMiddleware"


def is_ours(alias: str) -> bool:
    """Return whether an alias has a backend of ours."""
    return isinstance(connections[alias], TenantDatabaseWrapperMixin)
