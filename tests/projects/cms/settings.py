"""Wagtail with all its apps in a schema for each tenant; with ``CMS_PLAIN=1`` the same apps on Django's own backend."""

from __future__ import annotations

import os

from pg_tenants.conf import database

SECRET_KEY = "tests"
PLAIN = os.environ.get("CMS_PLAIN") == "1"
CMS_APPS = [
    "django.contrib.contenttypes",
    "django.contrib.auth",
    "django.contrib.sessions",
    "django.contrib.messages",
    "wagtail.contrib.forms",
    "wagtail.contrib.redirects",
    "wagtail.contrib.search_promotions",
    "wagtail.contrib.settings",
    "wagtail.embeds",
    "wagtail.sites",
    "wagtail.users",
    "wagtail.snippets",
    "wagtail.documents",
    "wagtail.images",
    "wagtail.search",
    "wagtail.admin",
    "wagtail",
    "modelcluster",
    "taggit",
]
INSTALLED_APPS = [
    "django.contrib.postgres",
    *([] if PLAIN else ["pg_tenants", "tests.projects.cms.companies"]),
    *CMS_APPS,
]
DATABASES = {"default": database(os.environ.get("DATABASE_URL", "postgres://postgres@127.0.0.1/cms"))}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
WAGTAIL_SITE_NAME = "cms"
WAGTAILADMIN_BASE_URL = "http://localhost"
STATIC_URL = "static/"
USE_TZ = True
if PLAIN:
    DATABASES["default"]["ENGINE"] = "django.db.backends.postgresql"
else:
    DATABASE_ROUTERS = ["pg_tenants.routers.TenantRouter"]
    PG_TENANTS = {
        "TENANT_MODEL": "companies.Company",
        "DOMAIN_MODEL": "companies.Domain",
        "MODULES": {"shared": {"schema": "public", "apps": ["companies"]}, "tenant": {"apps": CMS_APPS}},
    }
# The app says itself that these are for its admin's pages, which nothing here asks for.
SILENCED_SYSTEM_CHECKS = ["wagtailadmin.W003"]
