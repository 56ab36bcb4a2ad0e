"""``django.contrib.sessions.backends.db``, bound to tenants."""

from __future__ import annotations

from django.contrib.sessions.backends import db

from pg_tenants.contrib.sessions import TenantSessionMixin

__all__ = ["SessionStore"]


class SessionStore(TenantSessionMixin, db.SessionStore):
    """Django's store, which refuses another tenant's sessions."""
