"""A server as processes of this machine, of the engines "embedded" and "system"."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import psutil

from pg_tenants.server import log, ports, postmaster
from pg_tenants.server.engines import LocalEngine, available, major, programs_for
from pg_tenants.server.exceptions import DataFolderError, EngineUnavailable, ServerStopFailed
from pg_tenants.server.folder import State, write_private
from pg_tenants.server.initialize import initialize, new_password, rendered, set_superuser, take_over
from pg_tenants.server.postmaster import Postmaster
from pg_tenants.server.programs import readable, spawn
from pg_tenants.server.runtime import Ended, Running, Runtime

__all__ = ["Local"]

# After kill -9 the last run's processes need a moment to notice, and PostgreSQL will not start before they end.
_STILL_ENDING = ("pre-existing shared memory block", "is still in use", "lock file")


class Local(Runtime):
    """A server whose programs, data and log are in folders of this machine."""

    def find(self) -> Postmaster | None:
        """Return the running server, or None."""
        return postmaster.find(self.folder.data)

    def verify(self) -> None:
        """Refuse the data of another major version."""
        self._pick()

    def prepare(self, deadline: float) -> State:
        """Bring the data folder to what the configuration asks for."""
        config, folder = self.config, self.folder
        self._engine = engine = readable(self._pick(), self.identity)
        for leftover in folder.leftovers():
            # An initdb that lost its starter may still be at work in it; then the next start removes the rest.
            shutil.rmtree(leftover, ignore_errors=True)
        if not folder.major:
            password = config.password or folder.read_password() or new_password()
            initialize(folder, engine, self.identity, config.user, password, deadline)
            folder.write_state(State(engine.name, engine.version, config.user))
        take_over(folder, self.identity)
        postmaster.disarm_stale_pid(folder.data)
        settings = rendered(config.all_settings)
        write_private(folder.settings, settings, self.identity)
        state, password = folder.read_state(), folder.read_password()
        if state is None or state.user != config.user or not password or config.password not in ("", password):
            password = config.password or password or new_password()
            set_superuser(folder, engine, self.identity, config.user, password, deadline)
        return State(
            engine.name, engine.version, config.user, state.databases if state else {"postgres": ()}, settings=settings
        )

    def attempt(self, port: int, deadline: float) -> Running:
        """Start PostgreSQL once and return it when it takes connections."""
        position = self.log_position()
        handle = self.folder.open_log()
        try:
            pid = spawn(self.identity, self._command(port), handle)
        finally:
            os.close(handle)
        while True:
            ended = not _runs(pid)
            found = self.find()
            # Another one than ours was started by a process that was killed before it could say so.
            if found is not None and found.state == "ready":
                return found
            if ended and (found is None or found.pid == pid):
                said = "\n".join(self.log_since(position))
                raise Ended(said, passing=any(words in said for words in _STILL_ENDING))
            if time.monotonic() >= deadline:
                raise self.failed(f"does not take connections yet (pid {pid}) when the time to wait is over")
            time.sleep(0.01)

    def stop(self, found: Running, deadline: float, *, immediate: bool = False) -> bool:
        """Ask it to end its sessions and stop, and wait for that."""
        assert isinstance(found, Postmaster)
        try:
            return found.stop(deadline, immediate=immediate)
        except psutil.AccessDenied as exc:
            raise ServerStopFailed(
                f"This user may not stop the server {self.config.name!r} (pid {found.pid}). Stop it as its owner."
            ) from exc

    def remove(self) -> None:
        """Leave the removal to the folder, which has all there is."""

    def crashed(self) -> bool:
        """Tell whether the pid file was left behind."""
        return (self.folder.data / "postmaster.pid").exists()

    def client(self, program: str, params: Mapping[str, str | int]) -> tuple[list[str], dict[str, str]]:
        """Return the command of the engine's own program."""
        state = self.folder.read_state()
        engine = programs_for(self.folder.major, state.engine if state else "")
        command = engine.command(program)
        if not Path(command[0]).is_file():
            raise EngineUnavailable(
                f"There is no {program} in {engine.place}. Install PostgreSQL's client programs, and connect by the "
                "URL that 'pgserver url' prints."
            )
        return command, {
            "PGHOST": str(params["host"]),
            "PGPORT": str(params["port"]),
            "PGUSER": str(params["user"]),
            "PGPASSWORD": str(params["password"]),
            "PGDATABASE": self.config.database,
        }

    def log_position(self) -> float:
        """Return the log's size in bytes."""
        try:
            return self.folder.log.stat().st_size
        except FileNotFoundError:
            return 0

    def log_tail(self, lines: int) -> list[str]:
        """Return the last lines of the log."""
        return log.tail(self.folder.log, lines)

    def log_since(self, position: float) -> list[str]:
        """Return what was written since a position."""
        return log.since(self.folder.log, int(position))

    def log_follow(self, position: float, alive: Callable[[], bool]) -> Iterator[str]:
        """Yield what is written from a position on."""
        return log.follow(self.folder.log, int(position), alive) if self.folder.log.exists() else iter(())

    @property
    def log_place(self) -> str:
        """The log's file."""
        return repr(str(self.folder.log))

    def _command(self, port: int) -> list[str]:
        # By the command line, so that neither ALTER SYSTEM nor postgres_conf opens the server to others.
        if self.config.socket:
            folder = str(self.folder.make_socket_folder(self.identity)).replace('"', '""')
            listen = ("listen_addresses=", f'unix_socket_directories="{folder}"', "unix_socket_permissions=0700")
        else:
            listen = (f"listen_addresses={ports.HOST}", "unix_socket_directories=", "unix_socket_permissions=0700")
        command = self._engine.command("postgres", "-D", str(self.folder.data), "-p", str(port))
        return [*command, *(word for setting in listen for word in ("-c", setting))]

    def _pick(self) -> LocalEngine:
        engine = programs_for(self.config.version, self.config.engine)
        has = self.folder.major
        if has and has != major(engine.version):
            fitting = [other for other in available() if major(other.version) == has]
            ways = (
                f"'pgserver upgrade' moves the data to {engine.version} by dumping and restoring it; or ask for the "
                f"old one by version {has!r} (engine {fitting[0].name!r}, {fitting[0].place})"
                if fitting
                else f"Install PostgreSQL {has} and ask for it by version {has!r}; then 'pgserver upgrade' can move "
                "the data by dumping and restoring it"
            )
            raise DataFolderError(
                f"The data folder {str(self.folder.data)!r} is of PostgreSQL {has}, and the programs that fit the "
                f"configuration are {engine.version} (engine {engine.name!r}, {engine.place}), which cannot read it. "
                f"{ways}; or choose another folder by 'name' or 'data'; or remove the data by 'pgserver erase'."
            )
        return engine


def _runs(pid: int) -> bool:
    try:
        return postmaster.is_alive(psutil.Process(pid))
    except psutil.NoSuchProcess:
        return False
