"""``django.contrib.sessions.backends.cache``, bound to tenants."""

from __future__ import annotations

from django.contrib.sessions.backends import cache

from pg_tenants.contrib.sessions import TenantSessionMixin

__all__ = ["SessionStore"]


class SessionStore(TenantSessionMixin, cache.SessionStore):
    """Django's store, which refuses another tenant's sessions."""
