"""The admin of tenants and the tenants' admins. The probes run in a project with the example's own settings."""

from __future__ import annotations

from typing import Any

import pytest

from tests.projects.probe import names, run_probes


@pytest.fixture(scope="module")
def results(server_params: dict[str, Any]) -> dict[str, str]:
    return run_probes("admin", server_params)


@pytest.mark.parametrize("name", names("admin"))
def test_probe(results: dict[str, str], name: str) -> None:
    """Its docstring says what has to hold."""
    assert results[name] == "", results[name]
