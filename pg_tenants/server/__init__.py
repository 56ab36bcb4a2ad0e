"""A PostgreSQL for development, tests and demos, started and stopped by one call. Not for production.

It imports nothing of Django, and works without a project: ``python -m pg_tenants.server up``.
"""

from __future__ import annotations

from pg_tenants.server.cluster import Server
from pg_tenants.server.config import DEFAULT_PORT, ServerConfig
from pg_tenants.server.exceptions import (
    DataFolderError,
    EngineUnavailable,
    PortTaken,
    ServerBusy,
    ServerConfigError,
    ServerError,
    ServerNotRunning,
    ServerStartFailed,
    ServerStopFailed,
)
from pg_tenants.server.status import Status

__all__ = [
    "DEFAULT_PORT",
    "DataFolderError",
    "EngineUnavailable",
    "PortTaken",
    "Server",
    "ServerBusy",
    "ServerConfig",
    "ServerConfigError",
    "ServerError",
    "ServerNotRunning",
    "ServerStartFailed",
    "ServerStopFailed",
    "Status",
]
