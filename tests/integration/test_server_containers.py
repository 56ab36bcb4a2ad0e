"""The development server in containers: docker and podman are a stand-in that runs a real PostgreSQL."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pg_tenants.server import (
    DataFolderError,
    EngineUnavailable,
    PortTaken,
    Server,
    ServerConfig,
    ServerConfigError,
    ServerStartFailed,
    Status,
)
from tests.fix_server import ROOT, needs_15, needs_embedded, wait_for

REAL_DOCKER = shutil.which("docker")

pytestmark = needs_embedded


class Engine:
    """The stand-in's folder, and the server of the test."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.home = base / "engine"
        self.folder = base / "sérver 'a' $x"

    def server(self, **keys: Any) -> Server:
        return Server(ServerConfig(**{"data": self.folder, "engine": "docker", "version": "18", **keys}))

    @property
    def calls(self) -> list[list[str]]:
        return [json.loads(line) for line in (self.home / "calls.jsonl").read_text().splitlines()]

    def call(self, name: str) -> list[str]:
        """Return the only call of a command."""
        (call,) = [call for call in self.calls if call[0] == name]
        return call


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    """A docker and a podman on the PATH that are the stand-in."""
    base = Path(tempfile.mkdtemp(prefix="pgc-"))
    base.chmod(0o711)
    (base / "bin").mkdir()
    for name in ("docker", "podman"):
        script = f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -S {ROOT}/tests/stand_in_docker.py "$@"\n'
        (base / "bin" / name).write_text(script)
        (base / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{base / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("STAND_IN_DOCKER", str(base / "engine"))
    made = Engine(base)
    yield made
    (base / "engine" / "down").unlink(missing_ok=True)
    if (base / "engine" / "containers").exists():
        for container in (base / "engine" / "containers").iterdir():
            subprocess.run(["docker", "rm", "--force", "--volumes", container.name], check=True)
    shutil.rmtree(base)


def query(server: Server, statement: str) -> Any:
    with psycopg.connect(server.url()) as connection:
        row = connection.execute(statement).fetchone()
        assert row is not None
        return row[0]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def kill(status: Status) -> None:
    assert status.pid
    os.kill(status.pid, signal.SIGKILL)


def call(engine: Engine, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(engine, *arguments), cwd=ROOT, capture_output=True, text=True, timeout=60, **options)


def command(engine: Engine, *arguments: str) -> list[str]:
    words = [sys.executable, "-m", "pg_tenants.server", "--data", str(engine.folder), "--engine", "docker"]
    return [*words, "--pg-version", "18", *arguments]


def understood_by_docker(calls: list[list[str]], docker: str) -> None:
    """Let docker's own program parse the calls; no daemon is asked."""
    two = ("container", "image", "volume")
    kinds = {" ".join(call[: 2 if call[0] in two else 1]): call for call in calls}
    assert kinds.keys() >= {"ps", "image inspect", "pull", "container inspect", "run", "exec", "logs", "stop", "rm"}
    assert kinds.keys() >= {"volume create", "volume inspect", "volume rm"}
    for words in kinds.values():
        done = subprocess.run(
            [docker, "--host", "tcp://127.0.0.1:1", *words], capture_output=True, text=True, timeout=20, check=False
        )
        assert done.returncode
        assert "Cannot connect to the Docker daemon" in done.stderr, (words, done.stderr)


@pytest.mark.parametrize(
    ("name", "version"),
    [("docker", "18"), pytest.param("podman", "15", marks=needs_15)],
    ids=["docker-18", "podman-15"],
)
def test_life(engine: Engine, name: str, version: str) -> None:
    """A container is run, is ready by a query, is described, stops, keeps its data in a volume, and is erased."""
    port = free_port()
    conf = {"work_mem": "5MB", "shared_preload_libraries": ["auto_explain", "pg_stat_statements"]}
    server = engine.server(engine=name, version=version, port=port, postgres_conf=conf, extensions=["citext"])
    assert server.status().state == "stopped"
    status = server.up()
    assert (status.running, status.engine, status.image) == (True, name, f"postgres:{version}")
    assert status.version.split(".")[0] == version
    assert (status.host, status.port, status.restart_needed) == ("127.0.0.1", port, ())
    assert abs((status.started or 0) - time.time()) < 60
    volume = status.data
    assert isinstance(volume, str)
    assert volume.startswith("pg_tenants-default-")
    assert str(volume) in str(status.log)

    assert query(server, "SHOW work_mem") == "5MB"
    assert query(server, "SHOW max_locks_per_transaction") == "1024"
    assert query(server, "SHOW shared_preload_libraries") == "auto_explain, pg_stat_statements"
    assert query(server, "SHOW server_encoding") == "UTF8"
    assert "citext" in server.extensions()["installed"]
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(server.url(password=False), password="postgres")

    run = engine.call("run")
    for words in (
        ["--publish", f"127.0.0.1:{port}:5432"],
        ["--volume", f"{volume}:/var/lib/pg_tenants"],
        ["--label", f"pg_tenants.folder={engine.folder}"],
        ["--env", "POSTGRES_PASSWORD"],
        ["-c", "work_mem=5MB"],
    ):
        assert any(run[index : index + 2] == words for index in range(len(run))), words
    assert engine.call("pull") == ["pull", f"postgres:{version}"]
    password = server.password_path.read_text()
    assert server.password_path.stat().st_mode & 0o777 == 0o600
    assert password not in json.dumps(engine.calls)
    assert password not in (engine.home / "containers" / volume / "log").read_text()

    # As in a new process, and without a start.
    again = engine.server(engine=name, version=version, port=port, postgres_conf=conf, extensions=["citext"])
    assert again.start() == (again.status(), False)
    subprocess.run([*server.client("psql")[0], "-c", "CREATE TABLE kept AS SELECT 42 AS x"], check=True)
    assert server.down().state == "stopped"
    assert server.down().state == "stopped"
    assert "shut down" in list(server.runtime.log_follow(0, lambda: True))[-1]
    assert server.up().running
    assert query(server, "SELECT x FROM kept") == 42
    if name == "podman":
        server.down()
        other = engine.server(engine=name, version="18")
        with pytest.raises(
            DataFolderError, match=r"another major version.*initialized by PostgreSQL version 15.*erase"
        ):
            other.up()
    server.erase()
    assert not engine.folder.exists()
    assert [list((engine.home / kind).iterdir()) for kind in ("containers", "volumes")] == [[], []]
    if REAL_DOCKER is not None:
        understood_by_docker(engine.calls, REAL_DOCKER)


def test_image(engine: Engine) -> None:
    """An image is enough, and comes before a version; another one than that of the running server is told of."""
    image = "registry.example.com/team/pg:stable"
    server = engine.server(engine="", version="15", image=image)
    status = server.up()
    assert (status.engine, status.image, status.restart_needed) == ("docker", image, ())
    with pytest.raises(ServerConfigError, match="with another image than configured"):
        engine.server(engine="", image="postgres:18").up()
    # What is not said is as it is.
    assert Server(ServerConfig(data=engine.folder)).up().pid == status.pid


def test_a_version_without_programs(engine: Engine) -> None:
    """A version that is not on this machine takes a container; its data stays there."""
    (engine.home / "down").parent.mkdir()
    (engine.home / "down").touch()
    with pytest.raises(
        EngineUnavailable, match=r"Found: .*No container .*'postgres:9.6'.*docker does not work \(Cannot"
    ):
        engine.server(engine="", version="9.6").up()
    (engine.home / "down").unlink()
    with pytest.raises(EngineUnavailable, match=r"The image 'postgres:9.6' cannot be had: .*manifest unknown.*Correct"):
        engine.server(engine="", version="9.6").up()


def test_the_engine_does_not_answer_or_has_a_strangers_container(engine: Engine) -> None:
    """A daemon that is down is an error with its words; a container that is not ours is neither stopped nor removed."""
    server = engine.server()
    server.up()
    (engine.home / "down").touch()
    for action in (server.status, server.down, server.erase, server.up):
        with pytest.raises(EngineUnavailable, match=r"Cannot connect to the Docker daemon.*Start docker"):
            action()
    (engine.home / "down").unlink()
    assert server.up().running

    (made,) = (engine.home / "containers").glob("*/made.json")
    values = json.loads(made.read_text())
    made.write_text(json.dumps({**values, "labels": {}}))
    for action in (server.down, server.erase, server.up):
        with pytest.raises(DataFolderError, match="belongs to somebody else"):
            action()
    made.write_text(json.dumps(values))
    assert server.status().running


def test_data_elsewhere(engine: Engine) -> None:
    """The engine cannot be changed over data that it does not have."""
    server = engine.server()
    server.up()
    server.down()
    with pytest.raises(DataFolderError, match=r"in a volume of 'docker', and the engine is 'embedded' now"):
        engine.server(engine="embedded").up()
    server.erase()
    with engine.server(engine="embedded"):
        pass
    with pytest.raises(DataFolderError, match=r"is in the folder .* engine 'docker' keeps it in a volume"):
        server.up()
    engine.server(engine="embedded").erase()


def test_bad_settings(engine: Engine) -> None:
    """A setting or library that PostgreSQL refuses is an error in its own words, mended by the next start."""
    for conf, words in (
        ({"wrok_mem": "5MB"}, 'unrecognized configuration parameter "wrok_mem"'),
        ({"shared_preload_libraries": ["nope"]}, 'could not access file "nope"'),
    ):
        with pytest.raises(ServerStartFailed, match=words):
            engine.server(postgres_conf=conf).up()
    assert engine.server().up().running


def test_port_taken(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A given port that is taken, also at the last moment, is an error; the usual one gives way to a free one."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        with pytest.raises(PortTaken, match=rf"{taken}.*taken by pid {os.getpid()}"):
            engine.server(port=taken).up()
        answers = iter([False, False, True])
        monkeypatch.setattr("pg_tenants.server.ports.is_taken", lambda port: next(answers))
        monkeypatch.setattr("pg_tenants.server.runtime.DEFAULT_PORT", taken)
        with pytest.raises(PortTaken, match=f"{taken}"):
            engine.server(port=taken).up()
        assert engine.server().up().port != taken


def test_user_and_password(engine: Engine) -> None:
    """A given user and password are those of the server; others are set by a restart, on the data that is there."""
    first = engine.server(user="ann", password="p'w$d\\ é", database="app é")
    first.up()
    assert query(first, "SELECT current_user || current_database()") == "annapp é"
    second = engine.server(user="bob", password="o'ther")
    with pytest.raises(ServerConfigError, match=r"another user and password"):
        second.up()
    second.restart()
    assert query(second, "SELECT usesuper FROM pg_user WHERE usename = 'bob'") is True
    log = "\n".join(second.runtime.log_tail(1000))
    assert "o'ther" not in log
    assert "o''ther" not in log
    second.password_path.unlink()
    third = engine.server(user="bob")
    third.restart()
    assert query(third, "SELECT 1") == 1


def test_killed(engine: Engine) -> None:
    """After kill -9 of the server it is seen as stopped, and started again with its data."""
    server = engine.server()
    status = server.up()
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute("SET synchronous_commit = on")
        connection.execute("CREATE TABLE kept AS SELECT 42 AS x")
    kill(status)
    wait_for(lambda: server.status().state == "stopped")
    assert server.runtime.crashed()
    assert server.up().running
    assert query(server, "SELECT x FROM kept") == 42


def test_starter_killed(engine: Engine) -> None:
    """A start that loses its starter goes on, and the next one finds it."""
    runs = engine.home / "containers"
    with subprocess.Popen(command(engine, "up", "--detach"), cwd=ROOT, stdout=subprocess.DEVNULL) as starter:
        wait_for(lambda: list(runs.glob("*/supervisor.json")))
        starter.kill()
    server = engine.server()
    assert server.up().running
    assert query(server, "SELECT 1") == 1
    assert len([call for call in engine.calls if call[0] == "run"]) == 1


def test_command_line(engine: Engine) -> None:
    """The commands work on a container as on processes."""
    with subprocess.Popen(command(engine, "up"), cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines: list[str] = []
        for line in process.stdout:
            lines.append(line)
            if "ready to accept connections" in line:
                break
        values = json.loads(call(engine, "status", "--json", check=True).stdout)
        assert {"engine", "version", "pid", "host", "port", "data", "url"} <= values.keys()
        assert (values["engine"], values["image"], values["running"]) == ("docker", "postgres:18", True)
        assert call(engine, "psql", "--", "-Atc", "SELECT 6*7", check=True).stdout == "42\n"
        assert "extensions available:" in call(engine, "info", check=True).stdout
        process.send_signal(signal.SIGINT)
        lines += process.stdout
        assert process.wait(20) == 0
    assert "database system is shut down" in "".join(lines)
    assert "database system is shut down" in call(engine, "logs", "-n", "3", check=True).stdout
    assert call(engine, "status").returncode == 3
