"""The development server's configuration, and what else of it needs no server."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import pwd
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from pg_tenants.exceptions import PgTenantsError
from pg_tenants.known_extensions import remedy
from pg_tenants.server import ServerBusy, ServerConfig, ServerConfigError, ServerError, engines, identity
from pg_tenants.server.config import KEYS
from pg_tenants.server.exceptions import EngineUnavailable
from pg_tenants.server.folder import Folder, locate, write_private
from pg_tenants.server.identity import Identity
from pg_tenants.server.initialize import rendered
from pg_tenants.server.lock import acquire, release
from pg_tenants.server.log import since, tail
from pg_tenants.server.status import url


def test_defaults() -> None:
    """Without settings and variables everything has its default, and the port is known not to be given."""
    config = ServerConfig.load(None, {})
    assert config == ServerConfig()
    assert (config.name, config.port, config.user, config.password) == ("default", None, "postgres", "")
    assert (config.version, config.image, config.data, config.engine) == ("", "", None, "")
    assert (dict(config.postgres_conf), config.database) == ({}, "postgres")


def test_keys_are_the_fields() -> None:
    """Each field can be configured by its name."""
    assert set(KEYS) == set(ServerConfig.__dataclass_fields__)


def test_settings() -> None:
    """A mapping gives values, of the types that people write."""
    config = ServerConfig.load(
        {"name": "demo", "port": "7433", "version": 18, "data": "~/x", "engine": "system", "password": "s3"}, {}
    )
    assert (config.name, config.port, config.version, config.engine) == ("demo", 7433, "18", "system")
    assert config.data == Path.home() / "x"


def test_environment_wins() -> None:
    """A variable is before the settings, an option before both, an empty variable counts as none."""
    settings = {"name": "a", "port": 1111, "user": "u"}
    config = ServerConfig.load(settings, {"PGSERVER_NAME": "b", "PGSERVER_PORT": "2222", "PGSERVER_USER": ""})
    assert (config.name, config.port, config.user) == ("b", 2222, "u")
    assert ServerConfig.load(settings, {"PGSERVER_PORT": "2222"}, {"port": 3333, "name": None}).port == 3333


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("NAME", "demo", "demo"),
        ("PORT", "7433", 7433),
        ("USER", "me", "me"),
        ("PASSWORD", "s3", "s3"),
        ("VERSION", "15", "15"),
        ("DATA", "/srv/x", Path("/srv/x")),
        ("ENGINE", "system", "system"),
        ("DATABASE", "app", "app"),
        ("IMAGE", "postgis/postgis:18-3.6", "postgis/postgis:18-3.6"),
        ("SOCKET", "yes", True),
        ("EXTENSIONS", "pg_trgm, hstore,uuid-ossp", ("pg_trgm", "hstore", "uuid-ossp")),
        (
            "POSTGRES_CONF",
            '{"fsync": false, "shared_preload_libraries": ["a", "b"]}',
            {"fsync": "off", "shared_preload_libraries": "a, b"},
        ),
    ],
)
def test_variables(variable: str, value: str, expected: object) -> None:
    """Each key has a variable."""
    assert getattr(ServerConfig.load({}, {f"PGSERVER_{variable}": value}), variable.lower()) == expected


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"prot": 1}, ["'prot'", "'port'"]),
        ({"PORT": 1}, ["'PORT'", "'port'"]),
        ({"pass": "x"}, ["'pass'", "'password'"]),
        ({"zzz": 1}, ["'zzz'", "postgres_conf"]),
        ({"port": 0}, ["PGSERVER['port']", "0", "1 to 65535"]),
        ({"port": True}, ["True"]),
        ({"port": "http"}, ["'http'"]),
        ({"name": "../x"}, ["'../x'", "folder"]),
        ({"name": ""}, ["folder"]),
        ({"user": "pg_me"}, ["'pg_me'"]),
        ({"user": "a\nb"}, ["control"]),
        ({"user": 'a"b'}, ["extensions"]),
        ({"password": "a\nb"}, ["one line"]),
        ({"version": "new"}, ["'new'", "18"]),
        ({"image": "--privileged"}, ["'--privileged'", "container image"]),
        ({"image": "postgres:18", "engine": "system"}, ["'postgres:18'", "'system'", "Leave one"]),
        ({"image": "postgres:18", "socket": True}, ["'socket'", "container"]),
        ({"engine": "docker"}, ["'docker'", "neither 'version' nor 'image'"]),
        ({"engine": "cloud"}, ["'cloud'", "embedded, system, docker, podman"]),
        ({"socket": "perhaps"}, ["'perhaps'", "True"]),
        ({"extensions": ["Pg_trgm"]}, ["'Pg_trgm'", "lower-case"]),
        ({"extensions": 3}, ["3", "list"]),
        ({"postgres_conf": "work_mem=1"}, ["JSON"]),
        ({"postgres_conf": {"unix_socket_permissions": "0777"}}, ["'socket'"]),
        ({"data": 3}, ["3", "folder"]),
        ({"database": "x" * 64}, ["63 bytes"]),
        ({"postgres_conf": ["a"]}, ["mapping"]),
        ({"postgres_conf": {"a b": 1}}, ["'a b'"]),
        ({"postgres_conf": {"work_mem": None}}, ["'work_mem'", "None"]),
        ({"postgres_conf": {"work_mem": "1\n2"}}, ["'work_mem'"]),
        ({"postgres_conf": {"listen_addresses": "*"}}, ["'listen_addresses'", "127.0.0.1"]),
        ({"postgres_conf": {"Port": 1}}, ["key 'port'"]),
    ],
)
def test_errors(settings: dict[str, object], words: list[str]) -> None:
    """A key or value that cannot be used is an error that names it and what to write."""
    with pytest.raises(ServerConfigError) as error:
        ServerConfig.load(settings, {})
    for word in words:
        assert word in str(error.value)
    assert isinstance(error.value, ServerError | PgTenantsError)


def test_errors_of_variables() -> None:
    """A misspelt variable is an error, one that only begins alike is not; a bad value names its variable."""
    with pytest.raises(ServerConfigError, match=r"PGSERVER_PROT is unknown. Did you mean 'PGSERVER_PORT'"):
        ServerConfig.load({}, {"PGSERVER_PROT": "1"})
    ServerConfig.load({}, {"PGSERVER_SOMETHING_ELSE": "1"})
    with pytest.raises(ServerConfigError, match="PGSERVER_PORT is 'x'"):
        ServerConfig.load({}, {"PGSERVER_PORT": "x"})


def test_made_directly() -> None:
    """The constructor checks as well."""
    with pytest.raises(ServerConfigError, match="port"):
        ServerConfig(port=70000)


def test_password_is_not_shown() -> None:
    """Neither the repr nor an error shows the password."""
    assert "s3cret" not in repr(ServerConfig(password="s3cret"))
    with pytest.raises(ServerConfigError) as error:
        ServerConfig(password="s3cret\n")
    assert "s3cret" not in str(error.value)


def test_config_is_a_value() -> None:
    """Configurations compare, hash and travel to other processes."""
    config = ServerConfig(postgres_conf={"work_mem": "1MB"})
    assert pickle.loads(pickle.dumps(config)) == config
    assert hash(config) == hash(ServerConfig(postgres_conf={"work_mem": "1MB"}))


def test_settings_file() -> None:
    """Settings are written so that PostgreSQL reads the same values; ours come first and can be overridden."""
    settings: dict[str, Any] = {
        "shared_preload_libraries": ["pg_stat_statements", "auto_explain"],
        "fsync": False,
        "max_connections": 20,
        "application_name": r"it's a \ slash",
        "synchronous_commit": True,
    }
    text = rendered(ServerConfig(postgres_conf=settings).postgres_conf)
    assert "shared_preload_libraries = 'pg_stat_statements, auto_explain'\n" in text
    assert "fsync = 'off'\n" in text
    assert "max_connections = '20'\n" in text
    assert r"application_name = 'it''s a \\ slash'" in text
    assert "max_locks_per_transaction = '1024'\n" in text
    assert text.count("synchronous_commit") == 1
    assert "synchronous_commit = 'on'" in text


def test_url_quotes() -> None:
    """What is special in a URL is quoted."""
    config = ServerConfig(user="a:b@c", database="d/e f")
    assert url(config, "127.0.0.1", 1, password="p@/:?é") == (
        "postgresql://a%3Ab%40c:p%40%2F%3A%3F%C3%A9@127.0.0.1:1/d%2Fe%20f"
    )
    assert url(config, "127.0.0.1", 1, "x") == "postgresql://a%3Ab%40c@127.0.0.1:1/x"


def _program(folder: Path, version: str) -> None:
    folder.mkdir(parents=True)
    for name in ("postgres", "initdb"):
        (folder / name).write_text(f"#!/bin/sh\necho 'postgres (PostgreSQL) {version}'\n")
        (folder / name).chmod(0o755)


def test_pick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Installed programs are chosen by version, the newest first; what there is stands in the error."""
    for version in ("9.6.24", "15.3 (Debian 15.3-1)", "16.2"):
        _program(tmp_path / version.split()[0] / "bin", version)
    monkeypatch.setattr(engines, "_SYSTEM_FOLDERS", ((tmp_path, "*/bin"),))
    monkeypatch.setattr(engines.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", "/nowhere")
    assert engines.pick(ServerConfig()).version == "16.2"
    assert engines.pick(ServerConfig(version="15")).version == "15.3"
    assert engines.pick(ServerConfig(version="15.3")).command("psql", "-l")[1:] == ["-l"]
    for config in (ServerConfig(version="15.4"), ServerConfig(version="1"), ServerConfig(engine="embedded")):
        with pytest.raises(EngineUnavailable, match=r"16\.2 \(system.*15\.3.*pip install"):
            engines.pick(config)


def test_programs_on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The programs beside a pg_ctl on the PATH are found, through links."""
    _program(tmp_path / "pg" / "bin", "17.1")
    _program(tmp_path / "link", "0")
    (tmp_path / "pg" / "bin" / "pg_ctl").write_text("#!/bin/sh\n")
    (tmp_path / "pg" / "bin" / "pg_ctl").chmod(0o755)
    (tmp_path / "link" / "pg_ctl").symlink_to(tmp_path / "pg" / "bin" / "pg_ctl")
    monkeypatch.setattr(engines, "_SYSTEM_FOLDERS", ())
    monkeypatch.setattr(engines.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", str(tmp_path / "link"))
    assert engines.pick(ServerConfig()).version == "17.1"


def test_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The default folder is the user's, or a temporary one where that cannot be; looking makes nothing."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "xdg"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    config = ServerConfig(name="x")
    assert locate(config, Identity()).path == tmp_path / "xdg" / "pg_tenants" / "servers" / "x"
    monkeypatch.setenv("XDG_DATA_HOME", "/dev/null/none")
    assert locate(config, Identity()).path == tmp_path / "tmp" / f"pg_tenants-{os.geteuid()}" / "servers" / "x"
    assert list(tmp_path.iterdir()) == []
    assert locate(ServerConfig(data=tmp_path), Identity()).path == tmp_path


def test_may_reach(tmp_path: Path) -> None:
    """Another user may get only where the folders above allow it."""
    open_folder, closed = tmp_path / "open", tmp_path / "closed"
    open_folder.mkdir(mode=0o711)
    closed.mkdir(mode=0o700)
    stranger = Identity(uid=54321, gid=54321)
    assert not stranger.may_reach(closed / "new")
    assert Identity().may_reach(closed / "new")
    assert stranger.may_reach(Path("/usr/new"))


def test_private_files(tmp_path: Path) -> None:
    """Only the owner reads a private file, whatever the umask, and it is replaced at once."""
    before = os.umask(0)
    try:
        write_private(tmp_path / "x", "one")
        write_private(tmp_path / "x", "two")
    finally:
        os.umask(before)
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "x").read_text() == "two"
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_broken_state(tmp_path: Path) -> None:
    """A damaged memory of the last start is as good as none."""
    for text in ("", "{", "[]", '{"engine": 1}'):
        (tmp_path / "state.json").write_text(text)
        assert Folder(tmp_path).read_state() is None


def test_log(tmp_path: Path) -> None:
    """The end of a log is read without the rest, also after a new file began."""
    path = tmp_path / "log"
    assert tail(path, 3) == []
    path.write_text("".join(f"{number}\n" for number in range(50_000)))
    assert tail(path, 2) == ["49998", "49999"]
    assert tail(path, 0) == []
    path.write_text("new\n")
    assert since(path, 1000) == ["new"]


def _hold(path: Path, held: Any) -> None:
    acquire(path, time.monotonic() + 5)
    held.set()
    time.sleep(60)


def test_lock(tmp_path: Path) -> None:
    """Processes and threads exclude each other; the error names the holder, whose death ends the lock."""
    path = tmp_path / "lock"
    context = multiprocessing.get_context("spawn")
    held = context.Event()
    process = context.Process(target=_hold, args=(path, held))
    process.start()
    try:
        assert held.wait(20)
        with pytest.raises(ServerBusy, match=rf"pid {process.pid}"):
            acquire(path, time.monotonic() + 0.05)
    finally:
        process.kill()
        process.join()
    release(acquire(path, time.monotonic() + 5))
    inside: list[int] = []
    most: list[int] = []

    def work() -> None:
        for _ in range(10):
            handle = acquire(path, time.monotonic() + 10)
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.0005)
            inside.pop()
            release(handle)

    threads = [threading.Thread(target=work) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) == 1
    assert len(most) == 50


def test_lock_that_was_removed(tmp_path: Path) -> None:
    """Who waited for a lock whose file was removed meanwhile takes the new one."""
    path = tmp_path / "lock"
    first = acquire(path, time.monotonic() + 5)
    path.unlink()
    second = acquire(path, time.monotonic() + 5)
    release(first)
    with pytest.raises(ServerBusy):
        acquire(path, time.monotonic() + 0.02)
    release(second)


@pytest.mark.parametrize(
    ("euid", "known", "unshare", "expected"),
    [
        (1000, [0, 1000], True, (None, None)),
        (0, [0, 1, 1000, 65534], True, ("--map-user=1000", None)),
        (0, [0, 65534, 7], True, ("--map-user=7", None)),
        (0, [0, 65534], False, (None, 65534)),
        (0, [0], False, (None, 65534)),
        (12345, [0, 7], True, ("--map-user=7", None)),
        (12345, [0, 7], False, (None, None)),
    ],
)
def test_identity(
    monkeypatch: pytest.MonkeyPatch, euid: int, known: list[int], unshare: bool, expected: tuple[Any, Any]
) -> None:
    """Root, and a user whom /etc/passwd does not know, take the number of one whom it knows, or become one."""
    entries = {uid: pwd.struct_passwd(("x" if uid != 65534 else "nobody", "", uid, uid, "", "", "")) for uid in known}
    monkeypatch.setattr(identity.os, "geteuid", lambda: euid)
    monkeypatch.setattr(identity.pwd, "getpwuid", entries.__getitem__)
    monkeypatch.setattr(identity.pwd, "getpwall", lambda: list(entries.values()))
    monkeypatch.setattr(identity.pwd, "getpwnam", lambda name: {e.pw_name: e for e in entries.values()}[name])
    monkeypatch.setattr(identity, "_works", lambda prefix: unshare)
    identity._ordinary_uid.cache_clear()
    found = identity.current()
    identity._ordinary_uid.cache_clear()
    assert (found.prefix[2] if found.prefix else None, found.uid) == expected


@pytest.mark.parametrize(
    ("name", "package", "image"),
    [
        ("pgcrypto", "postgresql-contrib", "postgres:17"),
        ("pg_cron", "postgresql-17-cron", ""),
        ("vector", "postgresql-17-pgvector", "pgvector/pgvector:pg17"),
        ("timescaledb", "", "timescale/timescaledb:latest-pg17"),
    ],
)
def test_where_an_extension_is_to_be_had(name: str, package: str, image: str) -> None:
    """The package and the image are named as far as they are known."""
    words = f"install the package {package} on the server" if package else ""
    words += ", or " if package and image else ""
    words += f"use a server image that has it, such as {image}" if image else ""
    assert remedy(name, "17").lower() == words
    assert remedy(name, "17")[0].isupper()
    assert remedy("zzz", "17") == "Install the package that has it on the server, or use a server image that does"


def test_preloaded_by_extensions() -> None:
    """An extension that has to be preloaded is, once, beside the libraries that are given."""
    given = {"shared_preload_libraries": ["auto_explain", "pg_stat_statements"], "work_mem": "1MB"}
    config = ServerConfig(postgres_conf=given, extensions=("pg_trgm", "pg_stat_statements", "pg_cron"))
    assert config.all_settings["shared_preload_libraries"] == "auto_explain, pg_stat_statements, pg_cron"
    assert config.all_settings["work_mem"] == "1MB"
    assert ServerConfig(extensions=("pg_trgm",)).all_settings == {}


def test_picking_containers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An image takes the first container engine that answers, a version one only where there are no programs of it."""
    for name, status in (("docker", 1), ("podman", 0)):
        (tmp_path / name).write_text(f"#!/bin/sh\necho it is down >&2\nexit {status}\n")
        (tmp_path / name).chmod(0o755)
    _program(tmp_path / "16" / "bin", "16.2")
    monkeypatch.setattr(engines, "_SYSTEM_FOLDERS", ((tmp_path, "*/bin"),))
    monkeypatch.setattr(engines.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", str(tmp_path) + ":/usr/bin:/bin")
    assert engines.pick(ServerConfig(version="16")).name == "system"
    for config, image in (
        (ServerConfig(version="17"), "postgres:17"),
        (ServerConfig(image="postgis/postgis"), "postgis/postgis"),
        (ServerConfig(image="postgis/postgis", version="16"), "postgis/postgis"),
        (ServerConfig(engine="podman", version="16"), "postgres:16"),
    ):
        engine = engines.pick(config)
        assert (engine.name, engine.place) == ("podman", image)
    with pytest.raises(EngineUnavailable, match=r"docker does not work \(it is down\)"):
        engines.pick(ServerConfig(engine="docker", version="16"))
    (tmp_path / "podman").unlink()
    with pytest.raises(EngineUnavailable, match=r"it is down\); podman is not installed. Install and start"):
        engines.pick(ServerConfig(image="x"))
    with pytest.raises(EngineUnavailable, match=r"no programs of PostgreSQL 17 .*16\.2.* No container"):
        engines.pick(ServerConfig(version="17"))
