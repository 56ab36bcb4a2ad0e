"""Tables of one name in several modules: the ORM reaches the right one. The probes run in a project of their own."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
import pytest
from psycopg import sql

ROOT = Path(__file__).parents[2]
PROBES = ROOT / "tests/projects/equal/probes.py"


def names() -> list[str]:
    """Return the probes without importing them, which needs the project's own settings."""
    functions = [node for node in ast.parse(PROBES.read_text()).body if isinstance(node, ast.FunctionDef)]
    decorated = [node for node in functions if any(getattr(d, "id", "") == "probe" for d in node.decorator_list)]
    return ["prepare", *(node.name for node in decorated)]


@pytest.fixture(scope="module")
def results(server_params: dict[str, Any]) -> Iterator[dict[str, str]]:
    """Run the project's probes on a new database, and return their errors by name."""
    name = f"{server_params['dbname']}_equal"
    drop = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))
    with psycopg.connect(**server_params, autocommit=True) as connection:
        connection.execute(drop)
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        user, password = (quote(str(server_params[key]), safe="") for key in ("user", "password"))
        environ = {
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "tests.projects.equal.settings",
            "DATABASE_URL": f"postgresql://{user}:{password}@127.0.0.1:{server_params['port']}/{name}",
        }
        command = [sys.executable, "-W", "error", "-m", "tests.projects.equal.probes"]
        done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=120, check=False)
        try:
            assert done.returncode == 0, done.stderr
            yield json.loads(done.stdout.splitlines()[-1])
        finally:
            connection.execute(drop)


@pytest.mark.parametrize("name", names())
def test_probe(results: dict[str, str], name: str) -> None:
    """Its docstring says what has to hold."""
    assert results[name] == "", results[name]
