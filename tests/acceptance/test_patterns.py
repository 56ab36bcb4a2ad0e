"""The pages of docs/patterns, followed word by word."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from tests.acceptance._documents import CHECKOUT, Reader, blocks, environment, reachable_folder

PAGES = CHECKOUT / "docs" / "patterns"
# How many files and commands of each page are found: a slip of the pen cannot hide them.
FOUND = {"one-service": (4, 5), "several-modules": (8, 10), "saas": (9, 6), "library": (11, 8)}


@pytest.fixture
def url(server_params: dict[str, Any]) -> Iterator[str]:
    """Return the URL of a new database; it goes at the end, with the test databases beside it."""
    name = f"pattern_{os.getpid()}_{secrets.token_hex(4)}"
    with psycopg.connect(**server_params, autocommit=True) as raw:
        raw.execute(f"CREATE DATABASE {name}".encode())
        try:
            yield "postgresql://{user}:{password}@{host}:{port}/".format(**server_params) + name
        finally:
            for database in (name, f"test_{name}"):
                raw.execute(f"DROP DATABASE IF EXISTS {database} WITH (FORCE)".encode())


@pytest.mark.parametrize("name", FOUND)
def test_a_page(name: str, url: str) -> None:
    """Each file and command of the page works as shown, in an empty folder."""
    page = blocks((PAGES / f"{name}.md").read_text())
    assert (sum(bool(block.file) for block in page), sum(len(block.commands) for block in page)) == FOUND[name]
    with reachable_folder() as folder:
        environ = environment(DATABASE_URL=url, PYTHONPATH=str(CHECKOUT), COLUMNS="200")
        with Reader(folder, environ) as reader:
            reader.follow(page)


def test_every_page_is_followed() -> None:
    """No page of the folder is left out, and each shows what it says."""
    assert {path.stem for path in PAGES.glob("*.md")} == {*FOUND, "index"}
    for name, counts in FOUND.items():
        text = (PAGES / f"{name}.md").read_text()
        assert (text.count(":caption:"), text.count("\n$ ")) == counts, name
