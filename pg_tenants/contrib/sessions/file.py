"""``django.contrib.sessions.backends.file``, bound to tenants."""

from __future__ import annotations

from django.contrib.sessions.backends import file

from pg_tenants.contrib.sessions import TenantSessionMixin

__all__ = ["SessionStore"]


class SessionStore(TenantSessionMixin, file.SessionStore):
    """Django's store, which refuses another tenant's sessions."""
