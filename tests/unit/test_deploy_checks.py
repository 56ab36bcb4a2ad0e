"""What ``check --deploy`` says of databases: each id, with its value and its remedy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.conf import settings
from django.core.checks import CheckMessage, run_checks
from django.db import connections
from django.test import override_settings

from pg_tenants import checks
from pg_tenants.checks import _common, _deployment
from pg_tenants.conf import database

URL = "postgresql://app:hidden@{host}/app"
LIMITS: dict[str, Any] = {
    "statement_timeout_ms": 30_000,
    "lock_timeout_ms": 5_000,
    "idle_in_transaction_session_timeout_ms": 60_000,
}
DEFAULTS = {"CONN_MAX_AGE": 0, "CONN_HEALTH_CHECKS": False, "DISABLE_SERVER_SIDE_CURSORS": False}
Deployed = Callable[..., list[CheckMessage]]


@pytest.fixture
def deployed(monkeypatch: pytest.MonkeyPatch) -> Deployed:
    """Give a function that checks a project with one alias, or with these."""
    for variable in ("PGHOST", "PGSSLMODE"):
        monkeypatch.delenv(variable, raising=False)

    def check(host: str = "localhost", *, roles: bool = True, also: Any = None, **changes: Any) -> list[CheckMessage]:
        upper = {key: changes.pop(key) for key in list(changes) if key.isupper()}
        entry = {**DEFAULTS, **database(URL.format(host=host), **{**LIMITS, **changes}), **upper}
        monkeypatch.setattr(connections, "settings", {"default": entry, **(also or {})})
        for module in (_common, _deployment):
            monkeypatch.setattr(module, "is_ours", lambda alias: True)
        with override_settings(PG_TENANTS={**settings.PG_TENANTS, "ROLES": roles}):
            return checks.check_deployment()

    return check


def only(found: list[CheckMessage], check_id: str, *parts: str) -> None:
    assert [message.id for message in found] == [f"pg_tenants.{check_id}"], found
    text = f"{found[0].msg} {found[0].hint}"
    assert [part for part in parts if part not in text] == [], text
    assert "hidden" not in text


def test_a_database_that_is_ready(deployed: Deployed) -> None:
    """Nothing is said."""
    assert deployed("db.example.com", ssl_enabled=True) == []


@pytest.mark.parametrize("mode", ["disable", "allow", "prefer", "require", "verify-ca"])
def test_w110_modes_of_tls(deployed: Deployed, mode: str) -> None:
    """All but verify-full believe whoever answers, or may do without TLS."""
    only(deployed("db.example.com", ssl_mode=mode), "W110", "'db.example.com'", repr(mode), "'verify-full'", "default")


def test_w110_where_nothing_is_said(deployed: Deployed, monkeypatch: pytest.MonkeyPatch) -> None:
    """libpq's own default is 'prefer'; its variables and a service's file count, sockets and this machine need none."""
    only(deployed("db.example.com"), "W110", "'prefer'", "sslrootcert")
    only(deployed("localhost,db.example.com"), "W110", "'db.example.com'")
    for host in ("localhost", "127.0.0.1", "[::1]", "%2Fvar%2Frun%2Fpostgresql", ""):
        assert deployed(host) == [], host
    assert deployed("db.example.com", service="app") == []
    assert deployed("db.example.com", sslrootcert="system") == []
    monkeypatch.setenv("PGSSLMODE", "verify-full")
    assert deployed("db.example.com") == []
    monkeypatch.setenv("PGSSLMODE", "require")
    monkeypatch.setenv("PGHOST", "db.example.com")
    only(deployed(""), "W110", "'require'")


@pytest.mark.parametrize(
    ("key", "check_id"),
    [
        ("statement_timeout_ms", "W111"),
        ("lock_timeout_ms", "W112"),
        ("idle_in_transaction_session_timeout_ms", "W113"),
    ],
)
def test_w111_to_w113_no_limits(deployed: Deployed, key: str, check_id: str) -> None:
    """None and 0 are none; a limit among the options of the connection's start counts."""
    only(deployed(**{key: None}), check_id, "nothing", key, "'default'", "ALTER ROLE")
    only(deployed(**{key: 0}), check_id, "has 0", "milliseconds")
    assert deployed(**{key: None}, options=f"-c {key[:-3]}=1000") == []


def test_w114_one_role_for_all(deployed: Deployed) -> None:
    """Once for the project."""
    only(deployed(roles=False), "W114", "PG_TENANTS['ROLES'] is False", "tenant_roles --sync")


def test_w115_server_side_cursors_behind_a_pooler(deployed: Deployed) -> None:
    """Where a setting tells of the pooler; the server is not asked unless the database is named."""
    only(deployed(pooler=True), "W115", "'default'", "DISABLE_SERVER_SIDE_CURSORS to True")
    assert deployed(pooler=True, DISABLE_SERVER_SIDE_CURSORS=True) == []
    assert deployed(pooler=False) == []


def test_w116_connections_that_are_kept(deployed: Deployed) -> None:
    """Without a pool and without a look at them."""
    only(deployed(CONN_MAX_AGE=60), "W116", "CONN_MAX_AGE 60", "CONN_HEALTH_CHECKS to True")
    only(deployed(CONN_MAX_AGE=None), "W116", "CONN_MAX_AGE None")
    assert deployed(CONN_MAX_AGE=60, CONN_HEALTH_CHECKS=True) == []
    assert deployed(CONN_MAX_AGE=60, pool=True) == []


def test_an_alias_of_migrations_has_their_limits(deployed: Deployed) -> None:
    """It is looked at for TLS alone."""
    direct = {**DEFAULTS, **database(URL.format(host="db.example.com")), "CONN_MAX_AGE": 60}
    only(deployed(migrations={"alias": "direct"}, also={"direct": direct}), "W110", "'direct'")


def test_the_example_project_says_that_its_server_is_for_development() -> None:
    """Of the package that is all: what else production needs belongs to the database that is named then."""
    found = [str(message.id) for message in run_checks(include_deployment_checks=True)]
    assert [
        check_id for check_id in found if str(check_id).startswith("pg_tenants.") and "W091" not in str(check_id)
    ] == ["pg_tenants.W092"]
