"""Every tenant in a PostgreSQL schema of its own, on one database and one connection pool."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pg_tenants.context import activate, current_schema, current_tenant, deactivate, schema_context, tenant_context

if TYPE_CHECKING:
    from pg_tenants.access import readonly
    from pg_tenants.across import across_tenants, afor_each_tenant, for_each_tenant

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

# These need Django's models, which can be imported only after the apps are loaded.
_LATER = {
    "across_tenants": "pg_tenants.across",
    "afor_each_tenant": "pg_tenants.across",
    "for_each_tenant": "pg_tenants.across",
    "readonly": "pg_tenants.access",
}


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(import_module(_LATER[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
