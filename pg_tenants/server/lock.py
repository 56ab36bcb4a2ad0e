"""A lock between processes and threads, on a file, that ends with its holder."""

from __future__ import annotations

import fcntl
import os
import random
import time
from pathlib import Path

from pg_tenants.server.exceptions import ServerBusy

__all__ = ["acquire", "release"]


def acquire(path: Path, deadline: float) -> int:
    """Take the lock and return its handle.

    Args:
        path: the lock's file, made if missing, in a folder that exists.
        deadline: when to give up, by ``time.monotonic()``.

    Raises:
        ServerBusy: another one held it until the deadline.
        OSError: the file cannot be made.
    """
    # Whoever is next holds the queue's lock, so a process that comes back at once does not overtake those that wait.
    queue = _take(path.with_name(f"{path.name}.queue"), path, deadline)
    try:
        return _take(path, path, deadline)
    finally:
        os.close(queue)


def release(handle: int) -> None:
    """Give the lock back."""
    os.close(handle)


def _take(path: Path, lock: Path, deadline: float) -> int:
    while True:
        # flock and not lockf: its locks belong to the open file, so threads of one process exclude each other too.
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_same(handle, path):
                os.ftruncate(handle, 0)
                os.write(handle, f"{os.getpid()}\n".encode())
                return handle
        except BlockingIOError:
            pass
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)
        if time.monotonic() >= deadline:
            raise ServerBusy(
                f"The lock {str(lock)!r} is held by another process{_holder(lock)} that is starting or stopping this "
                "server and has not ended in time. Wait for it, or end it, and try again."
            )
        time.sleep(random.uniform(0.002, 0.01))  # noqa: S311 - evenly spread, for those that wait together


def _is_same(handle: int, path: Path) -> bool:
    """Tell whether the locked file is still the one at the path, which erasing a server removes."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def _holder(path: Path) -> str:
    try:
        return f" (pid {int(path.read_text())})"
    except (OSError, ValueError):
        return ""
