"""More migrations for the example's notes, for a while."""

from __future__ import annotations

import importlib
import secrets
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

NOTES = Path(__file__).parents[1] / "example_project" / "notes" / "migrations"

MIGRATION = """
from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models

class Migration(migrations.Migration):
    atomic = {atomic}
    dependencies = [("notes", "{after}")]
    operations = [{operations}]
"""


class NotesMigrations:
    """The migrations of `notes`, in a folder of the test's own."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.names = ["0001_initial"]
        shutil.copytree(NOTES, folder, ignore=shutil.ignore_patterns("__pycache__"))

    def add(self, name: str, operations: str, *, atomic: bool = True) -> None:
        """Write one more, behind the others."""
        text = MIGRATION.format(operations=operations, atomic=atomic, after=self.names[-1])
        (self.folder / f"{name}.py").write_text(text)
        self.names.append(name)
        importlib.invalidate_caches()

    def remove(self, name: str) -> None:
        """Delete one."""
        (self.folder / f"{name}.py").unlink()
        self.names.remove(name)
        sys.modules.pop(f"{self.folder.name}.{name}", None)
        shutil.rmtree(self.folder / "__pycache__", ignore_errors=True)
        importlib.invalidate_caches()


@pytest.fixture
def notes_migrations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Lead Django to a copy of the migrations of `notes`, and return what adds to them."""
    from django.test import override_settings

    package = f"notes_migrations_{secrets.token_hex(4)}"
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    with override_settings(MIGRATION_MODULES={"notes": package}):
        yield NotesMigrations(tmp_path / package)
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        del sys.modules[name]
