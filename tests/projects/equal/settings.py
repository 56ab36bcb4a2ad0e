"""A project where three modules have a table of one name, and users are both shared and each tenant's."""

from __future__ import annotations

from tests.projects.base_settings import *  # noqa: F403

INSTALLED_APPS = [
    "pg_tenants",
    "django.contrib.contenttypes",
    "django.contrib.auth",
    "tests.projects.equal.people",
    "tests.projects.equal.shop",
    "tests.projects.equal.stock",
    "tests.projects.equal.local",
]
PG_TENANTS = {
    "TENANT_MODEL": "people.Tenant",
    "DOMAIN_MODEL": "people.Domain",
    "MODULES": {
        "shared": {"schema": "public", "apps": ["people", "contenttypes", "auth"]},
        "shop": {"schema": "shop", "apps": ["shop"]},
        "stock": {"schema": "stock", "apps": ["stock"]},
        "tenant": {"apps": ["contenttypes", "auth", "local"]},
    },
}
