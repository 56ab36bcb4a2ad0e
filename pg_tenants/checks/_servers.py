"""The development server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.core.checks import CheckMessage, Error

from pg_tenants import conf
from pg_tenants.checks._common import pgserver_aliases

__all__ = ["check_pgserver"]


def check_pgserver(app_configs: Sequence[Any] | None = None, **kwargs: Any) -> list[CheckMessage]:
    """Find a configuration of the development server that it would refuse."""
    config, users = conf.get(), pgserver_aliases()
    if not users and not (config and config.pgserver):
        return []
    try:
        # An extra's libraries, which a project without the development server need not have.
        from pg_tenants.server import ServerConfig, ServerError  # noqa: PLC0415
    except ImportError as exc:
        return [
            Error(
                f"DATABASES[{alias!r}] is the development server, and its libraries are missing ({exc}).",
                hint="Run pip install 'pg_tenants[server]', or name another server.",
                id="pg_tenants.E091",
            )
            for alias in users
        ]
    try:
        ServerConfig.load(conf.pgserver())
    except ServerError as exc:
        return [Error(f"PG_TENANTS['PGSERVER']: {exc}", hint="See the message.", id="pg_tenants.E090")]
    return []
