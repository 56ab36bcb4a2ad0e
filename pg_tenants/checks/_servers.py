"""The development server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.core.checks import CheckMessage, Error, Warning  # noqa: A004  # Django's own names
from django.db import connections

from pg_tenants import conf
from pg_tenants.exceptions import ConfigurationError

__all__ = ["check_deployment", "check_pgserver"]


def check_pgserver(app_configs: Sequence[Any] | None = None, **kwargs: Any) -> list[CheckMessage]:
    """Find a configuration of the development server that it would refuse."""
    config, users = conf.get(), _pgserver_aliases()
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


def check_deployment(app_configs: Sequence[Any] | None = None, **kwargs: Any) -> list[CheckMessage]:
    """Find the development server where ``check --deploy`` looks for what is wrong in production."""
    return [
        Warning(
            f"DATABASES[{alias!r}] is the development server, which is not for production: its commits may be lost in "
            "a crash, nobody backs it up, and any process of this user stops it.",
            hint="Name a PostgreSQL that is run for production, as in conf.database('postgresql://…').",
            id="pg_tenants.W092",
        )
        for alias in _pgserver_aliases()
    ]


def _pgserver_aliases() -> list[str]:
    found = []
    for alias in connections.settings:
        options = connections.settings[alias].get("OPTIONS", {}).get("tenants")
        try:
            if conf.alias_options(options, alias).pgserver:
                found.append(alias)
        except ConfigurationError:
            continue  # E016 says why.
    return found
