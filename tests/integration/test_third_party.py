"""Well-known libraries in tenants. The probes run in a project of their own."""

from __future__ import annotations

from typing import Any

import pytest

from tests.projects.probe import names, run_probes


@pytest.fixture(scope="module", params=["MemoryStore", "DatabaseStore"])
def results(request: pytest.FixtureRequest, server_params: dict[str, Any]) -> dict[str, str]:
    return run_probes("libraries", server_params, TOOLBAR_STORE=f"debug_toolbar.store.{request.param}")


@pytest.mark.parametrize("name", names("libraries"))
def test_probe(results: dict[str, str], name: str) -> None:
    """Its docstring says what has to hold."""
    assert results[name] == "", results[name]
