"""Every tenant in a PostgreSQL schema of its own, on one database and one connection pool."""

from __future__ import annotations

from pg_tenants.context import activate, current_schema, current_tenant, deactivate, schema_context, tenant_context

__all__ = ["activate", "current_schema", "current_tenant", "deactivate", "schema_context", "tenant_context"]
