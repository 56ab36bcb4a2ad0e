"""The database backend for tenants: ``"ENGINE": "pg_tenants.backends.postgresql"``."""

from __future__ import annotations

from django.db.backends.postgresql import base

from pg_tenants.backends.base import TenantDatabaseWrapperMixin
from pg_tenants.backends.client import TenantDatabaseClient
from pg_tenants.backends.postgresql.introspection import DatabaseIntrospection
from pg_tenants.backends.postgresql.operations import DatabaseOperations
from pg_tenants.backends.postgresql.schema import DatabaseSchemaEditor

__all__ = ["DatabaseWrapper"]


class DatabaseWrapper(TenantDatabaseWrapperMixin, base.DatabaseWrapper):
    """Django's PostgreSQL backend, each statement of which carries its tenant."""

    client_class = TenantDatabaseClient
    SchemaEditorClass = DatabaseSchemaEditor
    introspection_class = DatabaseIntrospection
    ops_class = DatabaseOperations
