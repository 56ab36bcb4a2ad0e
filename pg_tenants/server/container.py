"""A server in a container, of the engines "docker" and "podman", whose commands are the same.

A container is made anew at each start, so that its settings are those of the configuration; the data is in a volume of
its own. The container and the volume are found by a name that is made of the server's name and folder, and carry a
label with the folder, so that nobody else's is ever touched.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import psycopg

from pg_tenants.server import ports, session
from pg_tenants.server.config import ServerConfig
from pg_tenants.server.engines import containers_for
from pg_tenants.server.exceptions import DataFolderError, EngineUnavailable, ServerStartFailed
from pg_tenants.server.folder import Folder, State, write_private
from pg_tenants.server.identity import Identity
from pg_tenants.server.initialize import new_password, rendered, superuser_script, with_defaults, without_password
from pg_tenants.server.programs import run
from pg_tenants.server.runtime import Ended, Running, Runtime

__all__ = ["Container", "container_name"]

_LABEL = "pg_tenants.folder"
_USER_LABEL = "pg_tenants.user"
# Not the images' own place for data, which changed with PostgreSQL 18; all of them take another one from PGDATA.
_MOUNT = "/var/lib/pg_tenants"
_INITDB = "--encoding=UTF8 --locale=C.UTF-8 --auth-local=trust --auth-host=scram-sha-256"
_UNKNOWN = ("no such container", "no such object", "no container with")
_NO_IMAGE = ("manifest unknown", "not found", "access denied", "no such image", "name unknown", "manifest for")
_OTHER_MAJOR = "is not compatible with this version"
_QUERY_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Instance:
    """A running container, as its engine describes it."""

    pid: int
    port: int
    state: str
    started: float
    key: str
    host: str = ports.HOST


def container_name(config: ServerConfig, folder: Folder) -> str:
    """Return what a server's container and its volume are called."""
    return f"pg_tenants-{config.name}-{hashlib.sha256(os.fsencode(folder.path)).hexdigest()[:8]}"


