"""Quoting of names that several modules have."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pg_tenants.backends.prefix import quote
from pg_tenants.context import active
from pg_tenants.modules import TableName, registry

if TYPE_CHECKING:
    from django.db.backends.postgresql.operations import DatabaseOperations

    _Base = DatabaseOperations
else:
    _Base = object

__all__ = ["TenantOperationsMixin"]


class TenantOperationsMixin(_Base):
    """Qualifies a table's name by its schema where the search path would find another module's."""

    def quote_name(self, name: str) -> str:
        """Return the quoted name, qualified where it is a ``TableName`` that the path does not find first.

        Raises:
            NoActiveTenant: it is a tenant's table and no tenant is active.
        """
        quoted = super().quote_name(name)
        if type(name) is not TableName:
            return quoted
        connection: Any = self.connection
        modules = registry()
        if modules is None or not connection.is_tenant_aware:
            return quoted
        schema = name.schema(active(), modules)
        return quoted if schema is None else f"{quote(connection.physical_schema(schema))}.{quoted}"
