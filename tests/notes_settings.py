"""Settings of processes that tests start, where the migrations of `notes` are those that the environment names."""

from __future__ import annotations

import os

from tests.child_settings import *  # noqa: F403

MIGRATION_MODULES = {"notes": os.environ["NOTES_MIGRATIONS"]}
