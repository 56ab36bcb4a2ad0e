"""What every engine does with a server: the small interface behind which processes and containers are."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Protocol

from pg_tenants.server import ports, session
from pg_tenants.server.config import DEFAULT_PORT, ServerConfig
from pg_tenants.server.exceptions import PortTaken, ServerError, ServerStartFailed
from pg_tenants.server.folder import Folder, State
from pg_tenants.server.identity import Identity

__all__ = ["Ended", "Running", "Runtime"]

_LOG_LINES = 15
_ORDERLY = 10.0
_PORT_IN_USE = ("address already in use", "port is already allocated")


class Running(Protocol):
    """A server that runs."""

    @property
    def pid(self) -> int:
        """The process id."""

    @property
    def host(self) -> str:
        """The address, or the folder of the socket."""

    @property
    def port(self) -> int:
        """The port, 0 while it is not yet known."""

    @property
    def state(self) -> str:
        """ "starting", "ready" or "stopping"."""

    @property
    def started(self) -> float:
        """When it started, in seconds since the epoch."""


class Ended(Exception):
    """A server ended before it took connections.

    Attributes:
        said: its last words.
        passing: whether trying again may help.
    """

    def __init__(self, said: str, *, passing: bool = False) -> None:
        super().__init__(said)
        self.said = said
        self.passing = passing


class Runtime(ABC):
    """A server of one engine. All but `find` and the log's methods need the folder's lock.

    Args:
        config: what is wanted.
        folder: the server's folder.
        identity: as whom programs run.
    """

    def __init__(self, config: ServerConfig, folder: Folder, identity: Identity) -> None:
        self.config = config
        self.folder = folder
        self.identity = identity

    @abstractmethod
    def find(self) -> Running | None:
        """Return the running server, or None."""

    @abstractmethod
    def verify(self) -> None:
        """Refuse what cannot be started on the data that is there.

        Raises:
            DataFolderError: the data is of another engine or major version.
            EngineUnavailable: there is nothing that could run it.
        """

    @abstractmethod
    def prepare(self, deadline: float) -> State:
        """Bring the data to what the configuration asks for, and return what is to be remembered of the start."""

    @abstractmethod
    def attempt(self, port: int, deadline: float) -> Running:
        """Start the server once and return it when it takes connections.

        Raises:
            Ended: it ended before.
        """

    @abstractmethod
    def stop(self, found: Running, deadline: float, *, immediate: bool = False) -> bool:
        """Stop a running server; tell whether it has ended at the deadline.

        Raises:
            ServerStopFailed: this user may not.
        """

    @abstractmethod
    def remove(self) -> None:
        """Remove the data of a server that is stopped."""

    @abstractmethod
    def crashed(self) -> bool:
        """Tell of a server that does not run whether it ended without having been told to."""

    @abstractmethod
    def client(self, program: str, params: Mapping[str, str | int]) -> tuple[list[str], dict[str, str]]:
        """Return the command that runs a client program such as psql, and the variables it needs."""

    @abstractmethod
    def log_position(self) -> float:
        """Return where the log ends now."""

    @abstractmethod
    def log_tail(self, lines: int) -> list[str]:
        """Return the last lines of the log."""

    @abstractmethod
    def log_since(self, position: float) -> list[str]:
        """Return what was written since a position."""

    @abstractmethod
    def log_follow(self, position: float, alive: Callable[[], bool]) -> Iterator[str]:
        """Yield what is written from a position on, until it is no longer alive and all is read."""

    @property
    @abstractmethod
    def log_place(self) -> str:
        """Where the log is, for messages."""

    def settled(self, deadline: float) -> Running | None:
        """Wait until a server that is starting takes connections, or one that is stopping has stopped.

        Returns:
            The running server, or None where none runs.
        """
        while True:
            found = self.find()
            if found is None or found.state == "ready":
                return found
            if time.monotonic() >= deadline:
                raise self.failed(f"is still {found.state} (pid {found.pid}) when the time to wait is over")
            time.sleep(0.01)

    def start(self, port: int | None, favourite: int | None, deadline: float) -> Running:
        """Start a server that does not run and return it when it takes connections.

        Args:
            port: the port it must have, or None.
            favourite: the port to try first where none is given.
            deadline: when to give up, by ``time.monotonic()``.
        """
        tcp = not self.config.socket
        if tcp and port is not None and ports.is_taken(port):
            raise self._port_taken(port)
        state = self.prepare(deadline)
        # Before the start, so that one that loses its starter is known all the same.
        self.folder.write_state(state)
        wish = favourite or DEFAULT_PORT
        while True:
            chosen = port or (ports.free_port() if tcp and ports.is_taken(wish) else wish)
            position = self.log_position()
            try:
                found = self.attempt(chosen, deadline)
                break
            except Ended as exc:
                in_use = any(words in exc.said.lower() for words in _PORT_IN_USE)
                if in_use and port is not None:
                    raise self._port_taken(port) from exc
                if not (in_use or exc.passing) or time.monotonic() >= deadline:
                    raise self.failed("did not start", position, exc.said) from exc
            time.sleep(0.1)
        try:
            self.complete(found)
        except ServerError:
            self.stop(found, time.monotonic() + _ORDERLY)
            raise
        return found

    def complete(self, found: Running) -> None:
        """Make what the configuration has in the server: the database and its extensions."""
        state = self.folder.read_state()
        database, extensions = self.config.database, self.config.extensions
        if state is not None and not state.lacks(database, extensions):
            return
        params = session.params(self.config, found, self.folder.read_password())
        session.make_database(params, database)
        session.make_extensions({**params, "dbname": database}, extensions)
        if state is None:
            return  # Lost while the server runs; the next start writes it anew.
        made = tuple(dict.fromkeys((*state.databases.get(database, ()), *extensions)))
        self.folder.write_state(replace(state, databases={**state.databases, database: made}))

    def failed(self, what: str, position: float = 0, said: str = "") -> ServerStartFailed:
        """Return the error of a server that does not start, with the last lines of its log."""
        lines = (said.splitlines() or self.log_since(position))[-_LOG_LINES:]
        return ServerStartFailed(
            f"The server {self.config.name!r} {what}. Repair what it says, and start it again. The last lines of "
            f"{self.log_place}:\n" + ("\n".join(lines) or "(nothing)")
        )

    def _port_taken(self, port: int) -> PortTaken:
        return PortTaken(
            f"Port {port} of {ports.HOST}, asked for by the key 'port', is taken by {ports.owner(port)}. Choose "
            "another port, leave the key out for a free one, or end that program."
        )
