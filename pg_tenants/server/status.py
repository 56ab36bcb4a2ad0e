"""What a server is and does, as one value."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import quote

from pg_tenants.server.config import ServerConfig
from pg_tenants.server.engines import major
from pg_tenants.server.folder import Folder, State
from pg_tenants.server.initialize import rendered
from pg_tenants.server.ports import HOST
from pg_tenants.server.postmaster import Postmaster

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
        host: the address it listens on.
        port: its TCP port; of one that does not run, the one that is configured, or None.
        user: the superuser.
        database: the database of its URL.
        data: PostgreSQL's data folder.
        folder: the server's folder, with the data folder, the log and the password.
        log: the log.
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
    data: Path
    folder: Path
    log: Path
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


def describe(config: ServerConfig, folder: Folder, found: Postmaster | None) -> Status:
    """Return the status of a configured server.

    Args:
        config: what is wanted.
        folder: the server's folder.
        found: the running postmaster, if there is one.
    """
    state = folder.read_state()
    return Status(
        name=config.name,
        state=found.state if found else "stopped",
        engine=state.engine if state else "",
        version=state.version if state else folder.major,
        pid=found.pid if found else None,
        host=HOST,
        port=found.port if found else config.port,
        user=config.user,
        database=config.database,
        data=folder.data,
        folder=folder.path,
        log=folder.log,
        url=url(config, found.port) if found and found.state == "ready" else None,
        started=found.started if found else None,
        restart_needed=_differences(config, folder, found, state) if found and state else (),
    )


def url(config: ServerConfig, port: int, database: str | None = None, password: str | None = None) -> str:
    """Return where to connect, as DATABASE_URL has it.

    Args:
        config: what is wanted.
        port: the running server's port.
        database: another database than the configured one.
        password: the password, None to leave it out.
    """
    who = quote(config.user, safe="") + ("" if password is None else ":" + quote(password, safe=""))
    return f"postgresql://{who}@{HOST}:{port}/{quote(database or config.database, safe='')}"


def _differences(config: ServerConfig, folder: Folder, found: Postmaster, state: State) -> tuple[str, ...]:
    password = folder.read_password()
    differs = {
        "port": config.port not in (None, found.port),
        "user": config.user != state.user,
        "password": (config.password or password) != password or not password,
        "version": config.version not in ("", state.version, major(state.version)),
        "engine": config.engine not in ("", state.engine),
        "postgres_conf": folder.read_settings() != rendered(config.postgres_conf),
    }
    return tuple(key for key, value in differs.items() if value)
