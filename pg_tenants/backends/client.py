"""``dbshell``: psql in the active schema."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django.db.backends.postgresql.client import DatabaseClient

from pg_tenants.backends.prefix import path_text
from pg_tenants.exceptions import UnsafeStatement

__all__ = ["TenantDatabaseClient"]


class TenantDatabaseClient(DatabaseClient):
    """Opens psql on the search path that statements would have now."""

    def runshell(self, parameters: Iterable[str]) -> None:
        """Open psql.

        Raises:
            SchemaDoesNotExist: the active schema is missing.
            UnsafeStatement: the alias leads through a pooler, where a session's search path is not kept.
        """
        connection: Any = self.connection
        # Psql looks names up in whatever is left of the path, so the schema is proved before.
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        if connection.statement_prefix() is not None and connection.is_pooled():
            raise UnsafeStatement(
                f"DATABASES[{connection.alias!r}] leads through a connection pooler, which gives psql's search path to "
                "other sessions or drops it. Give an alias that is connected directly: dbshell --database ALIAS."
            )
        connection.close()
        super().runshell(parameters)

    def settings_to_cmd_args_env(  # type: ignore[override]  # an instance's: the path depends on the connection
        self, settings_dict: dict[str, Any], parameters: Iterable[str]
    ) -> tuple[list[str], dict[str, str] | None]:
        """Return psql's arguments and environment, with the place of the development server and the search path."""
        connection: Any = self.connection
        params = connection.get_connection_params()
        place = {"NAME": "dbname", "USER": "user", "PASSWORD": "password", "HOST": "host", "PORT": "port"}
        known = {key: params.get(name) or settings_dict.get(key) for key, name in place.items()}
        args, env = super().settings_to_cmd_args_env({**settings_dict, **known}, list(parameters))
        prefix = connection.statement_prefix()
        if prefix is None:
            return args, env
        options = [params.get("options", ""), f"-c search_path={_escape(self._search_path())}"]
        if prefix.role:
            options.append(f"-c role={_escape(prefix.role)}")
        return args, {**(env or {}), "PGOPTIONS": " ".join(filter(None, options))}

    def _search_path(self) -> str:
        connection: Any = self.connection
        schema = connection.tenant_options.schema or connection.schema_here
        return path_text(connection.search_path(schema), ",")


def _escape(value: str) -> str:
    """Return a value as one word of libpq's options."""
    return value.replace("\\", "\\\\").replace(" ", "\\ ")
