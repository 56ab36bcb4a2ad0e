"""Settings of the processes whose jobs of ``django.tasks`` are stored in the database, in ``public``."""

from __future__ import annotations

from typing import Any

from tests.projects.jobs.settings import *  # noqa: F403
from tests.projects.jobs.settings import INSTALLED_APPS, PG_TENANTS  # type: ignore[attr-defined]

_modules: dict[str, Any] = PG_TENANTS["MODULES"]
_shared = {**_modules["shared"], "apps": [*_modules["shared"]["apps"], "django_tasks_db"]}
INSTALLED_APPS = [*INSTALLED_APPS, "django_tasks_db"]
PG_TENANTS = {**PG_TENANTS, "MODULES": {**_modules, "shared": _shared}}
TASKS = {
    "default": {
        "BACKEND": "pg_tenants.contrib.tasks.TenantBackend",
        "OPTIONS": {"BACKEND": "django_tasks_db.DatabaseBackend"},
    },
    "plain": {"BACKEND": "django.tasks.backends.immediate.ImmediateBackend"},
}
