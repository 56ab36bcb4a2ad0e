"""A real Redis, and processes of a project that use it."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def wait_for(condition: Callable[[], Any], what: str, seconds: float = 30) -> Any:
    """Return the condition's first true value."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.05)
    raise AssertionError(f"{what} did not come about in {seconds} s.")


def listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """Return the URL of a Redis that ends with the tests."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("redis-server is not installed")
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        command = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", folder]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            wait_for(lambda: listens(port), "Redis's port")
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            stop(process)


Run = Callable[..., Any]


@pytest.fixture(scope="session")
def run_process(redis_url: str, server_params: dict[str, Any]) -> Run:
    """Return a context manager that runs a Python program of ``tests.projects.jobs`` and gives its log's path."""

    @contextlib.contextmanager
    def run(*arguments: str, **environ: str) -> Iterator[Path]:
        env = {
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "tests.projects.jobs.settings",
            "TESTS_DBNAME": server_params["dbname"],
            "TESTS_REDIS": redis_url,
            **environ,
        }
        with tempfile.TemporaryDirectory() as folder:
            log = Path(folder) / "log"
            with log.open("wb") as output:
                process = subprocess.Popen([sys.executable, *arguments], env=env, stdout=output, stderr=output)
            try:
                yield log
            except BaseException:
                print(log.read_text())
                raise
            finally:
                stop(process)

    return run
