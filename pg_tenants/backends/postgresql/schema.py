"""DDL that depends on the active schema."""

from __future__ import annotations

from django.db.backends.postgresql import schema

from pg_tenants.backends.schema import TenantSchemaEditorMixin

__all__ = ["DatabaseSchemaEditor"]


class DatabaseSchemaEditor(TenantSchemaEditorMixin, schema.DatabaseSchemaEditor):
    """Django's schema editor, with names qualified where another module's table is meant."""
