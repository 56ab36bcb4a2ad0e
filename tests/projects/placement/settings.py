"""The example project's own settings; ``BILLING_DATABASE_URL`` says where the module billing lives."""

from __future__ import annotations

from example_project.settings import *  # noqa: F403
from example_project.settings import PG_TENANTS as EXAMPLE_PG_TENANTS

DEBUG = False
ALLOWED_HOSTS = [".localhost"]
# The second is the demo's.
PASSWORD_HASHERS = [f"django.contrib.auth.hashers.{name}PasswordHasher" for name in ("MD5", "PBKDF2")]
PG_TENANTS = {**EXAMPLE_PG_TENANTS, "READY_SCHEMAS": 1}
