"""DDL that names a schema only where another module's is meant."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pg_tenants.context import active, as_owner
from pg_tenants.modules import TableName

if TYPE_CHECKING:
    from django.db.backends.postgresql.schema import DatabaseSchemaEditor

    _Base = DatabaseSchemaEditor
else:
    _Base = object

__all__ = ["TenantSchemaEditorMixin"]


class TenantSchemaEditorMixin(_Base):
    """Leaves the active schema's own tables unqualified, so the same statements serve every schema of a module.

    Not so for apps without migrations: their tables are made before those of other apps, which the path would then find
    in another schema.
    """

    def __enter__(self) -> Any:
        """Begin, with the rights of the tables' owner."""
        self._as_owner = as_owner()
        self._as_owner.__enter__()
        try:
            return super().__enter__()
        except BaseException:
            self._as_owner.__exit__(None, None, None)
            raise

    def __exit__(self, *exc_info: Any) -> None:
        """End what was begun."""
        try:
            super().__exit__(*exc_info)
        finally:
            self._as_owner.__exit__(None, None, None)

    def quote_name(self, name: str) -> str:
        """Return the quoted name, qualified where it is a table of another schema."""
        target = active()
        connection: Any = self.connection
        quoted = super().quote_name(name)
        if type(name) is not TableName or target is None or connection.qualifies_own_tables:
            return quoted
        return quoted.removeprefix(f'"{connection.physical_schema(target.schema_name)}".')
