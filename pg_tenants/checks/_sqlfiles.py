"""Folders of SQL files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.core.checks import CheckMessage, Error, Warning  # noqa: A004  # Django's own names

from pg_tenants.exceptions import MigrationFailed
from pg_tenants.migrations import ModuleLoader, sql_problems
from pg_tenants.modules import registry

__all__ = ["check_sql_migrations"]

_SQL_PROBLEM_IDS = {
    "folder": "pg_tenants.E042",
    "name": "pg_tenants.E043",
    "number": "pg_tenants.E044",
    "content": "pg_tenants.E045",
    "reference": "pg_tenants.E046",
    "shared": "pg_tenants.E047",
    "empty": "pg_tenants.W042",
}


def check_sql_migrations(app_configs: Sequence[Any] | None = None, **kwargs: Any) -> list[CheckMessage]:
    """Find folders of SQL files that are missing or shared, and files that cannot be run as they are."""
    if registry() is None:
        return []
    found: list[CheckMessage] = []
    for problem in sql_problems():
        kind = Warning if problem.kind == "empty" else Error
        found.append(kind(problem.message, hint=problem.remedy, id=_SQL_PROBLEM_IDS[problem.kind]))
    if not found and any(module.sql_migrations for module in registry() or ()):
        try:
            ModuleLoader(None, ())
        except MigrationFailed as exc:
            found.append(Error(str(exc), hint="Correct its 'after' and 'before'.", id=_SQL_PROBLEM_IDS["reference"]))
    return found
