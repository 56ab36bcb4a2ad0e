"""A project whose app `tags` is in the module that the environment says."""

from __future__ import annotations

import os

from tests.projects.base_settings import *  # noqa: F403

INSTALLED_APPS = ["pg_tenants", "tests.projects.equal.people", "tests.projects.moving.tags"]
MIDDLEWARE = ["pg_tenants.middleware.TenantMiddleware"]
TAGS = ["tags"]
PLACE = os.environ["TAGS_ARE"]
PG_TENANTS = {
    "TENANT_MODEL": "people.Tenant",
    "DOMAIN_MODEL": "people.Domain",
    "MODULES": {
        "shared": {"schema": "public", "apps": ["people", *(TAGS if PLACE == "shared" else [])]},
        "tenant": {"apps": TAGS if PLACE == "tenants" else []},
    },
}
