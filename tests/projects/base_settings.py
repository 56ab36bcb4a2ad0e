"""What the settings of the tests' projects have in common: the database is the one that ``DATABASE_URL`` names."""

from __future__ import annotations

import os

from pg_tenants.conf import database

SECRET_KEY = "tests"
DATABASES = {"default": database(os.environ["DATABASE_URL"])}
DATABASE_ROUTERS = ["pg_tenants.routers.TenantRouter"]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
USE_TZ = True
