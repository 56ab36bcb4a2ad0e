"""``django.contrib.sessions.backends.signed_cookies``, bound to tenants."""

from __future__ import annotations

from django.contrib.sessions.backends import signed_cookies

from pg_tenants.contrib.sessions import TenantSessionMixin

__all__ = ["SessionStore"]


class SessionStore(TenantSessionMixin, signed_cookies.SessionStore):
    """Django's store, which refuses another tenant's sessions."""
