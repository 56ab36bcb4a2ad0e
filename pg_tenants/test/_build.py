"""The one place where test runs make schemas."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.core.management import call_command

from pg_tenants import schemas
from pg_tenants.migrations import Options, Target, migrate_target
from pg_tenants.test._lock import turn

__all__ = ["make_fixed", "make_schema"]


def make_fixed(connection: Any, targets: Sequence[Target], verbosity: int) -> None:
    """Make the fixed modules' schemas of a worker, and what all workers share: extensions and templates."""
    with turn(connection, "build"):
        call_command(
            "migrate",
            verbosity=max(verbosity - 1, 0),
            interactive=False,
            database=connection.alias,
            run_syncdb=True,
        )


def make_schema(target: Target, *, using: str) -> None:
    """Make one schema of a worker, with all tables."""
    schemas.create(target.schema, using=using)
    migrate_target(target, Options(verbosity=0, interactive=False, run_syncdb=True), using=using)
