"""The running server of a data folder: found by its pid file, and only if the process is really ours."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from pg_tenants.server.exceptions import DataFolderError

__all__ = ["Postmaster", "disarm_stale_pid", "find", "is_alive"]

# Larger than any pid that Linux or macOS gives out, so nobody has it.
NO_PID = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Postmaster:
    """A live postmaster, as its pid file describes it.

    Args:
        process: the process.
        host: the address it listens on, or the folder of its socket.
        port: its port, 0 while it is not yet known.
        state: "starting", "ready" or "stopping".
        started: when it started, in seconds since the epoch.
    """

    process: psutil.Process
    host: str
    port: int
    state: str
    started: float

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    def stop(self, deadline: float, *, immediate: bool = False) -> bool:
        """Ask it to end its sessions and stop, and wait for that.

        Args:
            deadline: when to stop waiting, by ``time.monotonic()``.
            immediate: end without a checkpoint; the next start recovers.

        Returns:
            Whether it has ended.
        """
        try:
            self.process.send_signal(signal.SIGQUIT if immediate else signal.SIGINT)
        except psutil.NoSuchProcess:
            return True
        while is_alive(self.process):
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.01)
        return True


def find(data: Path) -> Postmaster | None:
    """Return the postmaster that runs on a data folder, or None."""
    lines = _pid_file(data)
    pid = _number(lines, 0)
    process = _process(pid) if pid > 0 else None
    if process is None or not _is_ours(process, data):
        return None
    state = lines[7].strip() if len(lines) > 7 else "starting"
    socket, address = ([line.strip() for line in lines[4:6]] + ["", ""])[:2]
    # A "standby" takes connections as well, read-only ones.
    state = "ready" if state == "standby" else state
    return Postmaster(process, address or socket, _number(lines, 3), state, float(_number(lines, 2)))


def is_alive(process: psutil.Process) -> bool:
    """Tell whether a process still runs; one that ended and was not collected by its parent does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def disarm_stale_pid(data: Path) -> None:
    """Make PostgreSQL start although the pid in a left-over pid file belongs to an unrelated process by now.

    The file itself stays: PostgreSQL reads from it which shared memory to check for processes of the last run.
    """
    path = data / "postmaster.pid"
    lines = _pid_file(data)
    pid = _number(lines, 0)
    if pid > 0 and _process(pid) is not None and find(data) is None:
        lines[0] = str(NO_PID)
        path.write_text("\n".join(lines) + "\n", encoding="utf-8", errors="surrogateescape")


def _pid_file(data: Path) -> list[str]:
    try:
        return (data / "postmaster.pid").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except (FileNotFoundError, NotADirectoryError):
        return []
    except PermissionError as exc:
        raise DataFolderError(f"{data} may not be read by user {os.geteuid()}. Run as the server's owner.") from exc


def _number(lines: list[str], index: int) -> int:
    try:
        return int(lines[index])
    except (IndexError, ValueError):
        return 0


def _process(pid: int) -> psutil.Process | None:
    try:
        process = psutil.Process(pid)
    except psutil.NoSuchProcess:
        return None
    return process if is_alive(process) else None


def _is_ours(process: psutil.Process, data: Path) -> bool:
    """Tell whether a process is a PostgreSQL on this data folder, by its arguments or where it works."""
    try:
        if not Path(process.name()).name.startswith(("postgres", "postmaster")):
            return False
        if str(data) in process.cmdline():
            return True
        return Path(process.cwd()).samefile(data)
    except (psutil.Error, OSError):
        return False
