"""A real PgBouncer in transaction mode, in front of the run's server."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.fix_alias import default_alias

PROGRAM = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin:/usr/local/sbin")


class PgBouncer:
    """PgBouncer in front of one database.

    Args:
        params: how psycopg connects to the server.
        pool_size: how many server connections it has.
        more: other settings of its section ``[pgbouncer]``, which override those here.
    """

    def __init__(self, params: dict[str, Any], *, pool_size: int = 2, **more: str):
        assert PROGRAM is not None
        self.folder = Path(tempfile.mkdtemp(prefix="pgbouncer-"))
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port: int = probe.getsockname()[1]
        users = self.folder / "users.txt"
        users.write_text(f'"{params["user"]}" "{params["password"]}"\n')
        config = self.folder / "pgbouncer.ini"
        config.write_text(
            f"[databases]\n* = host={params['host']} port={params['port']}\n[pgbouncer]\n"
            f"listen_addr=127.0.0.1\nlisten_port={self.port}\nunix_socket_dir=\nauth_type=scram-sha-256\n"
            f"auth_file={users}\npool_mode=transaction\ndefault_pool_size={pool_size}\nmax_client_conn=500\n"
            "ignore_startup_parameters=extra_float_digits\nlog_connections=0\nlog_disconnections=0\n"
            + "".join(f"{key}={value}\n" for key, value in more.items())
        )
        self.params = {**params, "host": "127.0.0.1", "port": self.port}
        # It refuses to run as root, and reads its files before nothing else.
        identity: dict[str, Any] = {}
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            identity = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
            for path in (self.folder, users, config):
                os.chown(path, nobody.pw_uid, nobody.pw_gid)
        self.log = (self.folder / "log").open("wb")
        self.process = subprocess.Popen([PROGRAM, str(config)], stderr=self.log, stdout=self.log, **identity)
        self._wait()

    def _wait(self) -> None:
        deadline = time.monotonic() + 10
        while True:
            try:
                psycopg.connect(**self.params, connect_timeout=2).close()
                return
            except psycopg.OperationalError:
                if time.monotonic() > deadline or self.process.poll() is not None:
                    raise
                time.sleep(0.05)

    def stop(self) -> None:
        """Stop it and remove its files."""
        self.process.terminate()
        self.process.wait(10)
        self.log.close()
        shutil.rmtree(self.folder)


@pytest.fixture(scope="session")
def pgbouncer_factory(server_params: dict[str, Any]) -> Iterator[Callable[..., PgBouncer]]:
    """Return a function that starts a PgBouncer in front of the test database."""
    if PROGRAM is None:
        pytest.skip("PgBouncer is not installed (Debian's package pgbouncer)")
    started: list[PgBouncer] = []

    def start(**options: Any) -> PgBouncer:
        started.append(PgBouncer(server_params, **options))
        return started[-1]

    yield start
    for bouncer in started:
        bouncer.stop()


@pytest.fixture
def through_pgbouncer(open_db: None, pgbouncer_factory: Callable[..., PgBouncer]) -> Iterator[PgBouncer]:
    """Lead Django's default alias through PgBouncer in transaction mode, with two server connections."""
    bouncer = pgbouncer_factory()
    with default_alias(bouncer.params, bouncer.port):
        yield bouncer
