"""Tenants with a small app whose migrations are run and taken back, and killed meanwhile.

With ``GROWING_PLAIN=1`` its apps are on Django's own backend.
"""

from __future__ import annotations

import os

from pg_tenants.conf import database

SECRET_KEY = "tests"
TENANT_APPS = ["django.contrib.contenttypes", "django.contrib.auth", "tests.projects.growing.parts"]
DATABASES = {"default": database(os.environ["DATABASE_URL"])}
if os.environ.get("GROWING_PLAIN") == "1":
    INSTALLED_APPS = TENANT_APPS
    DATABASES["default"]["ENGINE"] = "django.db.backends.postgresql"
else:
    INSTALLED_APPS = ["pg_tenants", "tests.projects.cms.companies", *TENANT_APPS]
    DATABASE_ROUTERS = ["pg_tenants.routers.TenantRouter"]
    PG_TENANTS = {
        "TENANT_MODEL": "companies.Company",
        "DOMAIN_MODEL": "companies.Domain",
        "MODULES": {"shared": {"schema": "public", "apps": ["companies"]}, "tenant": {"apps": TENANT_APPS}},
    }
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
