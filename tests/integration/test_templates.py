"""Schemas from templates. The probes run in a project of their own, whose docstrings say what has to hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.projects.probe import names, run_probes


@pytest.fixture(scope="module")
def results(server_params: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Run the project's probes on a new database, and return their errors by name."""
    code = tmp_path_factory.mktemp("code")
    (code / "seeded_code.py").write_text('"""Called by a migration."""\n\nWORD = "word"\n')
    root = Path(__file__).parents[2]
    return run_probes("seeded", server_params, PYTHONPATH=f"{root}:{code}", PYTHONDONTWRITEBYTECODE="1")


@pytest.mark.parametrize("name", names("seeded"))
def test_probe(results: dict[str, str], name: str) -> None:
    """Its docstring says what has to hold."""
    assert results[name] == "", results[name]
