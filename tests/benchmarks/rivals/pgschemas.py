"""The CMS with one more app, under django-pgschemas."""

from __future__ import annotations

from tests.benchmarks.rivals.ours import *  # noqa: F403
from tests.benchmarks.rivals.ours import APPS, DATABASES

DATABASES["default"]["ENGINE"] = "django_pgschemas.postgresql"
DATABASES["default"]["OPTIONS"].pop("tenants", None)
DATABASE_ROUTERS = ["django_pgschemas.routers.TenantAppsRouter"]
SHARED = ["django_pgschemas", "django.contrib.postgres", "tests.benchmarks.rivals.ps_clients"]
INSTALLED_APPS = [*SHARED, *APPS]
TENANTS = {
    "public": {"APPS": SHARED},
    "default": {
        "TENANT_MODEL": "ps_clients.Client",
        "DOMAIN_MODEL": "ps_clients.Domain",
        "APPS": APPS,
        "URLCONF": "tests.benchmarks.rivals.urls",
    },
}
ROOT_URLCONF = "tests.benchmarks.rivals.urls"
