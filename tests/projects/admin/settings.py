"""The example project's own settings, on a given database."""

from __future__ import annotations

from example_project.settings import *  # noqa: F403

DEBUG = False
ALLOWED_HOSTS = [".localhost"]
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
LOGGING = {"version": 1, "disable_existing_loggers": True, "loggers": {"django.request": {"level": "CRITICAL"}}}
