"""What a worker of ``--parallel`` does that begins from nothing. It is imported before the apps are loaded."""

from __future__ import annotations

import django

__all__ = ["prepare"]


def prepare(wait: float, own_database: bool) -> None:
    """Set Django up and put our creation on the connections; Django makes a worker of the process afterwards.

    Args:
        wait: how long to wait for another run that uses the schemas, in seconds.
        own_database: give the worker a database of its own.
    """
    django.setup()
    from pg_tenants.test.creation import install  # noqa: PLC0415
    from pg_tenants.test.tenants import allow_domains  # noqa: PLC0415

    install(wait=wait, own_database=own_database)
    allow_domains()
