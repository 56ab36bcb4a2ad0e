"""The tenants."""

from __future__ import annotations

from pg_tenants.models import DomainMixin, TenantMixin

__all__ = ["Domain", "Tenant"]


class Tenant(TenantMixin):
    """A tenant."""


class Domain(DomainMixin):
    """A tenant's host."""
