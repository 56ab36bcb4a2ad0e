"""The test database bound to one schema, by psycopg alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import psycopg
from django.db import DEFAULT_DB_ALIAS, connections

from pg_tenants import extensions as installed
from pg_tenants import schemas
from pg_tenants.backends.prefix import path_text, quote
from pg_tenants.context import ActiveContext, ActiveSchema, no_schema
from pg_tenants.exceptions import ConfigurationError
from pg_tenants.migrations import Target, required_registry
from pg_tenants.schemas import tenant_connection
from pg_tenants.test import _build

__all__ = ["CleanSchema", "Isolated", "migrated"]

_NOT_LIBPQS = ("cursor_factory", "context", "prepare_threshold", "autocommit")


@dataclass(frozen=True)
class Isolated:
    """A database whose connections work in one schema.

    Attributes:
        schema: the schema, by its name in the database.
        path: the schemas of the search path, by their names in the database.
        params: how psycopg connects, without the search path.
        name: the schema's name in the project; None for one that the project does not know.
        module: the module whose tables it has, if it has a tenant module's.
    """

    schema: str
    path: tuple[str, ...]
    params: dict[str, Any] = field(repr=False)
    name: str | None = None
    module: str | None = None

    @classmethod
    def of_alias(cls, schema: str, alias: str = DEFAULT_DB_ALIAS) -> Isolated:
        """Return the database of an alias, bound to a schema by its name in the database."""
        connection = tenant_connection(alias)
        params = {key: value for key, value in connection.get_connection_params().items() if key not in _NOT_LIBPQS}
        with no_schema():
            path = [name for name in connection.search_path(None) if name != schema]
        return cls(schema, (schema, *path), params)

    def connect(self, **params: Any) -> psycopg.Connection[Any]:
        """Return a psycopg connection in the schema; as a context it commits, or rolls back on an exception.

        Args:
            params: what psycopg takes.
        """
        path = path_text(self.path, ",")
        # A backslash would end the option at a space, and there is none in a quoted list without them.
        options = f"{self.params.get('options') or ''} -c search_path={path}".strip()
        return psycopg.connect(**{**self.params, "options": options, **params})

    @contextmanager
    def session(self) -> Iterator[psycopg.Connection[Any]]:
        """Give a connection that commits at the end, or rolls back on an exception, and is closed."""
        with self.connect() as session:
            yield session

    @contextmanager
    def active(self) -> Iterator[None]:
        """Make the schema active for Django's models.

        Raises:
            ConfigurationError: it has no module's tables.
        """
        if self.name is None:
            raise ConfigurationError(
                f"The schema {self.schema!r} has no module's tables. Use pg_migrate_factory for one."
            )
        with ActiveContext(ActiveSchema(self.name, self.module)):
            yield

    def info(self) -> dict[str, Any]:
        """Return details of the schema and its surroundings."""
        modules = required_registry()
        connection = connections[DEFAULT_DB_ALIAS]
        return {
            "schema": self.schema,
            "search_path": list(self.path),
            "database": self.params.get("dbname"),
            "host": self.params.get("host", ""),
            "port": self.params.get("port", ""),
            "user": self.params.get("user", ""),
            "modules": {
                module.name: tenant_connection().physical_schema(module.schema) if module.schema else None
                for module in modules
            },
            "extensions_schema": modules.extensions_schema,
            "server_version": connection.pg_version,  # type: ignore[attr-defined]
        }


class CleanSchema:
    """A context with an empty schema, which is dropped and made anew at its start, and dropped at its end.

    Args:
        base: where.
        schema: its name in the database.
    """

    def __init__(self, base: Isolated, schema: str):
        self._base, self._schema = base, schema

    def __enter__(self) -> Isolated:
        """Make the schema."""
        self._send(f"DROP SCHEMA IF EXISTS {quote(self._schema)} CASCADE; CREATE SCHEMA {quote(self._schema)}")
        path = (self._schema, self._base.path[-1])
        return Isolated(self._schema, path, self._base.params)

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Drop the schema."""
        self._send(f"DROP SCHEMA IF EXISTS {quote(self._schema)} CASCADE")

    def _send(self, statement: str) -> None:
        with self._base.connect(autocommit=True) as session:
            session.execute(statement)


@contextmanager
def migrated(name: str, module: str = "", extensions: Sequence[str] = ()) -> Iterator[Isolated]:
    """Give a schema that has all tables of a module, and drop it behind the context.

    Args:
        name: the schema's name in the project.
        module: the module; empty for the only tenant module.
        extensions: installed before.

    Raises:
        ConfigurationError: the module is unknown.
        ExtensionUnavailable: an extension cannot be installed.
    """
    modules = required_registry()
    found = modules.modules.get(module) or modules.tenant_module(module or None)
    with no_schema():
        installed.install([*found.extensions, *extensions], schema=modules.extensions_schema, using=found.database)
        schemas.drop(name, using=found.database, if_exists=True)
        _build.make_tenant_schema(Target(name, (found,)), using=found.database)
    connection = tenant_connection(found.database)
    physical = connection.physical_schema(name)
    isolated = Isolated.of_alias(physical, found.database)
    try:
        yield Isolated(physical, isolated.path, isolated.params, name, None if found.is_fixed else found.name)
    finally:
        with no_schema():
            schemas.drop(name, using=found.database, if_exists=True)
