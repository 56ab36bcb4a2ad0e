"""A small application: users, groups, permissions and sessions of each tenant; eight tables."""

from __future__ import annotations

import os

from pg_tenants.conf import database

SECRET_KEY = "benchmarks"
APPS = ["django.contrib.contenttypes", "django.contrib.auth", "django.contrib.sessions"]
INSTALLED_APPS = ["pg_tenants", "tests.projects.cms.companies", *APPS]
DATABASES = {"default": database(os.environ["DATABASE_URL"])}
DATABASE_ROUTERS = ["pg_tenants.routers.TenantRouter"]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
PG_TENANTS = {
    "TENANT_MODEL": "companies.Company",
    "DOMAIN_MODEL": "companies.Domain",
    "MODULES": {"shared": {"schema": "public", "apps": ["companies"]}, "tenant": {"apps": APPS}},
}
