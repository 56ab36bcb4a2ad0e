"""SQL that depends on the active schema."""

from __future__ import annotations

from django.db.backends.postgresql import operations

from pg_tenants.backends.operations import TenantOperationsMixin

__all__ = ["DatabaseOperations"]


class DatabaseOperations(TenantOperationsMixin, operations.DatabaseOperations):
    """Django's operations, with names qualified where several modules have them."""
