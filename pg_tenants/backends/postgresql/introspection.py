"""Introspection of the active schema."""

from __future__ import annotations

from django.db.backends.postgresql import introspection

from pg_tenants.backends.introspection import TenantIntrospectionMixin

__all__ = ["DatabaseIntrospection"]


class DatabaseIntrospection(TenantIntrospectionMixin, introspection.DatabaseIntrospection):
    """Django's introspection, in the active schema."""
