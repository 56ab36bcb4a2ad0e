"""A server's life: start, stop, describe, erase. Processes that do so at once take turns by a lock on its folder."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from pg_tenants.server import postmaster
from pg_tenants.server.client import client_command
from pg_tenants.server.config import ServerConfig
from pg_tenants.server.exceptions import (
    DataFolderError,
    ServerConfigError,
    ServerNotRunning,
    ServerStopFailed,
)
from pg_tenants.server.folder import Folder, locate
from pg_tenants.server.identity import Identity, current
from pg_tenants.server.lock import acquire, release
from pg_tenants.server.postmaster import Postmaster
from pg_tenants.server.start import Start
from pg_tenants.server.status import Status, describe, url

__all__ = ["Server"]

_ORDERLY = 5.0


class Server:
    """A PostgreSQL for development and tests.

    It belongs to its folder, not to this object or process: any process with the same configuration finds it, and it
    runs until somebody stops it. As a context manager it is up inside the block, and stopped at the end if the block
    started it.

    Args:
        config: what is wanted; None reads the environment.
    """

    def __init__(self, config: ServerConfig | None = None) -> None:
        self.config = ServerConfig.load() if config is None else config
        self._identity: Identity = current()
        self._folder: Folder = locate(self.config, self._identity)
        self._stop_at_exit: list[bool] = []

    def __repr__(self) -> str:
        return f"<Server {self.config.name!r} in {str(self._folder.path)!r}>"

    def __enter__(self) -> Self:
        self._stop_at_exit.append(self.start()[1])
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._stop_at_exit.pop():
            self.down()

    @property
    def log_path(self) -> Path:
        """The log."""
        return self._folder.log

    @property
    def password_path(self) -> Path:
        """The file with the password, which only its owner reads."""
        return self._folder.password

    def up(self, timeout: float = 60.0) -> Status:
        """Start the server if it does not run, and return when it takes connections.

        Args:
            timeout: how long to wait, in seconds.

        Raises:
            ServerError: it does not start, or runs otherwise than configured; the message has the log's last lines.
        """
        return self.start(timeout)[0]

    def start(self, timeout: float = 60.0) -> tuple[Status, bool]:
        """Do as `up`, and tell besides whether this call started the server."""
        found = postmaster.find(self._folder.data)
        if found is not None and found.state == "ready" and self._has_database():
            return self._checked(found), False
        deadline = time.monotonic() + timeout
        with self._turn(deadline):
            return self._start(deadline, self.config.port)

    def down(self, timeout: float = 60.0) -> Status:
        """Stop the server if it runs, and return when it has stopped. Open sessions are ended.

        Args:
            timeout: how long to wait, in seconds, at least 5; then it is ended without a checkpoint, from which it
                recovers.

        Raises:
            ServerError: it does not stop.
        """
        if self._folder.path.is_dir():
            deadline = time.monotonic() + timeout
            with self._turn(deadline):
                self._stop(deadline)
        return self.status()

    def restart(self, timeout: float = 60.0) -> Status:
        """Stop the server if it runs and start it as configured now, on the same port unless another one is configured.

        Args:
            timeout: how long to wait for both together, in seconds.

        Raises:
            ServerError: it does not stop or start.
        """
        deadline = time.monotonic() + timeout
        with self._turn(deadline):
            found = postmaster.find(self._folder.data)
            self._stop(deadline)
            return self._start(deadline, self.config.port, found.port if found else None)[0]

    def status(self) -> Status:
        """Describe the server, without changing anything."""
        return self._status(postmaster.find(self._folder.data))

    def connection_params(self) -> dict[str, str | int]:
        """Return host, port, user and password, as psycopg takes them.

        Raises:
            ServerNotRunning: the server does not run, so it has no port.
        """
        status = self.status()
        if status.port is None or not status.running:
            raise ServerNotRunning(
                f"The server {self.config.name!r} in {str(self._folder.path)!r} is {status.state}. Start it by "
                "'pgserver up --detach' or Server.up()."
            )
        password = self._folder.read_password()
        return {"host": status.host, "port": status.port, "user": status.user, "password": password}

    def url(self, database: str | None = None, password: bool = True) -> str:
        """Return where to connect, as DATABASE_URL has it.

        Args:
            database: another database than the configured one.
            password: False leaves it out.

        Raises:
            ServerNotRunning: the server does not run, so it has no port.
        """
        params = self.connection_params()
        secret = str(params["password"]) if password else None
        return url(self.config, int(params["port"]), database, secret)

    def client(self, program: str) -> tuple[list[str], dict[str, str]]:
        """Return the command that runs a client program such as psql on the server, and the variables it needs.

        Raises:
            ServerNotRunning: the server does not run.
            EngineUnavailable: the program is not there.
        """
        return client_command(program, self.config, self._folder, self.connection_params())

    def erase(self, timeout: float = 60.0) -> None:
        """Stop the server and remove its data, its log and its password. Other files in its folder stay.

        Args:
            timeout: how long to wait for its stop, in seconds.

        Raises:
            ServerError: it does not stop, or a file cannot be removed.
        """
        if self._folder.path.is_dir():
            deadline = time.monotonic() + timeout
            with self._turn(deadline):
                self._stop(deadline)
                self._folder.remove()

    @contextlib.contextmanager
    def _turn(self, deadline: float) -> Iterator[None]:
        """Hold the folder's lock, and turn what goes wrong with files into an error of ours."""
        try:
            handle = None
            while handle is None:
                self._folder.prepare(self._identity)
                # Missing where another process erases the server just now.
                with contextlib.suppress(FileNotFoundError):
                    handle = acquire(self._folder.lock, deadline)
            try:
                yield
            finally:
                release(handle)
        except OSError as exc:
            raise DataFolderError(
                f"{exc.filename or self._folder.path} cannot be used: {exc.strerror or exc}. Repair that, or choose "
                "another folder by the key 'data'."
            ) from exc

    def _start(self, deadline: float, port: int | None, favourite: int | None = None) -> tuple[Status, bool]:
        """Start under the lock, or wait for a start that somebody else began."""
        starting = Start(self.config, self._folder, self._identity, deadline)
        found = starting.settled()
        if found is None:
            return self._status(starting.run(port, favourite)), True
        status = self._checked(found)
        if not self._has_database():
            starting.make_database(found)
        return status, False

    def _has_database(self) -> bool:
        state = self._folder.read_state()
        return self.config.database == "postgres" or (state is not None and self.config.database in state.databases)

    def _stop(self, deadline: float) -> None:
        found = postmaster.find(self._folder.data)
        if found is None:
            return
        try:
            # Waiting for the lock may have used up the time, and an orderly end deserves some.
            orderly = found.stop(max(deadline, time.monotonic() + _ORDERLY))
            stopped = orderly or found.stop(time.monotonic() + _ORDERLY, immediate=True)
        except psutil.AccessDenied as exc:
            raise ServerStopFailed(
                f"This user may not stop the server {self.config.name!r} (pid {found.pid}). Stop it as its owner."
            ) from exc
        if not stopped:
            raise ServerStopFailed(
                f"The server {self.config.name!r} (pid {found.pid}) did not stop in time, not even when told to at "
                f"once. See {self.log_path}, and end the process by its number."
            )

    def _status(self, found: Postmaster | None) -> Status:
        return describe(self.config, self._folder, found)

    def _checked(self, found: Postmaster) -> Status:
        """Return the status of a running server that can be used as configured, or say why it cannot."""
        status = self._status(found)
        # Other settings of postgres_conf wait for a restart without harm.
        harm = [key for key in status.restart_needed if key != "postgres_conf"]
        if harm:
            raise ServerConfigError(
                f"The server {self.config.name!r} runs already (pid {found.pid}, port {found.port}, PostgreSQL "
                f"{status.version}, engine {status.engine!r}), with another {' and '.join(harm)} than configured. "
                "Start it anew by 'pgserver restart', or give the other one a name of its own by the key 'name'."
            )
        return status
