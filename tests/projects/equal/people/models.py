"""The tenants."""

from __future__ import annotations

from pg_tenants.models import DomainMixin, TenantMixin


class Tenant(TenantMixin):
    """A tenant."""


class Domain(DomainMixin):
    """A host."""
