"""A project with django-debug-toolbar, Django REST framework and django-allauth in its tenants."""

from __future__ import annotations

import os
from typing import Any

import django

from tests.projects.base_settings import *  # noqa: F403

DEBUG = True
ALLOWED_HOSTS = [".localhost"]
INSTALLED_APPS = [
    "pg_tenants",
    "django.contrib.contenttypes",
    "django.contrib.auth",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "debug_toolbar",
    "rest_framework",
    "rest_framework.authtoken",
    "allauth",
    "allauth.account",
    "allauth.socialaccount",
    "tests.projects.libraries.clients",
    "tests.projects.libraries.things",
]
MIDDLEWARE = [
    "pg_tenants.middleware.TenantMiddleware",
    "debug_toolbar.middleware.DebugToolbarMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "allauth.account.middleware.AccountMiddleware",
]
PG_TENANTS = {
    "TENANT_MODEL": "clients.Tenant",
    "DOMAIN_MODEL": "clients.Domain",
    "MODULES": {
        "shared": {"schema": "public", "apps": ["clients"]},
        "tenant": {
            "apps": [
                "contenttypes",
                "auth",
                "sessions",
                "debug_toolbar",
                "authtoken",
                "account",
                "socialaccount",
                "things",
            ]
        },
    },
}
ROOT_URLCONF = "tests.projects.libraries.urls"
TEMPLATES: list[dict[str, Any]] = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
CACHES = {
    "default": {
        "BACKEND": "django.core.cache.backends.locmem.LocMemCache",
        "KEY_FUNCTION": "pg_tenants.contrib.cache.make_key",
    }
}
STATIC_URL = "static/"
if django.VERSION >= (6, 1):
    MAILERS = {"default": {"BACKEND": "django.core.mail.backends.locmem.EmailBackend"}}
else:
    EMAIL_BACKEND = "django.core.mail.backends.locmem.EmailBackend"
LOGGING = {"version": 1, "disable_existing_loggers": True, "loggers": {"django.request": {"level": "CRITICAL"}}}

DEBUG_TOOLBAR_CONFIG = {
    "SHOW_TOOLBAR_CALLBACK": lambda request: True,
    "TOOLBAR_STORE_CLASS": os.environ.get("TOOLBAR_STORE", "debug_toolbar.store.MemoryStore"),
}

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "rest_framework.authentication.TokenAuthentication",
        "rest_framework.authentication.SessionAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
    "DEFAULT_PAGINATION_CLASS": "rest_framework.pagination.PageNumberPagination",
    "PAGE_SIZE": 2,
    "DEFAULT_THROTTLE_RATES": {"user": "2/hour"},
}

AUTHENTICATION_BACKENDS = [
    "django.contrib.auth.backends.ModelBackend",
    "allauth.account.auth_backends.AuthenticationBackend",
]
ACCOUNT_LOGIN_METHODS = {"email"}
ACCOUNT_SIGNUP_FIELDS = ["email*", "password1*", "password2*"]
ACCOUNT_EMAIL_VERIFICATION = "mandatory"
LOGIN_REDIRECT_URL = "/api/things/"
