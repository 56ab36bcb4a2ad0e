"""The tutorial, followed word by word."""

from __future__ import annotations

import re
import shutil

import pytest

from tests.acceptance._documents import (
    CHECKOUT,
    Reader,
    blocks,
    environment,
    erased_server,
    free_port,
    matches,
    reachable_folder,
)


@pytest.mark.skipif(shutil.which("curl") is None, reason="the tutorial uses curl, which is not installed")
def test_tutorial() -> None:
    """Each file and command of the tutorial works as shown, from an empty directory to two tenants over HTTP."""
    page = blocks((CHECKOUT / "docs" / "tutorial.md").read_text())
    port = free_port()
    with reachable_folder() as folder:
        project = folder / "crm"
        project.mkdir()
        # A server of the test's own, wherever the reader has one.
        environ = environment(PGSERVER_DATA=str(folder / "server"), PGSERVER_PORT=str(free_port()), COLUMNS="200")
        with (
            erased_server(project, environ),
            Reader(project, environ, lambda text: re.sub(r"\b8000\b", str(port), text), port) as reader,
        ):
            reader.follow(page)
        assert not list((folder / "server").glob("data")), "the development server was not removed"


def test_tutorial_is_read_whole() -> None:
    """The convention finds the tutorial's files and commands; a slip of the pen cannot hide them from the test."""
    text = (CHECKOUT / "docs" / "tutorial.md").read_text()
    page = blocks(text)
    assert sum(bool(block.file) for block in page) == text.count(":caption:") == 8
    assert sum(len(block.commands) for block in page if block.language == "console") == text.count("\n$ ") == 26
    assert [block.kinds for block in page if block.kinds] == [{"fails"}, {"background"}]


@pytest.mark.parametrize(
    ("wanted", "got", "same"),
    [
        ("a\n...\nb", "a\nx\ny\nb", True),
        ("a\n...\nb", "a\nb", True),
        ("...\nb", "b", True),
        ("...\nb", "x\nb", True),
        ("a\n...", "a", True),
        ("a ... b", "a 1 b", True),
        ("...\nb", "xb", False),
        ("a\nb", "a\nx\nb", False),
        ("a", "b", False),
    ],
)
def test_output_is_compared_by_lines(wanted: str, got: str, same: bool) -> None:
    """Three dots alone in a line stand for any lines, within a line for any text; all else is compared."""
    assert matches(wanted, got) is same
