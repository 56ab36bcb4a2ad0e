"""Read the server's log: its end, what one start wrote, and what comes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

__all__ = ["follow", "since", "tail"]

_CHUNK = 65536


def tail(path: Path, lines: int) -> list[str]:
    """Return the last lines of a log, none if it is missing."""
    return since(path, 0)[-lines:] if lines > 0 else []


def since(path: Path, offset: int) -> list[str]:
    """Return the lines of a log from a position in bytes on, at most the last 64 KiB of them."""
    try:
        with path.open("rb") as file:
            end = file.seek(0, 2)
            # A log that was put aside meanwhile is shorter.
            start = max(offset if offset <= end else 0, end - _CHUNK)
            file.seek(start)
            return file.read().decode("utf-8", "replace").splitlines()
    except FileNotFoundError:
        return []


def follow(path: Path, offset: int, alive: Callable[[], bool]) -> Iterator[str]:
    """Yield the lines that are added to a log.

    Args:
        path: the log.
        offset: where to begin, in bytes.
        alive: tells whether more may come.
    """
    with path.open("rb") as file:
        # A log that was put aside meanwhile is shorter.
        file.seek(offset if offset <= file.seek(0, 2) else 0)
        rest = b""
        while True:
            going_on = alive()
            chunk = file.read()
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                yield line.decode("utf-8", "replace")
            if not chunk:
                if not going_on:
                    return
                time.sleep(0.1)
