"""Introspection that sees the active schema alone."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar

from pg_tenants.exceptions import SchemaDoesNotExist
from pg_tenants.names import is_own_table

if TYPE_CHECKING:
    from django.db.backends.postgresql.introspection import DatabaseIntrospection

    _Base = DatabaseIntrospection
else:
    _Base = object

__all__ = ["TenantIntrospectionMixin"]


F = TypeVar("F", bound=Callable[..., Any])


def _in_active_schema(method: F) -> F:
    @wraps(method)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        with self.connection.active_schema_only():
            return method(self, *args, **kwargs)

    return call  # type: ignore[return-value]


class TenantIntrospectionMixin(_Base):
    """Narrows the path while Django's queries run, which ask for what is visible on it.

    On the whole path a shared table would be taken for the tenant's own.
    """

    @_in_active_schema
    def get_table_list(self, cursor: Any) -> Any:
        """Return the tables and views of the active schema, without those of this package.

        A schema that the alias is bound to has none before ``migrate`` has made it, so that ``makemigrations`` and
        ``showmigrations`` work on a new database.
        """
        connection: Any = self.connection
        try:
            found = super().get_table_list(cursor)
        except SchemaDoesNotExist:
            if connection.tenant_options.schema is None or connection.in_atomic_block:
                raise
            return []
        return [table for table in found if not is_own_table(table.name)]

    @_in_active_schema
    def get_table_description(self, cursor: Any, table_name: str) -> Any:
        """Return the columns of a table in the active schema."""
        return super().get_table_description(cursor, table_name)

    @_in_active_schema
    def get_sequences(self, cursor: Any, table_name: str, table_fields: Any = ()) -> Any:
        """Return the sequences of a table in the active schema."""
        return super().get_sequences(cursor, table_name, table_fields)

    @_in_active_schema
    def get_relations(self, cursor: Any, table_name: str) -> Any:
        """Return the foreign keys of a table in the active schema."""
        return super().get_relations(cursor, table_name)

    @_in_active_schema
    def get_constraints(self, cursor: Any, table_name: str) -> Any:
        """Return the constraints and indexes of a table in the active schema."""
        return super().get_constraints(cursor, table_name)

    def django_table_names(self, only_existing: bool = False, include_views: bool = True) -> Any:
        """Return the tables of the installed models, as plain names that the path resolves."""
        return [str(name) for name in super().django_table_names(only_existing, include_views)]
