"""Move a server's data to another major version, by dumping it from the old one and restoring it in the new one.

Both run meanwhile on private sockets, so that nobody else writes. The new data is made beside the old, and takes its
place by renaming, once it is complete; until then a failure, or the end of this process, leaves the old as it was.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import IO

from psycopg import sql

from pg_tenants.dumptext import without_stamps
from pg_tenants.server.config import ServerConfig
from pg_tenants.server.engines import major, programs_for
from pg_tenants.server.exceptions import DataFolderError, ServerStartFailed
from pg_tenants.server.folder import Folder, write_private
from pg_tenants.server.identity import Identity
from pg_tenants.server.local import Local
from pg_tenants.server.programs import environment

__all__ = ["discard", "is_needed", "old_config", "upgrade"]

_ORDERLY = 60.0
_SHOWN = 15


def is_needed(config: ServerConfig, folder: Folder) -> bool:
    """Tell whether the data is of another major version than the configuration picks.

    Raises:
        DataFolderError: there is no data.
        EngineUnavailable: there are no programs of one of both versions.
    """
    if not folder.major:
        raise DataFolderError(
            f"The server {config.name!r} has no data in {str(folder.data)!r} that could be moved. Start it by 'up'."
        )
    programs_for(folder.major)
    return folder.major != major(programs_for(config.version, config.engine).version)


def upgrade(config: ServerConfig, folder: Folder, identity: Identity, timeout: float) -> None:
    """Move the data of a stopped server, whose lock is held, to the major version that the configuration picks.

    Args:
        config: what is wanted.
        folder: the server's folder.
        identity: as whom programs run.
        timeout: how long each of the two servers may take to start, in seconds; the transfer takes what it takes.

    Raises:
        ServerError: it failed, and the old data is as it was.
    """
    before, password = folder.read_state(), folder.read_password()
    user = before.user if before else config.user
    private = replace(config, socket=True, port=None, database="postgres", extensions=())
    old = Local(old_config(replace(private, user=user), folder.major), folder, identity)
    discard(config, folder, identity)
    beside = Folder(folder.upgrade)
    beside.prepare(identity)
    new = Local(replace(private, password=config.password or password), beside, identity)
    try:
        with _running(old, timeout), _running(new, timeout):
            _transfer(old, new)
    except BaseException:
        discard(config, folder, identity)
        if before is not None:
            folder.write_state(before)
        raise
    finally:
        shutil.rmtree(folder.socket_folder, ignore_errors=True)
    write_private(folder.upgrade_done, "")
    folder.finish_upgrade()


def old_config(config: ServerConfig, version: str) -> ServerConfig:
    """Return the configuration with which data of an old major version is started."""
    return replace(config, version=version, engine=programs_for(version).name, password="")


def discard(config: ServerConfig, folder: Folder, identity: Identity) -> None:
    """Remove what an upgrade that failed or was killed has left."""
    left = Local(config, Folder(folder.upgrade), identity)
    found = left.find()
    if found is not None:
        left.stop(found, time.monotonic() + _ORDERLY, immediate=True)
    if folder.upgrade.exists():
        shutil.rmtree(folder.upgrade)
    shutil.rmtree(left.folder.socket_folder, ignore_errors=True)


@contextlib.contextmanager
def _running(server: Local, timeout: float) -> Iterator[None]:
    found = server.start(None, None, time.monotonic() + timeout)
    try:
        yield
    finally:
        if not server.stop(found, time.monotonic() + _ORDERLY):
            server.stop(found, time.monotonic() + _ORDERLY, immediate=True)


def _transfer(old: Local, new: Local) -> None:
    """Send what the new version's pg_dumpall writes about the old server to the new one's psql."""
    dump, _ = new.client("pg_dumpall", _params(new))
    _, source = old.client("psql", _params(old))
    restore, target = new.client("psql", _params(new))
    # The superuser is there from the beginning, and making it again would be an error.
    present = sql.SQL("CREATE ROLE {};\n").format(sql.Identifier(new.config.user)).as_bytes()
    bare = f"CREATE ROLE {new.config.user};\n".encode()
    with tempfile.TemporaryFile() as said:
        with (
            subprocess.Popen(  # noqa: S603
                dump, stdout=subprocess.PIPE, stderr=said, env={**environment(), **source}, cwd="/"
            ) as reading,
            subprocess.Popen(  # noqa: S603
                [*restore, "--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1"],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=said,
                env={**environment(), **target},
                cwd="/",
            ) as writing,
        ):
            assert reading.stdout is not None
            assert writing.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                _copy(reading.stdout, writing.stdin, (present, bare))
            reading.stdout.close()
            with contextlib.suppress(BrokenPipeError):
                writing.stdin.close()
        if reading.returncode or writing.returncode:
            said.seek(max(said.seek(0, os.SEEK_END) - 65536, 0))
            lines = said.read().decode("utf-8", "replace").splitlines()[-_SHOWN:]
            raise ServerStartFailed(
                f"The data of the server {old.config.name!r} could not be moved; it is as it was. Repair what the "
                "programs say, and upgrade again:\n" + "\n".join(lines)
            )


def _copy(source: IO[bytes], target: IO[bytes], left_out: tuple[bytes, ...]) -> None:
    in_roles, in_rows = True, False
    for line in source:
        if in_rows:
            in_rows = line != b"\\.\n"
            target.write(line)
            continue
        # The roles come before the databases.
        in_roles = in_roles and not line.startswith(b"\\connect ")
        if not (in_roles and line in left_out):
            target.write(without_stamps(line))
        in_rows = line.startswith(b"COPY ") and line.endswith(b" FROM stdin;\n")


def _params(server: Local) -> dict[str, str | int]:
    found = server.find()
    assert found is not None, "it has just been started"
    password = server.folder.read_password()
    return {"host": found.host, "port": found.port, "user": server.config.user, "password": password}
