"""As whom the programs run. PostgreSQL refuses to run as root, and initdb as a user whom /etc/passwd does not know.

In order of preference: nothing to do; a user namespace in which this user has the number of an ordinary one, so that
files keep their owner; for root, to become an ordinary user, who then owns the data folder.
"""

from __future__ import annotations

import functools
import os
import pwd
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

__all__ = ["Identity", "PopenOptions", "current"]

OVERFLOW = 65534
"""The number that files of strangers have in a namespace, most often that of "nobody"."""


class PopenOptions(TypedDict, total=False):
    """What `subprocess` must be given to run as another user."""

    user: int
    group: int
    extra_groups: list[int]


@dataclass(frozen=True, slots=True)
class Identity:
    """As whom programs run.

    Args:
        prefix: the words that go before each command.
        uid: the user to become, None to stay.
        gid: its group.
    """

    prefix: tuple[str, ...] = ()
    uid: int | None = None
    gid: int | None = None

    @property
    def popen_options(self) -> PopenOptions:
        """What `subprocess` must be given."""
        if self.uid is None or self.gid is None:
            return {}
        return {"user": self.uid, "group": self.gid, "extra_groups": []}

    @property
    def owner(self) -> int:
        """The user that must own the data folder, as seen from here."""
        return os.geteuid() if self.uid is None else self.uid

    def may_reach(self, folder: Path) -> bool:
        """Tell whether the programs can get into a folder: the part of its path that exists."""
        if self.uid is None:
            return True
        for parent in (folder, *folder.parents):
            try:
                entry = parent.stat()
            except FileNotFoundError:
                continue
            mine = 0o100 if entry.st_uid == self.uid else 0o010 if entry.st_gid == self.gid else 0o001
            if not entry.st_mode & mine:
                return False
        return True


def current() -> Identity:
    """Return as whom this process must run PostgreSQL's programs."""
    uid = os.geteuid()
    if uid != 0 and _is_known(uid):
        return Identity()
    unshare = shutil.which("unshare")
    if unshare is not None:
        prefix = (unshare, "--user", f"--map-user={_ordinary_uid()}", "--map-group=1000", "--")
        if _works(prefix):
            return Identity(prefix=prefix)
    return _nobody() if uid == 0 else Identity()


@functools.cache
def _works(prefix: tuple[str, ...]) -> bool:
    try:
        done = subprocess.run([*prefix, "true"], capture_output=True, check=False, timeout=10)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return False
    return done.returncode == 0


def _is_known(uid: int) -> bool:
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True


@functools.cache
def _ordinary_uid() -> int:
    """Return the number of a user whom initdb finds, 1000 where there is one."""
    known = [entry.pw_uid for entry in pwd.getpwall() if entry.pw_uid not in (0, OVERFLOW)]
    return 1000 if 1000 in known or not known else known[0]


def _nobody() -> Identity:
    try:
        entry = pwd.getpwnam("nobody")
    except KeyError:
        return Identity(uid=OVERFLOW, gid=OVERFLOW)
    return Identity(uid=entry.pw_uid, gid=entry.pw_gid)
