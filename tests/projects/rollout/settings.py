"""A project in three releases, of which the environment says one: the second takes a column in, the third one out."""

from __future__ import annotations

import os

from tests.projects.base_settings import *  # noqa: F403

RELEASE = int(os.environ["RELEASE"])

ALLOWED_HOSTS = ["*"]
INSTALLED_APPS = ["pg_tenants", "tests.projects.equal.people", "tests.projects.rollout.shop"]
MIDDLEWARE = ["pg_tenants.middleware.TenantMiddleware"]
MIGRATION_MODULES = {"shop": f"tests.projects.rollout.shop.release{RELEASE}"}
ROOT_URLCONF = "tests.projects.rollout.urls"
PG_TENANTS = {
    "TENANT_MODEL": "people.Tenant",
    "DOMAIN_MODEL": "people.Domain",
    "MODULES": {"shared": {"schema": "public", "apps": ["people"]}, "tenant": {"apps": ["shop"]}},
}
