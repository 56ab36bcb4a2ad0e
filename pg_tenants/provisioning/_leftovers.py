"""Files on their way, which belong to the process that makes them: whoever comes next removes those of killed ones.

Each is locked as long as its process is at work; the lock ends with the process, however that ends.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # Windows, where leftovers stay
    fcntl = None  # type: ignore[assignment]

__all__ = ["hold", "remove_leftovers", "work_folder"]

_PREFIX = "pg_tenants-copy-"
_LOCK = "lock"
_YOUNG = 10.0
"""Seconds that a process may take from making a file or folder to locking it."""


@contextmanager
def work_folder() -> Iterator[Path]:
    """Make a folder for copies of a tenant's rows, which its owner alone may read, and remove it at the end."""
    for other in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with suppress(OSError):
            if _is_left(other / _LOCK, other):
                shutil.rmtree(other)
    with tempfile.TemporaryDirectory(prefix=_PREFIX, ignore_cleanup_errors=True) as name:
        folder = Path(name)
        with (folder / _LOCK).open("wb") as file:
            hold(file)
            yield folder


def hold(file: Any) -> None:
    """Lock an open file until it is closed, or the process ends."""
    if fcntl is not None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def remove_leftovers(folder: Path, pattern: str) -> None:
    """Remove files that a process held and left."""
    for path in folder.glob(pattern):
        with suppress(OSError):
            if _is_left(path, path):
                path.unlink()


def _is_left(lock: Path, whole: Path) -> bool:
    """Return whether nobody holds a lock any more, or has not taken it long after making what it is for."""
    if fcntl is None or whole.stat().st_uid != os.getuid() or time.time() - whole.stat().st_mtime < _YOUNG:
        return False
    if not lock.exists():
        return True
    with lock.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True
