"""The CMS with one more app, under pg_tenants; with ``CMS_PLAIN=1`` under Django alone."""

from __future__ import annotations

from tests.projects.cms.settings import *  # noqa: F403
from tests.projects.cms.settings import CMS_APPS, INSTALLED_APPS, PLAIN

APPS = [*CMS_APPS, "tests.benchmarks.rivals.growth"]
INSTALLED_APPS = [*INSTALLED_APPS, "tests.benchmarks.rivals.growth"]
if not PLAIN:
    PG_TENANTS = {
        "TENANT_MODEL": "companies.Company",
        "DOMAIN_MODEL": "companies.Domain",
        "MODULES": {"shared": {"schema": "public", "apps": ["companies"]}, "tenant": {"apps": APPS}},
    }
