"""Settings: one tenant module whose migrations do all that a template can keep, and one for each thing that it cannot.

The directory in ``SEEDED_CODE`` has the module ``seeded_code``, which a migration calls.
"""

from __future__ import annotations

import os

from tests.projects.base_settings import *  # noqa: F403

REFUSED = ("keys", "cursors", "prices", "names")
INSTALLED_APPS = [
    "pg_tenants",
    "django.contrib.contenttypes",
    "django.contrib.auth",
    "tests.projects.seeded.companies",
    "tests.projects.seeded.goods",
    *(f"tests.projects.seeded.{name}" for name in REFUSED),
]
PG_TENANTS = {
    "TENANT_MODEL": "companies.Company",
    "DOMAIN_MODEL": "companies.Domain",
    "MODULES": {
        "shared": {"schema": "public", "apps": ["companies", "contenttypes", "auth"]},
        "goods": {"apps": ["contenttypes", "auth", "goods"]},
        **{name: {"apps": [name]} for name in REFUSED},
    },
    "READY_SCHEMAS": int(os.environ.get("SEEDED_READY", "0")),
}
# Users are each company's, except for those of the admin, which is not installed.
SILENCED_SYSTEM_CHECKS = ["pg_tenants.W060"]
