"""Every tenant in a PostgreSQL schema of its own, on one database and one connection pool."""

from __future__ import annotations

from typing import Any

from pg_tenants.access import readonly
from pg_tenants.context import activate, current_schema, current_tenant, deactivate, schema_context, tenant_context

__all__ = [
    "across_tenants",
    "activate",
    "afor_each_tenant",
    "current_schema",
    "current_tenant",
    "deactivate",
    "for_each_tenant",
    "readonly",
    "schema_context",
    "tenant_context",
]


def __getattr__(name: str) -> Any:
    # These need the models, which can be imported only after the apps are loaded.
    if name in ("across_tenants", "afor_each_tenant", "for_each_tenant"):
        from pg_tenants import across  # noqa: PLC0415

        return getattr(across, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
