"""The example project's own settings; ``BILLING_DATABASE_URL`` says where the module billing lives.

With ``TENANTS_DATABASE_URL`` the tenants' schemas are in another database than their rows.
"""

from __future__ import annotations

import os

from example_project.settings import *  # noqa: F403
from example_project.settings import DATABASES
from example_project.settings import PG_TENANTS as EXAMPLE_PG_TENANTS
from pg_tenants.conf import database

DEBUG = False
ALLOWED_HOSTS = [".localhost"]
# The second is the demo's.
PASSWORD_HASHERS = [f"django.contrib.auth.hashers.{name}PasswordHasher" for name in ("MD5", "PBKDF2")]
PG_TENANTS = {**EXAMPLE_PG_TENANTS, "READY_SCHEMAS": 1}

if url := os.environ.get("TENANTS_DATABASE_URL"):
    MODULES = EXAMPLE_PG_TENANTS["MODULES"]
    DATABASES["fleet"] = database(url, create_db=True)
    PG_TENANTS["MODULES"] = {**MODULES, "tenant": {**MODULES["tenant"], "database": "fleet"}}
