"""How PostgreSQL's client programs are run on a server."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from pg_tenants.server.config import ServerConfig
from pg_tenants.server.engines import pick
from pg_tenants.server.exceptions import EngineUnavailable
from pg_tenants.server.folder import Folder

__all__ = ["client_command"]


def client_command(
    program: str, config: ServerConfig, folder: Folder, params: Mapping[str, str | int]
) -> tuple[list[str], dict[str, str]]:
    """Return the command that runs a client program such as psql, and the variables it needs.

    Args:
        program: the program's name.
        config: what is wanted.
        folder: the server's folder.
        params: where the server is: host, port, user and password.

    Raises:
        EngineUnavailable: the program is not there.
    """
    state = folder.read_state()
    engine = pick(replace(config, version=state.version, engine=state.engine) if state else config)
    command = engine.command(program)
    if not Path(command[0]).is_file():
        raise EngineUnavailable(
            f"There is no {program} in {engine.place}. Install PostgreSQL's client programs, and connect by the URL "
            "that 'pgserver url' prints."
        )
    environment = {
        "PGHOST": str(params["host"]),
        "PGPORT": str(params["port"]),
        "PGUSER": str(params["user"]),
        "PGPASSWORD": str(params["password"]),
        "PGDATABASE": config.database,
    }
    return command, environment
