"""Settings for Django's own test suite: those of its tests/test_sqlite.py, with the databases that run.py says."""

from __future__ import annotations

import importlib
import json
import os
from typing import Any

globals().update({key: value for key, value in vars(importlib.import_module("test_sqlite")).items() if key.isupper()})

DATABASES: dict[str, dict[str, Any]] = json.loads(os.environ["DJANGO_SUITE_DATABASES"])
TEST_RUNNER = "tests.django_suite.recorder.RecordingRunner"
