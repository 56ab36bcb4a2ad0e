"""Migrating every schema of a project.

Django takes this package for the app's own migrations, too; the names of all other modules in it begin with an
underscore, which it leaves alone.
"""

from __future__ import annotations

from pg_tenants.migrations._databases import Choice, choices
from pg_tenants.migrations._events import Event, Progress
from pg_tenants.migrations._executor import ModuleLoader
from pg_tenants.migrations._moved import MovedTables, moved_tables
from pg_tenants.migrations._plan import Options
from pg_tenants.migrations._preview import Preview, Script, preview
from pg_tenants.migrations._prune import prune
from pg_tenants.migrations._report import Report, SchemaResult, SchemaStructure, Structures
from pg_tenants.migrations._run import apply
from pg_tenants.migrations._single import migrate_target
from pg_tenants.migrations._sqlfiles import SqlProblem, SqlStep, has_sql_files, sql_problems, sql_steps
from pg_tenants.migrations._sqlhistory import SqlRun, sql_history
from pg_tenants.migrations._sqlnew import make_sql_files
from pg_tenants.migrations._targets import (
    Target,
    fixed_targets,
    required_registry,
    tenant_targets,
    unmatched,
    waiting_tenants,
)
from pg_tenants.migrations._verify import verify

__all__ = [
    "Choice",
    "Event",
    "ModuleLoader",
    "MovedTables",
    "Options",
    "Preview",
    "Progress",
    "Report",
    "SchemaResult",
    "SchemaStructure",
    "Script",
    "SqlProblem",
    "SqlRun",
    "SqlStep",
    "Structures",
    "Target",
    "apply",
    "choices",
    "fixed_targets",
    "has_sql_files",
    "make_sql_files",
    "migrate_target",
    "moved_tables",
    "preview",
    "prune",
    "required_registry",
    "sql_history",
    "sql_problems",
    "sql_steps",
    "tenant_targets",
    "unmatched",
    "verify",
    "waiting_tenants",
]
