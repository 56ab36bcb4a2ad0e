"""A test database that is begun before anybody asks for it.

With pytest-xdist pytest itself has imported the project when its workers begin to, and has nothing to do until they are
ready. Where the test database is missing, a copy of the process makes it meanwhile, with the templates. Workers wait
for that as they wait for one of themselves. Whatever goes wrong here goes wrong in a worker again, which then tells.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
import time
import warnings
from contextlib import suppress
from inspect import getattr_static
from typing import Any

import pytest
from django.db import DEFAULT_DB_ALIAS, connections

from pg_tenants.test.creation import creation_of, install

__all__ = ["EarlyBuild", "begin"]

_DECIDING = frozenset(
    {
        "django_db_createdb",
        "django_db_keepdb",
        "django_db_modify_db_settings",
        "django_db_modify_db_settings_parallel_suffix",
        "django_db_modify_db_settings_tox_suffix",
        "django_db_modify_db_settings_xdist_suffix",
        "django_db_setup",
        "django_db_use_migrations",
        "pg_test_config",
        "pg_test_worker",
    }
)
"""Fixtures that decide which database it is and how it is made. No fixtures are made in this process."""

_MARKERS = ("_fixture_function_marker", "_pytestfixturefunction")
_LASTS = 10.0
_PAUSE = 0.01


class EarlyBuild:
    """The process that makes the test database.

    Args:
        pid: its id.
    """

    def __init__(self, pid: int):
        self._pid = pid

    def stop(self) -> None:
        """End the process, if it still works: then no test has asked for the database. Half of it is rolled back."""
        with suppress(ChildProcessError):
            if self._has_ended():
                return
            # Interrupted, it ends its sessions as well.
            os.kill(self._pid, signal.SIGINT)
            deadline = time.monotonic() + _LASTS
            while not self._has_ended():
                if time.monotonic() > deadline:
                    os.kill(self._pid, signal.SIGKILL)
                time.sleep(_PAUSE)

    def _has_ended(self) -> bool:
        return os.waitpid(self._pid, os.WNOHANG)[0] != 0


def begin(config: pytest.Config, blocker: Any) -> EarlyBuild | None:
    """Begin to make the test database, where that is of use and this process knows how it will be made.

    Args:
        config: of the process that the workers are started by.
        blocker: keeps tests from the database, and this as well.
    """
    if (
        not config.pluginmanager.hasplugin("dsession")
        or config.getoption("create_db")
        or config.getoption("nomigrations")
        or os.environ.get("TOX_PARALLEL_ENV")
        or _DECIDING & _redefined(config)
        # Elsewhere copies of a process that has used libraries of the system are not safe.
        or sys.platform != "linux"
        or threading.active_count() > 1
    ):
        return None
    with warnings.catch_warnings():
        # Threads that are not Python's.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid:
        return EarlyBuild(pid)
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        # What was imported is not looked through time and again, and its memory stays the other process's, too.
        gc.freeze()
        _be_silent()
        with blocker.unblock():
            _make()
    finally:
        os._exit(0)


def _redefined(config: pytest.Config) -> set[str]:
    """Return the names of fixtures that the project's plugins and conftest.py have, and what else is of such a name."""
    found: set[str] = set()
    for plugin in config.pluginmanager.get_plugins():
        if getattr(plugin, "__name__", "").partition(".")[0] in ("_pytest", "pg_tenants", "pytest_django", "xdist"):
            continue
        for name, value in getattr(plugin, "__dict__", {}).items():
            # As pytest calls it since 8.4, and before; other objects may answer to any name.
            markers = (getattr_static(value, each, None) for each in _MARKERS)
            found.add(next((marker.name for marker in markers if marker is not None), None) or name)
    return found


def _be_silent() -> None:
    nowhere = os.open(os.devnull, os.O_RDWR)
    for number in range(3):
        os.dup2(nowhere, number)
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: PTH123, SIM115  # until the process ends


def _make() -> None:
    install("early")
    creation = creation_of(DEFAULT_DB_ALIAS)
    try:
        if creation is not None:
            creation.make_early()
    finally:
        connections.close_all()
