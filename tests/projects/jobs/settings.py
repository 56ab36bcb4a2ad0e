"""Settings of its processes: those of the tests, on the test database that ``TESTS_DBNAME`` names."""

from __future__ import annotations

import os

from tests.settings import *  # noqa: F403
from tests.settings import DATABASES

DATABASES["default"]["NAME"] = os.environ["TESTS_DBNAME"]
