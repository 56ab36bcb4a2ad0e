"""The errors of the server, all of them kinds of ``pg_tenants.exceptions.ServerError``."""

from __future__ import annotations

from pg_tenants.exceptions import ServerError

__all__ = [
    "DataFolderError",
    "EngineUnavailable",
    "PortTaken",
    "ServerBusy",
    "ServerConfigError",
    "ServerError",
    "ServerNotRunning",
    "ServerStartFailed",
    "ServerStopFailed",
]


class ServerConfigError(ServerError):
    """A key of the configuration is unknown, or its value cannot be used."""


class EngineUnavailable(ServerError):
    """No PostgreSQL programs of the engine and version asked for."""


class DataFolderError(ServerError):
    """The server's folder cannot be used: its place, its owner or its version."""


class ServerBusy(ServerError):
    """Another process is starting or stopping the same server and did not end in time."""


class PortTaken(ServerError):
    """Another program listens on the port asked for."""


class ServerNotRunning(ServerError):
    """Something was asked of the server that only a running one can answer."""


class ServerStartFailed(ServerError):
    """PostgreSQL did not start, or did not accept connections in time."""


class ServerStopFailed(ServerError):
    """PostgreSQL did not stop in time."""
