"""A project whose app `tags` is in the module that the environment says."""

from __future__ import annotations

import os

from pg_tenants.conf import database

SECRET_KEY = "tests"
DATABASES = {"default": database(os.environ["DATABASE_URL"])}
DATABASE_ROUTERS = ["pg_tenants.routers.TenantRouter"]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
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
USE_TZ = True
