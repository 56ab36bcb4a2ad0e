"""Tenants with a small app whose migrations are run and taken back, and killed meanwhile."""

from __future__ import annotations

import os

from pg_tenants.conf import database

SECRET_KEY = "tests"
TENANT_APPS = ["django.contrib.contenttypes", "django.contrib.auth", "tests.projects.growing.parts"]
INSTALLED_APPS = ["pg_tenants", "tests.projects.cms.companies", *TENANT_APPS]
DATABASES = {"default": database(os.environ["DATABASE_URL"])}
DATABASE_ROUTERS = ["pg_tenants.routers.TenantRouter"]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
PG_TENANTS = {
    "TENANT_MODEL": "companies.Company",
    "DOMAIN_MODEL": "companies.Domain",
    "MODULES": {"shared": {"schema": "public", "apps": ["companies"]}, "tenant": {"apps": TENANT_APPS}},
}
