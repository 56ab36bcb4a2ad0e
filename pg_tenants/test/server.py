"""The PostgreSQL of a test run: the project's, the one that ``TEST_DB_HOST`` names, or the development server."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import psycopg
from django.db import DEFAULT_DB_ALIAS, OperationalError, connections

from pg_tenants import conf
from pg_tenants.backends.base import TenantDatabaseWrapperMixin

__all__ = ["VARIABLES", "TestServer", "find"]

VARIABLES = ("HOST", "PORT", "USER", "PASSWORD")
"""What ``TEST_DB_HOST`` and so on replace in the settings of the default database."""


class TestServer:
    """The development server, as far as a test run has started it."""

    __test__ = False  # No test, whatever pytest makes of the name.

    def __init__(self, server: Any, running: bool):
        self._server, self._running = server, running

    def stop(self) -> None:
        """Stop the server, if it did not run before, and nobody else has come to use it."""
        if self._running or not self._server.status().running:
            return
        connections.close_all()
        params = self._server.connection_params()
        with psycopg.connect(**params, dbname="postgres", autocommit=True) as session:
            row = session.execute(
                "SELECT count(*) FROM pg_catalog.pg_stat_activity"
                " WHERE backend_type = 'client backend' AND pid <> pg_catalog.pg_backend_pid()"
            ).fetchone()
        if row is not None and not row[0]:
            self._server.down()


def find(config: Mapping[str, Any] | None = None, environ: Mapping[str, str] = os.environ) -> TestServer | None:
    """Lead the default alias to the server for tests, and return the development server where that is the one.

    Args:
        config: ``url``, or ``host``, ``port``, ``user``, ``password``; what is given wins over all else.
        environ: ``TEST_DB_HOST``, ``TEST_DB_PORT``, ``TEST_DB_USER``, ``TEST_DB_PASSWORD``.
    """
    connection = connections[DEFAULT_DB_ALIAS]
    if not isinstance(connection, TenantDatabaseWrapperMixin):
        return None
    given = {key: environ[f"TEST_DB_{key}"] for key in VARIABLES if environ.get(f"TEST_DB_{key}")}
    given |= _settings_of(config or {})
    if given:
        name = given.pop("NAME", None)
        if name:
            connection.settings_dict["TEST"]["NAME"] = name
        _lead(connection, given, pgserver=False)
        return None
    if not connection.tenant_options.pgserver and not _needs_server(connection):
        return None
    # An extra's libraries, which a project with a server of its own need not have.
    from pg_tenants.server import Server, ServerConfig  # noqa: PLC0415

    _lead(connection, {}, pgserver=True)
    server = Server(ServerConfig.load(conf.pgserver()))
    return TestServer(server, server.status().running)


def _settings_of(config: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if config.get("url"):
        entry = conf.database(str(config["url"]))
        found = {key: value for key, value in entry.items() if key in ("NAME", *VARIABLES)}
    return found | {key: str(config[key.lower()]) for key in VARIABLES if config.get(key.lower())}


def _lead(default: Any, given: Mapping[str, Any], *, pgserver: bool) -> None:
    """Lead the default alias, and others on the same server, to another one."""
    here = _server_of(default)
    for alias in connections:
        connection = connections[alias]
        if isinstance(connection, TenantDatabaseWrapperMixin) and _server_of(connection) == here:
            where = connection.settings_dict
            where.update(given)
            tenants = {**(where["OPTIONS"].get("tenants") or {}), "pgserver": pgserver}
            where["OPTIONS"] = {**where["OPTIONS"], "tenants": tenants}
            connection.close()


def _server_of(connection: Any) -> tuple[Any, ...]:
    where = connection.settings_dict
    return where["HOST"], str(where["PORT"]), connection.tenant_options.pgserver


def _needs_server(connection: Any) -> bool:
    """Return whether the settings name no server, and none answers where libpq looks then."""
    where = connection.settings_dict
    if where["HOST"] or where["OPTIONS"].get("service") or os.environ.get("PGHOST") or os.environ.get("PGSERVICE"):
        return False
    try:
        with connection._nodb_cursor():
            return False
    except OperationalError:
        return True
