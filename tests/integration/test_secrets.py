"""Passwords are in no error, no log and no repr, whatever fails while connecting, and by whichever way."""

from __future__ import annotations

import asyncio
import logging
import socket
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from django.core.checks import run_checks
from django.db import DatabaseError
from django.test import override_settings

from pg_tenants import checks, conf, sql
from pg_tenants.databases import PasswordFile
from pg_tenants.exceptions import ConfigurationError, ServerError
from pg_tenants.server import ServerConfig, session

SECRET = "hunter2"


def unused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


FAILURES: dict[str, Callable[[], dict[str, Any]]] = {
    "password": dict,
    "refused": lambda: {"host": "127.0.0.1", "port": unused_port()},
    "unknown host": lambda: {"host": "nowhere.invalid"},
    "no database": lambda: {"dbname": "nowhere"},
    # The server of the test run has no TLS, or none that this authority has signed.
    "tls": lambda: {"sslmode": "verify-full", "sslrootcert": "/nowhere/ca.pem"},
}


def texts(exc: BaseException) -> list[str]:
    """Return all that an error shows: its text, its parts, its notes, and those of what it came from."""
    found, seen, waiting = ["".join(traceback.format_exception(exc))], set[int](), [exc]
    while waiting:
        one = waiting.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        found += [str(one), repr(one), repr(one.args), repr(vars(one)), str(getattr(one, "__notes__", ""))]
        waiting += [other for other in (one.__cause__, one.__context__) if other is not None]
        waiting += list(getattr(one, "exceptions", ()))
    return found


def assert_hidden(*shown: str) -> None:
    assert [text for text in shown if SECRET in text] == []


@pytest.fixture
def failing(make_alias: Any, server_params: dict[str, Any]) -> Callable[..., Any]:
    """Give a function that makes an alias which cannot connect, and whose password is the secret."""

    def make(failure: str, **options: Any) -> Any:
        changes = FAILURES[failure]()
        params = {**server_params, "password": SECRET, **changes}
        tls = {key: changes[key] for key in ("sslmode", "sslrootcert") if key in changes}
        return make_alias("failing", params=params, connect_timeout=5, **tls, **options)

    return make


@pytest.fixture(autouse=True)
def all_logs(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("way", ["plain", "retried", "pool", "callable"])
def test_django(failing: Any, caplog: pytest.LogCaptureFixture, failure: str, way: str) -> None:
    """A connection of Django's: by itself, tried again, from a pool, with a password that a function returns."""
    options: dict[str, Any] = {
        "plain": {},
        "retried": {"tenants": {"retry": {"attempts": 2, "delay": 0.01}}},
        "pool": {"pool": {"min_size": 0, "max_size": 1, "timeout": 0.3}},
        "callable": {"pool": {"min_size": 0, "max_size": 1, "timeout": 0.3}},
    }[way]
    alias = failing(failure, **options)
    if way == "callable":
        alias.settings_dict["PASSWORD"] = lambda: SECRET
    with pytest.raises(DatabaseError) as caught, alias.cursor():
        pass
    assert_hidden(*texts(caught.value), caplog.text, repr(alias), str(alias))
    assert "failing" in str(caught.value)


@pytest.mark.parametrize("failure", FAILURES)
def test_asynchronous(failing: Any, caplog: pytest.LogCaptureFixture, failure: str) -> None:
    """The pool of asynchronous code, whose own tasks log what fails."""
    failing(failure, pool={"min_size": 0, "max_size": 1, "timeout": 0.3})

    async def ask() -> list[str]:
        with pytest.raises(DatabaseError) as caught:
            await sql.afetch_value("SELECT 1", using="failing")
        pool = await sql.apool("failing")
        return [*texts(caught.value), repr(pool), str(pool), repr(pool.get_stats())]

    assert_hidden(*asyncio.run(ask()), caplog.text)


@pytest.mark.parametrize("failure", FAILURES)
def test_the_development_server(server_params: dict[str, Any], caplog: pytest.LogCaptureFixture, failure: str) -> None:
    """What pgserver asks by SQL."""
    changes = {key: value for key, value in FAILURES[failure]().items() if not key.startswith("ssl")}
    where = {**server_params, "password": SECRET, **changes}
    for ask in (lambda: session.make_database(where, "x"), lambda: session.connect(where)):
        with pytest.raises((ServerError, psycopg.Error)) as caught:
            ask()
        assert_hidden(*texts(caught.value), caplog.text)


@pytest.mark.parametrize("failure", FAILURES)
def test_checks(failing: Any, failure: str) -> None:
    """What the checks say of a database that cannot be used, and of a deployment."""
    failing(failure, tenants={"pooler": True})
    found = [*checks.check_databases(["failing"]), *checks.check_deployment(databases=["failing"]), *run_checks()]
    assert "pg_tenants.E020" in [message.id for message in found]
    assert_hidden(*map(repr, found), *(f"{message.msg} {message.hint}" for message in found))


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://ada:{SECRET}@host",
        f"postgresql://ada:{SECRET}@host:x/name",
        f"postgresql://ada:{SECRET}%zz@host/name",
        f"mysql://ada:{SECRET}@host/name",
        f"pgserver://ada:{SECRET}@host/name",
        f"pgserver:///name?password={SECRET}",
    ],
)
def test_a_bad_url(url: str) -> None:
    """Neither libpq's words nor the URL itself are shown."""
    if url.endswith(":x/name"):
        assert conf.database(url)["PORT"] == "x"  # libpq says so when it connects.
        return
    with pytest.raises(ConfigurationError) as caught:
        conf.database(url)
    assert_hidden(*texts(caught.value))


def test_settings(settings: Any) -> None:
    """What shows the settings leaves the development server's password out, even where they are written wrongly."""
    server = {"name": "x", "password": SECRET}
    with override_settings(PG_TENANTS={**settings.PG_TENANTS, "PGSERVER": server}):
        assert_hidden(repr(conf.get()), repr(ServerConfig.load(conf.pgserver(), environ={})))
    for wrong in ({**settings.PG_TENANTS, "PGSERVER": (server,)}, ({"PGSERVER": server},)):
        with override_settings(PG_TENANTS=wrong):
            found = checks.check_settings()
        assert [message.id for message in found] == ["pg_tenants.E002"]
        assert_hidden(*map(repr, found))
    with pytest.raises(ServerError) as caught:
        ServerConfig.load({"password": f"{SECRET}\n"}, environ={})
    assert_hidden(*texts(caught.value))


def test_a_password_file(tmp_path: Path) -> None:
    """Its path is shown, and not what is in it."""
    (tmp_path / "password").write_bytes(f"{SECRET}\xff".encode("latin-1"))
    with pytest.raises(ConfigurationError) as caught:
        PasswordFile(tmp_path / "password")()
    assert_hidden(*texts(caught.value), repr(PasswordFile(tmp_path / "password")))
