"""The CMS with one more app, under django-tenants."""

from __future__ import annotations

from tests.benchmarks.rivals.ours import *  # noqa: F403
from tests.benchmarks.rivals.ours import APPS, DATABASES

DATABASES["default"]["ENGINE"] = "django_tenants.postgresql_backend"
DATABASES["default"]["OPTIONS"].pop("tenants", None)
DATABASE_ROUTERS = ["django_tenants.routers.TenantSyncRouter"]
TENANT_APPS = APPS
SHARED_APPS = ["django_tenants", "django.contrib.postgres", "tests.benchmarks.rivals.dt_clients"]
INSTALLED_APPS = [*SHARED_APPS, *APPS]
TENANT_MODEL = "dt_clients.Client"
TENANT_DOMAIN_MODEL = "dt_clients.Domain"
