"""DDL that depends on the active schema."""

from __future__ import annotations

from django.contrib.gis.db.backends.postgis import schema

from pg_tenants.backends.schema import TenantSchemaEditorMixin

__all__ = ["DatabaseSchemaEditor"]


class DatabaseSchemaEditor(TenantSchemaEditorMixin, schema.PostGISSchemaEditor):
    """Django's schema editor, with names qualified where another module's table is meant."""
