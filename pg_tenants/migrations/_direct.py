"""Migrating past a connection pooler.

What migrates uses the alias that it always uses: routers, models and receivers of signals know that one. For the time
of a run, its connections are made as those of the direct alias.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.db import connections, transaction

from pg_tenants import conf
from pg_tenants.exceptions import ConfigurationError
from pg_tenants.schemas import tenant_connection

__all__ = ["direct"]

_WHERE = ("HOST", "PORT", "USER", "PASSWORD")
_OF_THE_WAY = ("pooler", "pgserver")
_SERVER = """
SELECT (SELECT system_identifier FROM pg_catalog.pg_control_system()), pg_catalog.current_database(),
    pg_catalog.pg_is_in_recovery()
"""


@contextmanager
def direct(using: str) -> Iterator[bool]:
    """Connect an alias as its direct alias is connected, in all threads of the process, until the end of the block.

    Args:
        using: the database alias. Where ``OPTIONS["tenants"]["migrations"]`` names none, nothing happens.

    Yields:
        whether it has a direct alias.

    Raises:
        ConfigurationError: the direct alias is unknown, leads to another database, or a transaction is open.
    """
    connection = tenant_connection(using)
    alias = connection.tenant_options.migrations_alias
    if alias is None:
        yield False
        return
    if alias == using or alias not in connections.settings:
        raise ConfigurationError(
            f"DATABASES[{using!r}]['OPTIONS']['tenants']['migrations']['alias'] is {alias!r}. Name another alias of "
            "DATABASES, which is connected without a pooler."
        )
    if transaction.get_connection(using).in_atomic_block:
        raise ConfigurationError(
            f"Migrations of {using!r} run on the alias {alias!r}, another connection, and a transaction is open on "
            f"{using!r}. Migrate outside of it."
        )
    with connection.without_prefix() as execute:
        here = execute(_SERVER).fetchone()
    connection.close()
    settings = connection.settings_dict
    before = dict(settings)
    settings.update(_settings(before, connections.settings[alias]))
    try:
        with connection.without_prefix() as execute:
            there = execute(_SERVER).fetchone()
        if there[2] or here[:2] != there[:2]:
            what = "is a standby, which cannot be migrated" if there[2] else f"is not the database of {using!r}"
            raise ConfigurationError(
                f"The alias {alias!r}, on which {using!r} is to be migrated, leads to the database {there[1]!r} of the "
                f"server at {settings['HOST'] or 'the local socket'}, port {settings['PORT'] or 5432}; that {what}. "
                "Correct its HOST, PORT and NAME."
            )
        yield True
    finally:
        connection.close()
        settings.clear()
        settings.update(before)


def _settings(own: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Return an alias's settings, with the way of another one to the server."""
    theirs = conf.tenant_options(other)
    tenants = {key: value for key, value in conf.tenant_options(own).items() if key not in _OF_THE_WAY}
    tenants |= {key: theirs[key] for key in _OF_THE_WAY if key in theirs}
    # A run has its connections for itself, so a pool of them would be of no use.
    options = {key: value for key, value in other["OPTIONS"].items() if key != "pool"}
    return {**{key: other[key] for key in _WHERE}, "OPTIONS": {**options, "tenants": tenants}}
