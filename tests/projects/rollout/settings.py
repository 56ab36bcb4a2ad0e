"""A project in three releases, of which the environment says one: the second takes a column in, the third one out."""

from __future__ import annotations

import os

from pg_tenants.conf import database

RELEASE = int(os.environ["RELEASE"])

SECRET_KEY = "tests"
ALLOWED_HOSTS = ["*"]
DATABASES = {"default": database(os.environ["DATABASE_URL"])}
DATABASE_ROUTERS = ["pg_tenants.routers.TenantRouter"]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
INSTALLED_APPS = ["pg_tenants", "tests.projects.equal.people", "tests.projects.rollout.shop"]
MIDDLEWARE = ["pg_tenants.middleware.TenantMiddleware"]
MIGRATION_MODULES = {"shop": f"tests.projects.rollout.shop.release{RELEASE}"}
ROOT_URLCONF = "tests.projects.rollout.urls"
PG_TENANTS = {
    "TENANT_MODEL": "people.Tenant",
    "DOMAIN_MODEL": "people.Domain",
    "MODULES": {"shared": {"schema": "public", "apps": ["people"]}, "tenant": {"apps": ["shop"]}},
}
USE_TZ = True
