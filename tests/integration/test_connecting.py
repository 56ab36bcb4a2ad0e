"""Connecting: again where it may pass, with the password of the moment, by TLS, and never showing the password."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from django.db import DatabaseError, OperationalError, connections
from psycopg import sql

from pg_tenants.databases import PasswordFile
from pg_tenants.server import Server, ServerConfig
from tests.fix_wire import Wire

PROGRAMS = Path("/usr/lib/postgresql/15/bin")


def one(alias: Any, query: str = "SELECT 1") -> Any:
    with alias.cursor() as cursor:
        cursor.execute(query)
        return cursor.fetchone()[0]


# -- again ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def late(server_params: dict[str, Any]) -> Iterator[Any]:
    """Return how to connect to a port that leads to the server half a second later."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    there: list[Wire] = []
    timer = threading.Timer(
        0.5, lambda: there.append(Wire((str(server_params["host"]), int(server_params["port"])), port=port))
    )
    timer.start()
    yield {**server_params, "host": "127.0.0.1", "port": port}
    timer.join()
    there[0].close()


def test_a_server_that_comes_up_late(late: dict[str, Any], make_alias: Any) -> None:
    """Attempts go on until one succeeds; without the setting the first one's error is raised."""
    with pytest.raises(OperationalError, match="No PostgreSQL answers"):
        one(make_alias("once", params=late))
    retry = {"attempts": 20, "delay": 0.1, "backoff": 1, "max_delay": 0.2}
    assert one(make_alias("again", params=late, tenants={"retry": retry})) == 1


def test_attempts_end(make_alias: Any, server_params: dict[str, Any]) -> None:
    """After the last one its error is raised, with the pauses that were asked for."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    alias = make_alias(
        "nowhere",
        params={**server_params, "port": port},
        tenants={"retry": {"attempts": 3, "delay": 0.1, "backoff": 2.0}},
    )
    started = time.monotonic()
    with pytest.raises(OperationalError, match="No PostgreSQL answers"):
        one(alias)
    assert 0.3 <= time.monotonic() - started < 5


def test_what_will_not_pass_is_not_tried_again(make_alias: Any, server_params: dict[str, Any]) -> None:
    """A wrong password, a missing database."""
    for name, wrong in (("one", {"password": "hunter2"}), ("two", {"dbname": "nowhere"})):
        alias = make_alias(name, params={**server_params, **wrong}, tenants={"retry": {"delay": 5}})
        started = time.monotonic()
        with pytest.raises(OperationalError):
            one(alias)
        assert time.monotonic() - started < 3


# -- the password -----------------------------------------------------------------------------------------------------


@pytest.fixture
def rotating(raw: Any, server_params: dict[str, Any]) -> Iterator[Any]:
    """Return a role whose password a function changes, and the parameters to connect as it."""
    # Roles are the whole server's, so each worker of the test run has its own.
    role = f"rotating_{os.getpid()}"
    name = sql.Identifier(role)
    raw.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(name))
    raw.execute(sql.SQL("CREATE ROLE {} LOGIN").format(name))

    def change(password: str) -> None:
        raw.execute(sql.SQL("ALTER ROLE {} PASSWORD {}").format(name, sql.Literal(password)))

    yield {**server_params, "user": role}, change
    raw.execute(sql.SQL("DROP ROLE {}").format(name))


@pytest.mark.parametrize("pool", [False, True])
def test_a_password_that_changes_between_connections(
    rotating: Any, make_alias: Any, tmp_path: Path, pool: bool
) -> None:
    """It is read from its file at each connection, in a pool as well, and no restart is needed."""
    params, change = rotating
    file = tmp_path / "password"
    options = {"pool": {"min_size": 0, "max_size": 2, "timeout": 5}} if pool else {}
    alias = make_alias("rotating", params={**params, "password": PasswordFile(file)}, tenants={}, **options)
    alias.settings_dict["CONN_HEALTH_CHECKS"] = True
    for password in ("first", "second"):
        change(password)
        file.write_text(f"{password}\n")
        assert one(alias) == 1
        alias.close()
        if pool:
            # Its connections are ended, as by a restart of the server.
            for connection in list(alias.pool._pool):
                connection.close()


def test_a_callable(rotating: Any, make_alias: Any) -> None:
    """Any callable will do."""
    params, change = rotating
    change("first")
    assert one(make_alias("callable", params={**params, "password": lambda: "first"})) == 1


@pytest.mark.parametrize("pool", [False, True])
def test_a_password_is_never_shown(make_alias: Any, server_params: dict[str, Any], pool: bool) -> None:
    """Neither in the message, nor in the traceback with its causes, nor in what a connection prints."""
    options = {"pool": {"min_size": 0, "max_size": 1, "timeout": 1}} if pool else {}
    alias = make_alias("wrong", params={**server_params, "password": "hunter2"}, tenants={}, **options)
    with pytest.raises(DatabaseError) as caught:
        one(alias)
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))
    assert "hunter2" not in repr(alias)


def test_a_bad_password_file(tmp_path: Path) -> None:
    """The error names the file, and not what is in it."""
    from pg_tenants.exceptions import ConfigurationError

    file = tmp_path / "password"
    with pytest.raises(ConfigurationError, match="No such file"):
        PasswordFile(file)()
    file.write_bytes(b"hunter2\xff")
    with pytest.raises(ConfigurationError, match="not UTF-8") as caught:
        PasswordFile(file)()
    assert "hunter2" not in "".join(traceback.format_exception(caught.value, limit=0))
    file.write_text("")
    with pytest.raises(ConfigurationError, match="is empty"):
        PasswordFile(file)()


# -- TLS --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a CA, a server's certificate for `localhost`, and a client's for the role `ada`."""
    if not shutil.which("openssl"):
        pytest.skip("openssl is not installed")
    folder = tmp_path_factory.mktemp("tls")

    def openssl(*args: str) -> None:
        subprocess.run(["openssl", *args], cwd=folder, check=True, capture_output=True)

    new = ("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")
    for name in ("ca", "other"):
        openssl(*new, "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.pem")
    for name, subject in (("server", "localhost"), ("client", "ada")):
        request = ("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
        openssl(*request, "-subj", f"/CN={subject}", "-keyout", f"{name}.key", "-out", f"{name}.csr")
        (folder / "names").write_text(f"subjectAltName=DNS:{subject}\n")
        signed = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "names")
        openssl("x509", "-req", "-in", f"{name}.csr", *signed, "-out", f"{name}.pem")
    for key in folder.glob("*.key"):
        key.chmod(0o600)
    return folder


