"""One start of a server, under its lock: from whatever is in the folder to a server that takes connections."""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import replace

import psutil

from pg_tenants.server import log, ports, postmaster
from pg_tenants.server.config import DEFAULT_PORT, ServerConfig
from pg_tenants.server.engines import LocalEngine, available, major, pick
from pg_tenants.server.exceptions import DataFolderError, PortTaken, ServerStartFailed
from pg_tenants.server.folder import Folder, State, write_private
from pg_tenants.server.identity import Identity
from pg_tenants.server.initialize import initialize, new_password, rendered, set_superuser, take_over
from pg_tenants.server.postmaster import Postmaster
from pg_tenants.server.programs import readable, run, spawn

__all__ = ["Start"]

_LOG_LINES = 15
# After kill -9 the last run's processes need a moment to notice, and PostgreSQL will not start before they end.
_STILL_ENDING = ("pre-existing shared memory block", "is still in use", 'lock file "postmaster.pid" already exists')
_PORT_IN_USE = "Address already in use"


class Start:
    """Start a server that does not run.

    Args:
        config: what is wanted.
        folder: the server's folder, whose lock is held.
        identity: as whom the programs run.
        deadline: when to give up, by ``time.monotonic()``.
    """

    def __init__(self, config: ServerConfig, folder: Folder, identity: Identity, deadline: float) -> None:
        self.config = config
        self.folder = folder
        self.identity = identity
        self.deadline = deadline

    def settled(self) -> Postmaster | None:
        """Wait until a server that is starting takes connections, or one that is stopping has stopped.

        Returns:
            The running server, or None where none runs.
        """
        while True:
            found = postmaster.find(self.folder.data)
            if found is None or found.state == "ready":
                return found
            if time.monotonic() >= self.deadline:
                raise self._failed(f"is still {found.state} (pid {found.pid}) when the time to wait is over", 0)
            time.sleep(0.01)

    def run(self, port: int | None, favourite: int | None = None) -> Postmaster:
        """Start the server and return it when it takes connections.

        Args:
            port: the port it must have, or None.
            favourite: the port to try first where none is given.
        """
        if port is not None and ports.is_taken(port):
            raise self._port_taken(port)
        engine = readable(self._engine(), self.identity)
        self._prepare(engine)
        wish = favourite or DEFAULT_PORT
        while True:
            chosen = port or (ports.free_port() if ports.is_taken(wish) else wish)
            offset = self._log_size()
            found = self._attempt(engine, chosen)
            if found is not None:
                break
            said = "\n".join(log.since(self.folder.log, offset))
            if _PORT_IN_USE in said and port is not None:
                raise self._port_taken(port)
            again = _PORT_IN_USE in said or any(words in said for words in _STILL_ENDING)
            if not again or time.monotonic() >= self.deadline:
                raise self._failed("did not start", offset)
            time.sleep(0.1)
        state = self.folder.read_state()
        made = state.databases if state else ()
        self.folder.write_state(State(engine.name, engine.version, self.config.user, made))
        if self.config.database != "postgres":
            self.make_database(found)
        return found

    def make_database(self, found: Postmaster) -> None:
        """Make the configured database if it is missing."""
        state, name, user = self.folder.read_state(), self.config.database, self.config.user
        engine = readable(pick(self.config), self.identity)
        where = ("-h", ports.HOST, "-p", str(found.port), "-U", user, "--maintenance-db=postgres")
        env = {"PGPASSWORD": self.folder.read_password()}
        done = run(self.identity, engine.command("createdb", *where, "--", name), deadline=self.deadline, env=env)
        if done.returncode != 0 and "already exists" not in done.stdout:
            raise ServerStartFailed(f"The database {name!r} could not be made. PostgreSQL says:\n{done.stdout.strip()}")
        if state is not None and name not in state.databases:
            self.folder.write_state(replace(state, databases=(*state.databases, name)))

    def _engine(self) -> LocalEngine:
        engine = pick(self.config)
        has = self.folder.major
        if has and has != major(engine.version):
            fitting = [other for other in available() if major(other.version) == has]
            way_out = (
                f"Ask for it by version {has!r} (engine {fitting[0].name!r}, {fitting[0].place})"
                if fitting
                else f"Install PostgreSQL {has} and ask for it by version {has!r}"
            )
            raise DataFolderError(
                f"The data folder {str(self.folder.data)!r} is of PostgreSQL {has}, and the programs that fit the "
                f"configuration are {engine.version} (engine {engine.name!r}, {engine.place}), which cannot read it. "
                f"{way_out}; or choose another folder by 'name' or 'data'; or remove the data by 'pgserver erase'."
            )
        return engine

    def _prepare(self, engine: LocalEngine) -> None:
        """Bring the data folder to what the configuration asks for."""
        config, folder = self.config, self.folder
        for leftover in folder.leftovers():
            # An initdb that lost its starter may still be at work in it; then the next start removes the rest.
            shutil.rmtree(leftover, ignore_errors=True)
        if not folder.major:
            password = config.password or folder.read_password() or new_password()
            initialize(folder, engine, self.identity, config.user, password, self.deadline)
            folder.write_state(State(engine.name, engine.version, config.user))
        take_over(folder, self.identity)
        postmaster.disarm_stale_pid(folder.data)
        write_private(folder.settings, rendered(config.postgres_conf), self.identity)
        state, password = folder.read_state(), folder.read_password()
        if state is None or state.user != config.user or not password or config.password not in ("", password):
            password = config.password or password or new_password()
            set_superuser(folder, engine, self.identity, config.user, password, self.deadline)

    def _attempt(self, engine: LocalEngine, port: int) -> Postmaster | None:
        """Start PostgreSQL once; return None if it ended before it took connections."""
        command = engine.command("postgres", "-D", str(self.folder.data), "-p", str(port))
        # By the command line, so that neither ALTER SYSTEM nor postgres_conf opens the server to others.
        command += ["-c", f"listen_addresses={ports.HOST}", "-c", "unix_socket_directories="]
        handle = self.folder.open_log()
        try:
            pid = spawn(self.identity, command, handle)
        finally:
            os.close(handle)
        while True:
            ended = not _runs(pid)
            found = postmaster.find(self.folder.data)
            # Another one than ours was started by a process that was killed before it could say so.
            if found is not None and found.state == "ready":
                return found
            if ended and (found is None or found.pid == pid):
                return None
            if time.monotonic() >= self.deadline:
                raise self._failed(f"does not take connections yet (pid {pid}) when the time to wait is over", 0)
            time.sleep(0.01)

    def _log_size(self) -> int:
        try:
            return self.folder.log.stat().st_size
        except FileNotFoundError:
            return 0

    def _failed(self, what: str, offset: int) -> ServerStartFailed:
        lines = log.since(self.folder.log, offset)[-_LOG_LINES:]
        return ServerStartFailed(
            f"The server {self.config.name!r} {what}. The last lines of {str(self.folder.log)!r}:\n"
            + ("\n".join(lines) or "(nothing)")
        )

    def _port_taken(self, port: int) -> PortTaken:
        return PortTaken(
            f"Port {port} of {ports.HOST}, asked for by the key 'port', is taken by {ports.owner(port)}. Choose "
            "another port, leave the key out for a free one, or end that program."
        )


def _runs(pid: int) -> bool:
    try:
        return postmaster.is_alive(psutil.Process(pid))
    except psutil.NoSuchProcess:
        return False
