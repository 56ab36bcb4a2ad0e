"""A server's life: start, stop, describe, erase. Processes that do so at once take turns by a lock on its folder."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

import psycopg

from pg_tenants.server import session
from pg_tenants.server.config import CONTAINERS, ServerConfig
from pg_tenants.server.container import Container
from pg_tenants.server.engines import ContainerEngine, pick
from pg_tenants.server.exceptions import (
    DataFolderError,
    ServerConfigError,
    ServerError,
    ServerNotRunning,
    ServerStopFailed,
)
from pg_tenants.server.folder import Folder, locate
from pg_tenants.server.identity import Identity, current
from pg_tenants.server.local import Local
from pg_tenants.server.lock import acquire, release
from pg_tenants.server.runtime import Running, Runtime
from pg_tenants.server.status import Status, describe, url
from pg_tenants.server.upgrade import discard, is_needed, old_config, upgrade

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
    def runtime(self) -> Runtime:
        """What runs the server: processes of this machine or a container, as at its last start."""
        state = self._folder.read_state()
        if state is not None and state.engine in CONTAINERS:
            return Container(self.config, self._folder, state.engine)
        return Local(self.config, self._folder, self._identity)

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
        found = self.runtime.find()
        if found is not None and found.state == "ready" and not self._lacks_something():
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
            found = self.runtime.find()
            # What would not start again is not stopped.
            self._chosen_runtime().verify()
            self._stop(deadline)
            return self._start(deadline, self.config.port, found.port if found else None)[0]

    def upgrade(self, timeout: float = 60.0) -> Path | None:
        """Move the data of another major version to the configured one, by dumping and restoring it.

        A server that runs is stopped meanwhile, and runs again afterwards.

        Args:
            timeout: how long each stop and start may take, in seconds; the transfer takes what it takes.

        Returns:
            The folder where the old data is kept, or None if the data was of that version already.

        Raises:
            ServerError: it failed, and the data is as it was.
        """
        with self._turn(time.monotonic() + timeout):
            state, found = self._folder.read_state(), self.runtime.find()
            if state is not None and state.engine in CONTAINERS:
                raise DataFolderError(
                    f"The data of the server {self.config.name!r} is in a volume, and 'upgrade' moves folders alone. "
                    f"Write it down by '{state.engine} exec' and pg_dumpall, and restore it in a server of another "
                    "name by 'psql'."
                )
            if not is_needed(self.config, self._folder):
                return None
            self._stop(time.monotonic() + timeout)
            had = self._folder.major
            try:
                upgrade(self.config, self._folder, self._identity, timeout)
            except BaseException:
                if found is not None and state is not None:
                    as_before = old_config(replace(self.config, user=state.user), had)
                    Local(as_before, self._folder, self._identity).start(found.port, None, time.monotonic() + timeout)
                raise
            if found is not None:
                self._start(time.monotonic() + timeout, self.config.port, found.port)
            return self._folder.path / f"data-{had}"

    def status(self) -> Status:
        """Describe the server, without changing anything."""
        return self._status(self.runtime.find())

    def extensions(self) -> dict[str, dict[str, str]]:
        """Return the versions of the extensions that are ``available``, and ``installed`` in the configured database.

        Raises:
            ServerNotRunning: the server does not run.
            ServerError: it does not answer.
        """
        where = {**self.connection_params(), "dbname": self.config.database}
        try:
            return session.extensions(where)
        except psycopg.OperationalError as exc:
            raise ServerError(
                f"The server {self.config.name!r} does not answer. Start it anew by 'pgserver restart'. It says: "
                f"{str(exc).strip()}"
            ) from exc

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
        return url(self.config, str(params["host"]), int(params["port"]), database, secret)

    def client(self, program: str) -> tuple[list[str], dict[str, str]]:
        """Return the command that runs a client program such as psql on the server, and the variables it needs.

        Raises:
            ServerNotRunning: the server does not run.
            EngineUnavailable: the program is not there.
        """
        return self.runtime.client(program, self.connection_params())

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
                self.runtime.remove()
                discard(self.config, self._folder, self._identity)
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
                self._folder.finish_upgrade()
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
        found = self.runtime.settled(deadline)
        if found is None:
            return self._status(self._chosen_runtime().start(port, favourite, deadline)), True
        status = self._checked(found)
        if self._lacks_something():
            self.runtime.complete(found)
        return status, False

    def _chosen_runtime(self) -> Runtime:
        """Return what is to run the server from now on."""
        state, config = self._folder.read_state(), self.config
        if state is not None and state.engine in CONTAINERS and not (config.engine or config.image):
            # The version alone has led to a container before, where the data is now.
            config = replace(config, engine=state.engine)
        engine = pick(config)
        last = state.engine if state is not None else ""
        if last in CONTAINERS and engine.name != last:
            raise DataFolderError(
                f"The data of the server {config.name!r} is in a volume of {last!r}, and the engine is {engine.name!r} "
                f"now. Choose the engine {last!r}, give the new server a name or folder of its own by 'name' or "
                "'data', or remove the data by 'pgserver erase'."
            )
        if isinstance(engine, ContainerEngine):
            return Container(config, self._folder, engine.name)
        return Local(config, self._folder, self._identity)

    def _lacks_something(self) -> bool:
        state = self._folder.read_state()
        return state is None or state.lacks(self.config.database, self.config.extensions)

    def _stop(self, deadline: float) -> None:
        runtime = self.runtime
        found = runtime.find()
        if found is None:
            return
        # Waiting for the lock may have used up the time, and an orderly end deserves some.
        orderly = runtime.stop(found, max(deadline, time.monotonic() + _ORDERLY))
        stopped = orderly or runtime.stop(found, time.monotonic() + _ORDERLY, immediate=True)
        if not stopped:
            raise ServerStopFailed(
                f"The server {self.config.name!r} (pid {found.pid}) did not stop in time, not even when told to at "
                f"once. See {runtime.log_place}, and end the process by its number."
            )

    def _status(self, found: Running | None) -> Status:
        return describe(self.config, self._folder, found)

    def _checked(self, found: Running) -> Status:
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
