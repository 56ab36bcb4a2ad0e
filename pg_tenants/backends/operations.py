"""Quoting of names that several modules have."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pg_tenants.backends import compiler
from pg_tenants.backends.prefix import quote
from pg_tenants.context import active, as_owner
from pg_tenants.exceptions import NoActiveTenant
from pg_tenants.modules import TableName, has_ambiguous_tables, registry

if TYPE_CHECKING:
    from django.db.backends.postgresql.operations import DatabaseOperations

    _Base = DatabaseOperations
else:
    _Base = object

__all__ = ["TenantOperationsMixin"]


class TenantOperationsMixin(_Base):
    """Qualifies a table's name by its schema where the search path would find another module's."""

    def compiler(self, compiler_name: str) -> type[Any]:
        """Return Django's compiler, or ours where the project has a ``TableName``."""
        return getattr(compiler, compiler_name) if has_ambiguous_tables() else super().compiler(compiler_name)

    def quote_name(self, name: str) -> str:
        """Return the quoted name, qualified where it is a ``TableName`` that the path does not find first.

        Raises:
            NoActiveTenant: it is a tenant's table and no tenant is active.
        """
        quoted = super().quote_name(name)
        return quoted if type(name) is not TableName else self._qualified(name, quoted)

    def _qualified(self, name: TableName, quoted: str) -> str:
        connection: Any = self.connection
        modules = registry()
        if modules is None or not connection.is_tenant_aware:
            return quoted
        schema = name.schema(active(), modules)
        return quoted if schema is None else f"{quote(connection.physical_schema(schema))}.{quoted}"

    def sql_flush(self, style: Any, tables: Any, **kwargs: Any) -> list[str]:
        """Return the statements that empty tables; without a tenant, those of fixed modules are meant."""
        return super().sql_flush(style, [self._meant_by_flush(table) for table in tables], **kwargs)

    def execute_sql_flush(self, sql_list: Any) -> None:
        """Empty tables; only their owner may set their sequences back."""
        with as_owner():
            super().execute_sql_flush(sql_list)

    def _meant_by_flush(self, table: str) -> str:
        try:
            self.quote_name(table)
        except NoActiveTenant:
            return str(table)
        return table

    def for_update_sql(
        self, nowait: bool = False, skip_locked: bool = False, of: Any = (), no_key: bool = False
    ) -> str:
        """Return the clause; ``OF`` takes table names without their schemas."""
        bare = tuple(name.rpartition('"."')[2].join(('"', "")) if '"."' in name else name for name in of)
        return super().for_update_sql(nowait=nowait, skip_locked=skip_locked, of=bare, no_key=no_key)
