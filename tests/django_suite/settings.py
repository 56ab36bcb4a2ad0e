"""Settings for Django's own test suite; run.py says by the environment which backend they are for."""

from __future__ import annotations

import json
import os
from typing import Any

DATABASES: dict[str, dict[str, Any]] = json.loads(os.environ["DJANGO_SUITE_DATABASES"])
TEST_RUNNER = "tests.django_suite.recorder.RecordingRunner"

# The rest is what Django's tests/test_sqlite.py has.
SECRET_KEY = "django_tests_secret_key"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
USE_TZ = False
