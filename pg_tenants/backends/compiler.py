"""Django's compilers, which keep the quoted form of a name: tables of one name are told apart by their apps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.db.backends.postgresql import compiler

from pg_tenants.modules import TableName

if TYPE_CHECKING:
    from django.db.models.sql.compiler import SQLCompiler as _Base
else:
    _Base = object

__all__ = ["SQLAggregateCompiler", "SQLCompiler", "SQLDeleteCompiler", "SQLInsertCompiler", "SQLUpdateCompiler"]


class _ByApp(_Base):
    """Never keeps the form of a ``TableName``. The method has its second name since Django 6.1."""

    def quote_name_unless_alias(self, name: str) -> str:
        """Return the quoted name."""
        if type(name) is TableName:
            return self.connection.ops.quote_name(name)
        # Django looks here as well, later.
        quoted: str | None = self.quote_cache.get(name)
        return super().quote_name_unless_alias(name) if quoted is None else quoted

    def quote_name(self, name: str) -> str:
        """Return the quoted name."""
        if type(name) is TableName:
            return self.connection.ops.quote_name(name)
        quoted: str = super().quote_name(name)
        return quoted


class SQLCompiler(_ByApp, compiler.SQLCompiler):
    """For SELECT."""


class SQLInsertCompiler(_ByApp, compiler.SQLInsertCompiler):
    """For INSERT."""


class SQLDeleteCompiler(_ByApp, compiler.SQLDeleteCompiler):
    """For DELETE."""


class SQLUpdateCompiler(_ByApp, compiler.SQLUpdateCompiler):
    """For UPDATE."""


class SQLAggregateCompiler(_ByApp, compiler.SQLAggregateCompiler):
    """For aggregates over a subquery."""
