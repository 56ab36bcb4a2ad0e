"""Migrating every schema of a project.

Django takes this package for the app's own migrations, too; the names of all other modules in it begin with an
underscore, which it leaves alone.
"""

from __future__ import annotations

from pg_tenants.migrations._report import Report, SchemaResult
from pg_tenants.migrations._run import Options, apply, migrate_target
from pg_tenants.migrations._targets import Target, required_registry

__all__ = ["Options", "Report", "SchemaResult", "Target", "apply", "migrate_target", "required_registry"]