class Container(Runtime):
    """A server in a container.

    Args:
        config: what is wanted.
        folder: the server's folder, with the password and what is remembered.
        name: the engine, "docker" or "podman".
    """

    def __init__(self, config: ServerConfig, folder: Folder, name: str) -> None:
        super().__init__(config, folder, Identity())
        self.engine = name
        self.container = container_name(config, folder)

    def find(self) -> Instance | None:
        """Return the running container, or None."""
        found = self._inspect()
        if found is None or not found["State"]["Running"]:
            return None
        key = f"{found['Id']} {found['State']['StartedAt']}"
        bindings = (found["NetworkSettings"]["Ports"] or {}).get("5432/tcp") or [{}]
        port = int(bindings[0].get("HostPort") or 0)
        started = datetime.fromisoformat(found["State"]["StartedAt"]).timestamp()
        state = self.folder.read_state()
        seen = Instance(int(found["State"].get("Pid") or 0), port, "starting", started, key)
        ready = port > 0 and ((state is not None and state.instance == key) or self._answers(seen))
        return replace(seen, state="ready") if ready else seen

    def verify(self) -> None:
        """Refuse where the folder has data."""
        if self.folder.major:
            raise DataFolderError(
                f"The data of the server {self.config.name!r} is in the folder {str(self.folder.data)!r}, and the "
                f"engine {self.engine!r} keeps it in a volume. Choose the engine 'embedded' or 'system', give the new "
                "server a name or folder of its own by 'name' or 'data', or remove the data by 'pgserver erase'."
            )

    def prepare(self, deadline: float) -> State:
        """Get the image, remove the last container, and make the password and the volume."""
        self.verify()
        config, folder = self.config, self.folder
        engine = containers_for(replace(config, engine=self.engine))
        self._image = engine.image
        if self._call("image", "inspect", self._image, deadline=deadline).returncode:
            self._pull(deadline)
        self._remove_container(deadline)
        if not self._volume_labels(deadline):
            self._done(
                self._call(
                    "volume",
                    "create",
                    "--label",
                    f"{_LABEL}={folder.path}",
                    "--label",
                    f"{_USER_LABEL}={config.user}",
                    self.container,
                    deadline=deadline,
                )
            )
        if not (config.password or folder.read_password()):
            write_private(folder.password, new_password())
        state = folder.read_state()
        made = state.databases if state else {"postgres": ()}
        return State(self.engine, "", config.user, made, rendered(config.all_settings), self._image)

    def attempt(self, port: int, deadline: float) -> Running:
        """Run the container and return it when it answers a query through its port."""
        password = self.config.password or self.folder.read_password()
        done = self._call(*self._run_arguments(port), deadline=deadline, env={"POSTGRES_PASSWORD": password})
        if done.returncode:
            self._remove_container(deadline)
            raise Ended(done.stderr)
        while True:
            found = self._inspect()
            if found is None or not found["State"]["Running"]:
                self._refuse_other_major()
                raise Ended("\n".join(self.log_tail(15)))
            instance = self._ready(port, password, f"{found['Id']} {found['State']['StartedAt']}")
            if instance is not None:
                return instance
            if time.monotonic() >= deadline:
                raise self.failed("does not take connections yet when the time to wait is over")
            time.sleep(0.1)

    def stop(self, found: Running, deadline: float, *, immediate: bool = False) -> bool:
        """Stop the container, which stays there with its log until the next start."""
        seconds = max(int(deadline - time.monotonic()), 1)
        # The engine kills what has not ended in time, from which PostgreSQL recovers.
        words = ("kill", self.container) if immediate else ("stop", "-t", str(seconds), self.container)
        self._call(*words, deadline=time.monotonic() + seconds + _QUERY_SECONDS)
        after = self._inspect()
        return after is None or not after["State"]["Running"]

    def remove(self) -> None:
        """Remove the container and the volume."""
        deadline = time.monotonic() + 30
        self._remove_container(deadline)
        if self._volume_labels(deadline):
            self._done(self._call("volume", "rm", self.container, deadline=deadline))

    def crashed(self) -> bool:
        """Tell whether PostgreSQL ended with an error, or the container was killed."""
        found = self._inspect()
        return found is not None and not found["State"]["Running"] and bool(found["State"].get("ExitCode"))

    def client(self, program: str, params: Mapping[str, str | int]) -> tuple[list[str], dict[str, str]]:
        """Return the command that runs the image's own program inside, where no password is asked."""
        terminal = ("--tty",) if sys.stdin.isatty() else ()
        variables = ("--env", f"PGUSER={params['user']}", "--env", f"PGDATABASE={self.config.database}")
        return [self._program, "exec", "--interactive", *terminal, *variables, self.container, program], {}

    def log_position(self) -> float:
        """Return the time."""
        return time.time()

    def log_tail(self, lines: int) -> list[str]:
        """Return the last lines of the container's log."""
        return self._log("--tail", str(max(lines, 0)))

    def log_since(self, position: float) -> list[str]:
        """Return what was written since a time."""
        return self._log("--since", f"{position:.6f}")

    def log_follow(self, position: float, alive: Callable[[], bool]) -> Iterator[str]:
        """Yield what is written from a time on, until the container ends."""
        command = [self._program, "logs", "--follow", "--since", f"{position:.6f}", self.container]
        with subprocess.Popen(  # noqa: S603
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        ) as process:
            try:
                assert process.stdout is not None
                for line in process.stdout:
                    yield line.rstrip("\n")
            finally:
                process.terminate()

    @property
    def log_place(self) -> str:
        """The container."""
        return f"the {self.engine} container {self.container!r}"

    @property
    def _program(self) -> str:
        program = shutil.which(self.engine)
        if program is None:
            raise EngineUnavailable(
                f"The server {self.config.name!r} is in a container of {self.engine}, which is not on the PATH. "
                f"Install {self.engine}, or give a new server a name of its own by the key 'name'."
            )
        return program

    def _call(
        self, *words: str, deadline: float | None = None, env: dict[str, str] | None = None, stdin: str = ""
    ) -> subprocess.CompletedProcess[str]:
        until = time.monotonic() + _QUERY_SECONDS if deadline is None else deadline
        return run(Identity(), [self._program, *words], deadline=until, env=env, stdin=stdin, apart=True)

    def _done(self, done: subprocess.CompletedProcess[str]) -> None:
        if done.returncode:
            raise ServerStartFailed(
                f"{' '.join(done.args[:3])} failed. Repair what {self.engine} says, and start the server again: "
                f"{done.stderr.strip()}"
            )

    def _inspect(self) -> dict[str, Any] | None:
        """Return what the engine tells of our container, None if there is none."""
        done = self._call("container", "inspect", self.container)
        if done.returncode:
            if any(words in done.stderr.lower() for words in _UNKNOWN):
                return None
            raise EngineUnavailable(
                f"{self.engine} does not tell about the container {self.container!r} of the server "
                f"{self.config.name!r}: {done.stderr.strip()}. Start {self.engine}, or repair it."
            )
        found: dict[str, Any] = json.loads(done.stdout)[0]
        self._refuse_strangers((found["Config"].get("Labels") or {}).get(_LABEL), "container")
        return found

    def _volume_labels(self, deadline: float) -> dict[str, str]:
        """Return the labels of our volume, none if there is no volume."""
        done = self._call("volume", "inspect", self.container, deadline=deadline)
        if done.returncode:
            return {}
        labels: dict[str, str] = json.loads(done.stdout)[0].get("Labels") or {}
        self._refuse_strangers(labels.get(_LABEL), "volume")
        return labels

    def _refuse_strangers(self, label: str | None, kind: str) -> None:
        if label != str(self.folder.path):
            raise DataFolderError(
                f"There is a {kind} {self.container!r} that belongs to somebody else: its label {_LABEL} is {label!r}. "
                f"Remove it with {self.engine}, or choose another name by the key 'name'."
            )

    def _pull(self, deadline: float) -> None:
        done = self._call("pull", self._image, deadline=deadline)
        if done.returncode:
            said = done.stderr.strip()
            missing = any(words in said.lower() for words in _NO_IMAGE)
            way = "Correct 'version' or 'image'" if missing else f"See that '{self.engine} pull {self._image}' works"
            raise EngineUnavailable(f"The image {self._image!r} cannot be had: {said}. {way}.")

    def _run_arguments(self, port: int) -> list[str]:
        folder, user = self.folder.path, self.config.user
        words = ["run", "--detach", "--name", self.container, "--label", f"{_LABEL}={folder}"]
        words += ["--publish", f"{ports.HOST}:{port}:5432", "--volume", f"{self.container}:{_MOUNT}"]
        # What PostgreSQL's parallel queries share; 64 MB is the engines' default, and not enough.
        words += ["--shm-size", "256m", "--env", f"PGDATA={_MOUNT}/data", "--env", f"POSTGRES_USER={user}"]
        # Without a value here it comes from the caller's environment, so it is in no list of processes.
        words += ["--env", "POSTGRES_PASSWORD", "--env", "POSTGRES_DB=postgres"]
        words += ["--env", f"POSTGRES_INITDB_ARGS={_INITDB}", self._image, "postgres"]
        for key, value in with_defaults(self.config.all_settings).items():
            words += ["-c", f"{key}={value}"]
        return words

    def _answers(self, instance: Instance) -> bool:
        """Tell whether a container that nobody saw ready takes connections."""
        with contextlib.suppress(psycopg.OperationalError):
            where = session.params(self.config, instance, self.config.password or self.folder.read_password())
            session.connect({**where, "connect_timeout": 2}).close()
            return True
        return False

    def _ready(self, port: int, password: str, key: str) -> Instance | None:
        """Ask the server a query as everybody would, and remember its version; None if it does not answer yet."""
        instance = Instance(0, port, "starting", 0.0, key)
        where = {**session.params(self.config, instance, password), "connect_timeout": 2}
        try:
            with session.connect(where) as connection:
                (version,) = connection.execute("SHOW server_version").fetchone() or ("",)
        except psycopg.OperationalError as exc:
            if "password authentication failed" in str(exc):
                # The volume is older than the configured user or password.
                self._set_superuser(password)
            return None
        if password != self.folder.read_password():
            write_private(self.folder.password, password)
        state = self.folder.read_state()
        assert state is not None, "written before the start"
        self.folder.write_state(replace(state, version=version.split()[0], instance=key))
        return self.find()

    def _set_superuser(self, password: str) -> None:
        first = self._volume_labels(time.monotonic() + _QUERY_SECONDS).get(_USER_LABEL, self.config.user)
        words = ("exec", "--interactive", "--env", f"PGUSER={first}", "--env", "PGDATABASE=postgres")
        done = self._call(
            *words,
            self.container,
            "psql",
            "--no-psqlrc",
            "--quiet",
            "--set=ON_ERROR_STOP=1",
            stdin="SET log_min_error_statement = panic; SET log_statement = none;\n"
            + superuser_script(self.config.user, password),
        )
        if done.returncode:
            raise ServerStartFailed(
                f"PostgreSQL could not set the password of user {self.config.user!r}. Repair what it says, or start "
                "without the data after 'pgserver erase':\n"
                f"{without_password(done.stderr)}"
            )

    def _refuse_other_major(self) -> None:
        said = "\n".join(self.log_tail(30))
        if _OTHER_MAJOR in said:
            line = next(line for line in said.splitlines() if _OTHER_MAJOR in line)
            raise DataFolderError(
                f"The volume {self.container!r} is of another major version than the image {self._image!r}. PostgreSQL "
                f"says: {line.strip()} Choose the old version or image again, or another 'name' and move the data by "
                "pg_dumpall and psql, or remove it by 'pgserver erase'."
            )

    def _remove_container(self, deadline: float) -> None:
        if self._inspect() is not None:
            # The volumes that it removes are those without a name, which an image may declare.
            self._done(self._call("rm", "--force", "--volumes", self.container, deadline=deadline))

    def _log(self, *words: str) -> list[str]:
        done = self._call("logs", *words, self.container)
        # PostgreSQL writes to standard error, what made the data folder to standard output, which is earlier.
        return (done.stdout + done.stderr).splitlines() if done.returncode == 0 else []
