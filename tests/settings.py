"""Settings of the test run: the example project on a server of the run's own.

``PG_TENANTS_TEST_ENGINE`` and ``PG_TENANTS_TEST_VERSION`` choose the PostgreSQL, as ``PGSERVER_ENGINE`` and
``PGSERVER_VERSION`` do for ``pgserver``.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from example_project.settings import *  # noqa: F403
from pg_tenants.conf import database
from tests.child_settings import PG_TENANTS as CHILD_PG_TENANTS
from tests.child_settings import SILENCED_SYSTEM_CHECKS as CHILD_SILENCED

DATA_PREFIX = "pg_tenants_tests-"
# The process that imports this first is the one that pytest was started as; xdist's workers inherit its environment.
DATA = os.environ.setdefault("PG_TENANTS_TEST_DATA", str(Path(tempfile.gettempdir()) / f"{DATA_PREFIX}{os.getpid()}"))

DATABASES = {"default": database("pgserver:///postgres")}
PG_TENANTS = {
    **CHILD_PG_TENANTS,
    "PGSERVER": {
        "name": "tests",
        "data": DATA,
        "engine": os.environ.get("PG_TENANTS_TEST_ENGINE", ""),
        "version": os.environ.get("PG_TENANTS_TEST_VERSION", ""),
        "postgres_conf": {"fsync": "off", "max_connections": 300, "max_locks_per_transaction": 1024},
    },
}
SILENCED_SYSTEM_CHECKS = CHILD_SILENCED
DEBUG = False
SECRET_KEY = "tests"
ALLOWED_HOSTS = ["*"]
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
