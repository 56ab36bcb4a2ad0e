"""What a server is and does, as one value."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import quote

from pg_tenants.server.config import CONTAINERS, ServerConfig
from pg_tenants.server.container import container_name
from pg_tenants.server.engines import major
from pg_tenants.server.folder import Folder, State
from pg_tenants.server.initialize import rendered
from pg_tenants.server.ports import HOST
from pg_tenants.server.runtime import Running

__all__ = ["Status", "describe", "url"]


@dataclass(frozen=True, slots=True)
class Status:
    """Describe a server at one moment.

    Args:
        name: its name.
        state: "stopped", "starting", "ready" or "stopping".
        engine: what runs it, "" if it was never started.
        version: PostgreSQL's version, "" if it was never started.
        pid: the postmaster's process id, None unless it runs.
        host: the address it listens on, or the folder of its private socket.
        port: its port; of one that does not run, the one that is configured, or None.
        user: the superuser.
        database: the database of its URL.
        data: PostgreSQL's data folder, or the volume of a container.
        folder: the server's folder, with the data folder, the log and the password.
        log: the log's file, or the command that shows a container's.
        image: the image of a container, "" for programs of this machine.
        url: where to connect, without the password, None unless it runs.
        started: when it started, in seconds since the epoch, None unless it runs.
        restart_needed: what of the configuration differs from what it was started with, by keys.
    """

    name: str
    state: str
    engine: str
    version: str
    pid: int | None
    host: str
    port: int | None
    user: str
    database: str
    data: Path | str
    folder: Path
    log: Path | str
    image: str
    url: str | None
    started: float | None
    restart_needed: tuple[str, ...]

    @property
    def running(self) -> bool:
        """Whether it takes connections."""
        return self.state == "ready"

    def as_dict(self) -> dict[str, object]:
        """Return everything as plain values, for JSON."""
        values = asdict(self)
        return {
            "running": self.running,
            **{key: str(value) if isinstance(value, Path) else value for key, value in values.items()},
        }


def describe(config: ServerConfig, folder: Folder, found: Running | None) -> Status:
    """Return the status of a configured server.

    Args:
        config: what is wanted.
        folder: the server's folder.
        found: the running postmaster, if there is one.
    """
    state = folder.read_state()
    in_container = state is not None and state.engine in CONTAINERS
    stopped_host = str(folder.socket_folder) if config.socket else HOST
    return Status(
        name=config.name,
        state=found.state if found else "stopped",
        engine=state.engine if state else "",
        version=state.version if state else folder.major,
        pid=found.pid if found else None,
        host=found.host if found else stopped_host,
        port=found.port if found else config.port,
        user=config.user,
        database=config.database,
        data=container_name(config, folder) if in_container else folder.data,
        folder=folder.path,
        log=f"{state.engine} logs {container_name(config, folder)}" if state and in_container else folder.log,
        image=state.image if state else "",
        url=url(config, found.host, found.port) if found and found.state == "ready" else None,
        started=found.started if found else None,
        restart_needed=_differences(config, folder, found, state) if found and state else (),
    )


def url(config: ServerConfig, host: str, port: int, database: str | None = None, password: str | None = None) -> str:
    """Return where to connect, as DATABASE_URL has it.

    Args:
        config: what is wanted.
        host: the running server's address, or the folder of its socket.
        port: its port.
        database: another database than the configured one.
        password: the password, None to leave it out.
    """
    who = quote(config.user, safe="") + ("" if password is None else ":" + quote(password, safe=""))
    return f"postgresql://{who}@{quote(host, safe='')}:{port}/{quote(database or config.database, safe='')}"


def _differences(config: ServerConfig, folder: Folder, found: Running, state: State) -> tuple[str, ...]:
    password = folder.read_password()
    wanted_image = config.image or (f"postgres:{config.version}" if config.version else "")
    differs = {
        "port": config.port not in (None, found.port),
        "user": config.user != state.user,
        "password": (config.password or password) != password or not password,
        "engine": config.engine not in ("", state.engine) or bool(config.image and not state.image),
        "socket": config.socket == (found.host == HOST),
        "postgres_conf": state.settings != rendered(config.all_settings),
    }
    if state.image:
        differs["image"] = wanted_image not in ("", state.image)
    else:
        differs["version"] = config.version not in ("", state.version, major(state.version))
    return tuple(key for key, value in differs.items() if value)
