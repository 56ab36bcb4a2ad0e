"""What the projects of this folder share: probes, run by a program in a project of their own.

The program prints a JSON object: each probe's name and its error. ``run_probes`` runs it on a database of its own.
"""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

ROOT = Path(__file__).parents[2]
PROBES: list[Callable[[], None]] = []


def probe(function: Callable[[], None]) -> Callable[[], None]:
    """Register a probe."""
    PROBES.append(function)
    return function


def main(prepare: Callable[[], None]) -> None:
    """Make the database's content, run the probes, and print what came of them."""
    results: dict[str, str] = {}
    for function in (prepare, *PROBES):
        results[function.__name__] = ""
        try:
            function()
        except Exception:  # noqa: BLE001
            results[function.__name__] = traceback.format_exc()
    sys.stdout.write("\n" + json.dumps(results) + "\n")


def names(project: str) -> list[str]:
    """Return a project's probes without importing them, which needs the project's own settings."""
    body = ast.parse((ROOT / "tests/projects" / project / "probes.py").read_text()).body
    functions = [node for node in body if isinstance(node, ast.FunctionDef)]
    decorated = [node for node in functions if any(getattr(d, "id", "") == "probe" for d in node.decorator_list)]
    return ["prepare", *(node.name for node in decorated)]


@contextmanager
def new_database(server_params: dict[str, Any], suffix: str) -> Iterator[dict[str, str]]:
    """Make a database, and give the environment of a process that works on it."""
    import psycopg
    from psycopg import sql

    name = f"{server_params['dbname']}_{suffix}"
    drop = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))
    with psycopg.connect(**server_params, autocommit=True) as connection:
        connection.execute(drop)
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        user, password = (quote(str(server_params[key]), safe="") for key in ("user", "password"))
        url = f"postgresql://{user}:{password}@127.0.0.1:{server_params['port']}/{name}"
        try:
            yield {**os.environ, "PYTHONPATH": str(ROOT), "DATABASE_URL": url}
        finally:
            connection.execute(drop)


def run_probes(project: str, server_params: dict[str, Any], **environment: str) -> dict[str, str]:
    """Run a project's probes on a new database, and return their errors by name.

    Args:
        project: the folder below tests/projects.
        server_params: how psycopg connects to the server.
        environment: variables of the program.
    """
    with new_database(server_params, project) as environ:
        environ |= {"DJANGO_SETTINGS_MODULE": f"tests.projects.{project}.settings", **environment}
        command = [sys.executable, "-W", "error", "-m", f"tests.projects.{project}.probes"]
        done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=240, check=False)
        assert done.returncode == 0, done.stderr
        found: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
        return found