@pytest.fixture(scope="module")
def tls_server(certificates: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """Start Debian's PostgreSQL 15, which can do TLS, and return how to connect to it."""
    if not (PROGRAMS / "postgres").exists():
        pytest.skip("PostgreSQL 15 of Debian is not installed")
    conf = {
        "fsync": "off",
        "ssl": "on",
        "ssl_ca_file": str(certificates / "ca.pem"),
        "ssl_cert_file": str(certificates / "server.pem"),
        "ssl_key_file": str(certificates / "server.key"),
    }
    data = tmp_path_factory.mktemp("tls-server") / "data"
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    config = ServerConfig.load(
        {"name": "tls", "data": str(data), "engine": "system", "version": "15", "port": port, "postgres_conf": conf},
        environ={},
    )
    server = Server(config)
    server.up()
    params = server.connection_params()
    with psycopg.connect(**params, dbname="postgres", autocommit=True) as connection:  # type: ignore[arg-type]
        connection.execute("CREATE ROLE ada LOGIN PASSWORD 'secret'")
    yield {**params, "dbname": "postgres"}
    server.erase()


def entry(params: dict[str, Any], **fields: Any) -> dict[str, Any]:
    from pg_tenants.conf import database

    url = f"postgresql://{params['user']}@localhost:{params['port']}/postgres"
    return database(url, password=params["password"], hostaddr="127.0.0.1", **fields)


@pytest.fixture
def connect(django_db_blocker: Any) -> Iterator[Any]:
    """Return a function that says whether a connection by an entry of DATABASES is encrypted."""

    def is_encrypted(settings: dict[str, Any]) -> bool:
        connections.settings["tls"] = connections.configure_settings({"tls": settings, "default": {}})["tls"]
        alias = connections["tls"]
        try:
            with django_db_blocker.unblock():
                return bool(one(alias, "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"))
        finally:
            alias.close()
            del connections["tls"]
            del connections.settings["tls"]

    return is_encrypted


def test_tls_modes(tls_server: dict[str, Any], certificates: Path, connect: Any) -> None:
    """`require` encrypts; `verify-ca` and `verify-full` want the right CA, the last the right host as well."""
    ca, other = str(certificates / "ca.pem"), str(certificates / "other.pem")
    assert connect(entry(tls_server, ssl_enabled=False)) is False
    assert connect(entry(tls_server, ssl_mode="require")) is True
    assert connect(entry(tls_server, ssl_enabled=True, ssl_ca_file=ca)) is True
    for mode in ("verify-ca", "verify-full"):
        assert connect(entry(tls_server, ssl_mode=mode, ssl_ca_file=ca)) is True
        with pytest.raises(OperationalError, match="Check sslmode, sslrootcert"):
            connect(entry(tls_server, ssl_mode=mode, ssl_ca_file=other))
    # The certificate is for localhost.
    by_address = {**entry(tls_server, ssl_mode="verify-full", ssl_ca_file=ca), "HOST": "127.0.0.1"}
    with pytest.raises(OperationalError, match="does not match host name"):
        connect(by_address)


def test_a_clients_certificate(tls_server: dict[str, Any], certificates: Path, connect: Any) -> None:
    """With its key it is sent; a key that does not belong to it is an error."""
    files = {"ssl_ca_file": str(certificates / "ca.pem"), "ssl_cert_file": str(certificates / "client.pem")}
    assert connect(entry(tls_server, **files, ssl_key_file=str(certificates / "client.key"))) is True
    with pytest.raises(OperationalError, match="Check sslmode"):
        connect(entry(tls_server, **files, ssl_key_file=str(certificates / "server.key")))
