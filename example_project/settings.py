"""Settings of the example project. `DATABASE_URL`, `SECRET_KEY`, `DEBUG` and `ALLOWED_HOSTS` come from the
environment or from a `.env` file beside manage.py; without any of them the embedded PostgreSQL is used. With
`BILLING_DATABASE_URL` the module billing has a database of its own, on the same server or on another."""

from __future__ import annotations

import hashlib
from pathlib import Path

import environ  # type: ignore[import-untyped]

from pg_tenants.conf import database

BASE_DIR = Path(__file__).resolve().parent.parent

env = environ.Env()
if (BASE_DIR / ".env").exists():
    environ.Env.read_env(BASE_DIR / ".env")

# An example is meant to be tried: it runs in debug mode unless told otherwise, and then needs a key of its own.
DEBUG = env.bool("DEBUG", default=True)
SECRET_KEY = env.str("SECRET_KEY", default="insecure-key-of-the-example") if DEBUG else env.str("SECRET_KEY")
ALLOWED_HOSTS = env.list("ALLOWED_HOSTS", default=[".localhost", "127.0.0.1"])

DATABASES = {"default": database(env.str("DATABASE_URL", default="pgserver://"))}
BILLING = "default"
if url := env.str("BILLING_DATABASE_URL", default=""):
    BILLING = "billing"
    DATABASES[BILLING] = database(url, create_db=True)
DATABASE_ROUTERS = ["pg_tenants.routers.TenantRouter"]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

INSTALLED_APPS = [
    "pg_tenants",
    "example_project.customers",
    "example_project.billing",
    "example_project.notes",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django.contrib.postgres",
]

MIDDLEWARE = [
    "pg_tenants.middleware.TenantMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

PG_TENANTS = {
    "TENANT_MODEL": "customers.Tenant",
    "DOMAIN_MODEL": "customers.Domain",
    "MODULES": {
        # Users are in both: those in public manage the companies, those of a company its notes.
        "shared": {
            "schema": "public",
            "apps": [
                "example_project.customers",
                "django.contrib.contenttypes",
                "django.contrib.auth",
                "django.contrib.sessions",
                "django.contrib.admin",
            ],
        },
        "billing": {"schema": "billing", "apps": ["example_project.billing"], "database": BILLING},
        "tenant": {
            "apps": [
                "django.contrib.contenttypes",
                "django.contrib.auth",
                "django.contrib.sessions",
                "django.contrib.admin",
                "example_project.notes",
            ],
            "extensions": ["pg_trgm"],
        },
    },
    "PUBLIC_HOSTS": ["localhost", "127.0.0.1"],
    "PUBLIC_URLCONF": "example_project.public_urls",
    # One server per checkout, so that two of them do not meet in one database.
    "PGSERVER": {"name": f"example-{hashlib.sha256(str(BASE_DIR).encode()).hexdigest()[:8]}"},
}

ROOT_URLCONF = "example_project.urls"
WSGI_APPLICATION = "example_project.wsgi.application"
ASGI_APPLICATION = "example_project.asgi.application"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "example_project" / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "example_project.customers.public.public_site",
            ],
        },
    },
]

AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in ("UserAttributeSimilarityValidator", "MinimumLengthValidator", "CommonPasswordValidator")
]
LOGIN_URL = "login"
LOGIN_REDIRECT_URL = "/"
LOGOUT_REDIRECT_URL = "/"

LANGUAGE_CODE = "en-gb"
TIME_ZONE = "UTC"
USE_TZ = True

STATIC_URL = "static/"
STATIC_ROOT = BASE_DIR / "staticfiles"
STATICFILES_DIRS = [BASE_DIR / "example_project" / "static"]
