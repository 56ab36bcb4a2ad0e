"""Introspection of the active schema."""

from __future__ import annotations

from django.contrib.gis.db.backends.postgis import introspection

from pg_tenants.backends.introspection import TenantIntrospectionMixin

__all__ = ["DatabaseIntrospection"]


class DatabaseIntrospection(TenantIntrospectionMixin, introspection.PostGISIntrospection):
    """Django's introspection, in the active schema."""
