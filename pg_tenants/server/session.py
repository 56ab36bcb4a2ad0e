"""What is asked of a running server by SQL, through the address that everybody else uses."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, LiteralString

import psycopg
from psycopg import errors, sql

from pg_tenants.databases import forget_password
from pg_tenants.known_extensions import ONLY_LIBRARIES, PRELOADED, remedy
from pg_tenants.server.config import ServerConfig
from pg_tenants.server.exceptions import ServerConfigError, ServerStartFailed

if TYPE_CHECKING:
    from pg_tenants.server.runtime import Running

__all__ = ["connect", "extensions", "make_database", "make_extensions", "params"]

_AVAILABLE = "SELECT name, default_version FROM pg_catalog.pg_available_extensions ORDER BY name"
_INSTALLED = "SELECT extname, extversion FROM pg_catalog.pg_extension ORDER BY extname"


def params(config: ServerConfig, found: Running, password: str) -> dict[str, Any]:
    """Return how psycopg connects to a running server's database ``postgres``."""
    return {"host": found.host, "port": found.port, "user": config.user, "password": password, "dbname": "postgres"}


def connect(where: Mapping[str, Any]) -> psycopg.Connection[Any]:
    """Open a session in autocommit, whatever the environment's variables of libpq say."""
    try:
        return psycopg.connect(
            **{"connect_timeout": 10, **where},
            autocommit=True,
            gssencmode="disable",
            sslmode="prefer",
            options="",
            application_name="pgserver",
        )
    except psycopg.Error as exc:
        forget_password(exc)
        raise


def make_database(where: Mapping[str, Any], name: str) -> None:
    """Make a database if it is missing.

    Raises:
        ServerStartFailed: it cannot be made.
    """
    try:
        with connect(where) as connection:
            there = connection.execute("SELECT FROM pg_catalog.pg_database WHERE datname = %s", [name]).fetchone()
            if there is None:
                connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    except (errors.DuplicateDatabase, errors.UniqueViolation):
        pass  # another process was faster
    except psycopg.Error as exc:
        raise ServerStartFailed(
            f"The database {name!r} could not be made. Repair what PostgreSQL says, or choose another by the key "
            f"'database':\n{str(exc).strip()}"
        ) from exc


def make_extensions(where: Mapping[str, Any], names: Iterable[str]) -> None:
    """Install extensions in a database if they are missing.

    Raises:
        ServerConfigError: the server does not have one, has not preloaded it, or refuses it.
    """
    names = tuple(names)
    if not names:
        return
    wanted = [name for name in names if name not in ONLY_LIBRARIES]
    with connect(where) as connection:
        (libraries,) = connection.execute("SHOW shared_preload_libraries").fetchone() or ("",)
        loaded = {library.strip() for library in libraries.split(",")}
        if lacking := [name for name in names if name in PRELOADED and name not in loaded]:
            raise ServerConfigError(
                f"The key 'extensions' has {', '.join(map(repr, lacking))}, which a server loads when it starts, and "
                "this one has not. Run 'pgserver restart'."
            )
        available = dict(connection.execute(_AVAILABLE).fetchall())
        for name in wanted:
            if name not in available:
                version = connection.info.server_version
                raise ServerConfigError(
                    f"The key 'extensions' has {name!r}, which this PostgreSQL {version // 10000}.{version % 10000} "
                    f"does not have; 'pgserver info' lists those it has. {remedy(name, str(version // 10000))}, by "
                    "the key 'engine' or 'image', or take it out."
                )
            try:
                connection.execute(sql.SQL("CREATE EXTENSION IF NOT EXISTS {} CASCADE").format(sql.Identifier(name)))
            except psycopg.Error as exc:
                raise ServerConfigError(
                    f"The extension {name!r} of the key 'extensions' cannot be installed. Repair what PostgreSQL says, "
                    "or take it out: "
                    f"{str(exc).strip()}"
                ) from exc


def extensions(where: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Return the versions of the extensions that a server has and of those that are installed in a database."""
    queries: dict[str, LiteralString] = {"available": _AVAILABLE, "installed": _INSTALLED}
    with connect(where) as connection:
        return {key: dict(connection.execute(query).fetchall()) for key, query in queries.items()}
