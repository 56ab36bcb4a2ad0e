"""PG_TENANTS, OPTIONS["tenants"] and database URLs."""

from __future__ import annotations

import contextlib
import traceback
from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings
from hypothesis import given
from hypothesis import strategies as st
from psycopg import conninfo

from pg_tenants import conf
from pg_tenants.exceptions import ConfigurationError

GOOD: dict[str, Any] = {
    "TENANT_MODEL": "customers.Tenant",
    "DOMAIN_MODEL": "customers.Domain",
    "MODULES": {"shared": {"schema": "public", "apps": ["customers"]}, "tenant": {"apps": ["notes"]}},
}


def problems(**changes: Any) -> list[tuple[str, str, str]]:
    with override_settings(PG_TENANTS={**GOOD, **changes}):
        return list(conf.require().problems)


def test_the_keys_of_the_contract_are_known() -> None:
    """Those of DESIGN 3 that this version has."""
    assert set(conf.KEYS) >= {"TENANT_MODEL", "DOMAIN_MODEL", "MODULES", "EXTENSIONS_SCHEMA", "RESOLVERS"}
    assert set(conf.KEYS) >= {"PUBLIC_HOSTS", "PUBLIC_URLCONF", "PGSERVER"}
    assert set(conf.ALIAS_KEYS) >= {"schema", "pooler"}


def test_good_settings() -> None:
    """They are read with their defaults."""
    with override_settings(PG_TENANTS=GOOD):
        config = conf.require()
    assert config.problems == ()
    assert (config.tenant_model, config.domain_model) == ("customers.Tenant", "customers.Domain")
    assert config.modules["shared"].schema == "public"
    assert config.modules["tenant"].schema is None
    assert config.modules["tenant"].apps == ("notes",)
    assert config.extensions_schema == "public"
    assert config.public_hosts == ()
    assert config.public_urlconf is None


def test_settings_are_read_when_they_are_needed() -> None:
    """An override holds, and ends."""
    before = conf.require()
    with override_settings(PG_TENANTS=GOOD):
        assert conf.require().public_hosts == ()
        with override_settings(PG_TENANTS={**GOOD, "PUBLIC_HOSTS": ["WWW.Example.com"]}):
            assert conf.require().public_hosts == ("www.example.com",)
        assert conf.require().public_hosts == ()
    assert conf.require() == before


def test_a_project_without_settings() -> None:
    """There is no configuration; where one is needed, the error says what to set."""
    with override_settings(PG_TENANTS=None):
        assert conf.get() is None
        with pytest.raises(ConfigurationError, match=r"settings\.PG_TENANTS is missing.*TENANT_MODEL") as caught:
            conf.require()
    assert isinstance(caught.value, ImproperlyConfigured)


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("TENANTMODEL", "TENANT_MODEL"),
        ("tenant_model", "TENANT_MODEL"),
        ("TENANTS_MODEL", "TENANT_MODEL"),
        ("DOMAINS_MODEL", "DOMAIN_MODEL"),
        ("MODULE", "MODULES"),
        ("modules", "MODULES"),
        ("EXTENSION_SCHEMA", "EXTENSIONS_SCHEMA"),
        ("RESOLVER", "RESOLVERS"),
        ("PUBLIC_HOST", "PUBLIC_HOSTS"),
        ("PUBLIC_URL_CONF", "PUBLIC_URLCONF"),
        ("PG_SERVER", "PGSERVER"),
    ],
)
def test_an_unknown_key_names_the_nearest(key: str, nearest: str) -> None:
    """In any case of letters."""
    assert problems(**{key: "x"}) == [("unknown", f"PG_TENANTS has no key {key!r}.", f"Did you mean {nearest!r}?")]


def test_a_key_like_no_other_names_all() -> None:
    """So that the right one is found; a key need not even be text."""
    ((kind, message, hint),) = problems(XYZZY=1)
    assert (kind, message) == ("unknown", "PG_TENANTS has no key 'XYZZY'.")
    assert all(key in hint for key in conf.KEYS)
    with override_settings(PG_TENANTS={**GOOD, 7: 1}):
        assert conf.require().problems[0][:2] == ("unknown", "PG_TENANTS has no key 7.")


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("app", "apps"),
        ("APPS", "apps"),
        ("SCHEMA", "schema"),
        ("schemas", "schema"),
        ("extension", "extensions"),
        ("EXTENSIONS", "extensions"),
        ("databases", "database"),
    ],
)
def test_an_unknown_key_of_a_module_names_the_nearest(key: str, nearest: str) -> None:
    """The message has the module's name."""
    found = problems(MODULES={"tenant": {"apps": ["notes"], key: "x"}})
    message = f"PG_TENANTS['MODULES']['tenant'] has no key {key!r}."
    assert found == [("unknown", message, f"Did you mean {nearest!r}?")]


@pytest.mark.parametrize(
    ("key", "value", "wanted"),
    [
        ("TENANT_MODEL", 7, "a string"),
        ("DOMAIN_MODEL", ["customers.Domain"], "a string"),
        ("MODULES", ["notes"], "a dictionary"),
        ("EXTENSIONS_SCHEMA", 7, "a string"),
        ("EXTENSIONS_SCHEMA", None, "a string"),
        ("RESOLVERS", "pg_tenants.resolvers.DomainResolver", "a list"),
        ("RESOLVERS", [], "a list"),
        ("RESOLVERS", None, "a list"),
        ("PUBLIC_HOSTS", "localhost", "a list of strings"),
        ("PUBLIC_HOSTS", [7], "a list of strings"),
        ("PUBLIC_HOSTS", None, "a list of strings"),
        ("PUBLIC_URLCONF", 7, "a string"),
        ("PGSERVER", "x", "a dictionary"),
    ],
)
def test_a_value_of_a_wrong_type(key: str, value: Any, wanted: str) -> None:
    """The problem names key, value, type and what to set."""
    ((kind, message, hint),) = problems(**{key: value})
    assert kind == "type"
    assert message == f"PG_TENANTS[{key!r}] is {value!r}, of type {type(value).__name__}."
    assert hint.startswith(f"Set it to {wanted}")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("notes", "PG_TENANTS['MODULES']['tenant'] is 'notes', of type str."),
        (None, "PG_TENANTS['MODULES']['tenant'] is None, of type NoneType."),
        ({"apps": "notes"}, "PG_TENANTS['MODULES']['tenant']['apps'] is 'notes', of type str."),
        ({"apps": [7]}, "PG_TENANTS['MODULES']['tenant']['apps'] is [7], of type list."),
        ({"apps": [], "schema": 7}, "PG_TENANTS['MODULES']['tenant']['schema'] is 7, of type int."),
        ({"apps": [], "extensions": "x"}, "PG_TENANTS['MODULES']['tenant']['extensions'] is 'x', of type str."),
        ({"apps": [], "database": 7}, "PG_TENANTS['MODULES']['tenant']['database'] is 7, of type int."),
    ],
)
def test_a_wrong_module(entry: Any, message: str) -> None:
    """The problem names where it is."""
    ((kind, found, hint),) = problems(MODULES={"tenant": entry})
    assert (kind, found) == ("type", message)
    assert hint.startswith("Set it to")


def test_an_empty_schema_does_not_make_a_module_a_tenants() -> None:
    """A variable that is not set would otherwise turn shared tables into one set per tenant, without a word."""
    found = problems(MODULES={"shared": {"schema": "", "apps": ["customers"]}, "tenant": {"apps": ["notes"]}})
    assert [message for _, message, _ in found if "['shared']['schema']" in message]


@pytest.mark.parametrize("raw", [[], "x", 7, True])
def test_settings_that_are_no_dictionary(raw: Any) -> None:
    """They are one problem, and nothing raises."""
    with override_settings(PG_TENANTS=raw):
        ((kind, message, hint),) = conf.require().problems
    assert kind == "type"
    assert repr(raw) in message
    assert hint == "Set it to a dictionary."


@pytest.mark.parametrize("key", ["TENANT_MODEL", "DOMAIN_MODEL", "MODULES"])
@pytest.mark.parametrize("value", ["leave out", None, "", {}])
def test_a_key_that_has_to_be_there(key: str, value: Any) -> None:
    """Missing and empty are the same, and are told once."""
    raw = {k: v for k, v in {**GOOD, key: value}.items() if v != "leave out"}
    with override_settings(PG_TENANTS=raw):
        found = conf.require().problems
    assert ("missing", f"PG_TENANTS has no {key!r}.", f"Add {key!r} to settings.PG_TENANTS.") in found


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from([*conf.KEYS, "x"]), JSON, max_size=5) | JSON)
def test_no_setting_raises(raw: Any) -> None:
    """Whatever is written is a problem to report, not a traceback at import."""
    with override_settings(PG_TENANTS=raw):
        config = conf.get()
        assert config is None or isinstance(config.problems, tuple)


# -- OPTIONS["tenants"] -----------------------------------------------------------------------------------------------


def test_options_of_an_alias() -> None:
    """None of them is needed."""
    assert conf.alias_options(None, "x") == conf.AliasOptions()
    assert conf.alias_options({}, "x") == conf.AliasOptions()
    options = conf.alias_options({"schema": "acme", "pooler": False}, "x")
    assert (options.schema, options.pooler) == ("acme", False)


@pytest.mark.parametrize(
    ("raw", "parts"),
    [
        ({"shema": "acme"}, ["has no key 'shema'", "Did you mean 'schema'?"]),
        ({"SCHEMA": "acme"}, ["has no key 'SCHEMA'", "Did you mean 'schema'?"]),
        ({"schema": 7}, ["['schema'] is 7, of type int", "Set it to a string"]),
        ({"schema": ""}, ["['schema'] is ''"]),
        ({"pooler": "yes"}, ["['pooler'] is 'yes', of type str", "True, False, or None"]),
        ({"pooler": 1}, ["['pooler'] is 1, of type int"]),
        ("acme", ["is 'acme'", "Set it to a dictionary"]),
        ([], ["is []", "Set it to a dictionary"]),
    ],
)
def test_bad_options_of_an_alias(raw: Any, parts: list[str]) -> None:
    """The error names the alias, the value and the remedy."""
    with pytest.raises(ConfigurationError) as caught:
        conf.alias_options(raw, "replica")
    for part in ["DATABASES['replica']['OPTIONS']['tenants']", *parts]:
        assert part in str(caught.value)


# -- database() -------------------------------------------------------------------------------------------------------


def test_a_database_url() -> None:
    """Every part has its place, percent-encoding included; parameters are libpq's."""
    url = "postgresql://ada:p%40ss%2Fw%3Ard@db.example:6432/na%20me?sslmode=require&application_name=x"
    assert conf.database(url) == {
        "ENGINE": "pg_tenants.backends.postgresql",
        "NAME": "na me",
        "USER": "ada",
        "PASSWORD": "p@ss/w:rd",
        "HOST": "db.example",
        "PORT": "6432",
        "OPTIONS": {"sslmode": "require", "application_name": "x"},
    }


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "pgsql"])
def test_schemes(scheme: str) -> None:
    """Those that other tools write."""
    entry = conf.database(f"{scheme}://h/n", pool=True, tenants={"schema": "acme"})
    assert (entry["HOST"], entry["NAME"], entry["USER"], entry["PASSWORD"], entry["PORT"]) == ("h", "n", "", "", "")
    assert entry["OPTIONS"] == {"pool": True, "tenants": {"schema": "acme"}}


@pytest.mark.parametrize(
    ("url", "host", "port"),
    [
        ("postgresql:///n", "", ""),
        ("postgresql:///n?host=/var/run/postgresql", "/var/run/postgresql", ""),
        ("postgresql://[::1]:5433/n", "::1", "5433"),
        ("postgresql://a:1,b:2/n", "a,b", "1,2"),
        ("postgresql://%2Ftmp/n", "/tmp", ""),
    ],
)
def test_hosts(url: str, host: str, port: str) -> None:
    """Sockets, IPv6 and several hosts."""
    entry = conf.database(url)
    assert (entry["HOST"], entry["PORT"]) == (host, port)


def test_the_development_server() -> None:
    """Its host, port, user and password are found when it is connected to."""
    assert conf.database("pgserver://") == {
        "ENGINE": "pg_tenants.backends.postgresql",
        "NAME": "postgres",
        "OPTIONS": {"tenants": {"pgserver": True}},
    }
    entry = conf.database("pgserver:///shop", tenants={"pooler": False}, pool=True)
    assert entry["NAME"] == "shop"
    assert entry["OPTIONS"] == {"pool": True, "tenants": {"pooler": False, "pgserver": True}}


@pytest.mark.parametrize(
    "url",
    [
        "",
        "hunter2",
        "ada:hunter2@host/name",
        "mysql://ada:hunter2@host/name",
        "sqlite:///hunter2",
        "postgresql:ada:hunter2@host/name",
        "postgresql://ada:hunter2@host",
        "postgresql://ada:hunter2@host/",
        "postgresql://ada:hunter2%zz@host/name",
        "postgresql://ada:hunter2@host:hunter2/name?hunter2",
        "postgresql://ada:hunter2@host/name?hunter2=1",
        "postgresql://ada:hunter2@[::1/name",
        "postgresql://ada:hunter2%00@host/name",
        " postgresql://ada:hunter2@host/name",
    ],
)
def test_a_bad_url_is_refused_without_its_password(url: str) -> None:
    """Message, causes and traceback say how to write it, and never the secret."""
    with pytest.raises(ConfigurationError, match="postgresql://user:password@host:5432/name") as caught:
        conf.database(url)
    text = "".join(traceback.format_exception(caught.value, limit=0))
    assert "hunter2" not in text


@given(st.text(max_size=30), st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1))
def test_any_url_is_an_entry_or_a_configuration_error(text: str, password: str) -> None:
    """Nothing else comes out; and a password that is percent-encoded comes back as it was."""
    for url in (text, f"postgresql://{text}"):
        with contextlib.suppress(ConfigurationError):
            assert conf.database(url)["ENGINE"] == conf.ENGINE
    encoded = "".join(f"%{byte:02x}" for byte in password.encode())
    entry = conf.database(f"postgresql://ada:{encoded}@host/name")
    assert entry["PASSWORD"] == password
    assert conninfo.make_conninfo(password=entry["PASSWORD"])


URL = "postgresql://ada@host/name"


@pytest.mark.parametrize(
    ("fields", "pool"),
    [
        ({"pool_size": 5}, (5, 15, 30, 3600)),
        ({"pool_size": 10, "max_overflow": 20}, (10, 30, 30, 3600)),
        ({"max_overflow": 0}, (5, 5, 30, 3600)),
        ({"pool_timeout": 2.5, "pool_recycle": 60}, (5, 15, 2.5, 60)),
        ({"min_connections": 10, "max_connections": 50}, (10, 50, 30, 3600)),
        ({"max_connections": 3}, (3, 3, 30, 3600)),
        ({"min_connections": 20}, (20, 20, 30, 3600)),
    ],
)
def test_the_documents_pool_fields(fields: dict[str, Any], pool: tuple[float, ...]) -> None:
    """They become the options of psycopg's pool, which Django's backend makes."""
    keys = ("min_size", "max_size", "timeout", "max_lifetime")
    assert conf.database(URL, **fields)["OPTIONS"]["pool"] == dict(zip(keys, pool, strict=True))


def test_the_pool_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """DB_POOL_SIZE and DB_MAX_OVERFLOW; what the code says comes first."""
    monkeypatch.setenv("DB_POOL_SIZE", "7")
    monkeypatch.setenv("DB_MAX_OVERFLOW", "3")
    assert conf.database(URL)["OPTIONS"]["pool"]["max_size"] == 10
    assert conf.database(URL, pool_size=1)["OPTIONS"]["pool"]["max_size"] == 4
    monkeypatch.setenv("DB_POOL_SIZE", "many")
    with pytest.raises(ConfigurationError, match="DB_POOL_SIZE is 'many'"):
        conf.database(URL)


def test_the_documents_other_fields() -> None:
    """Health checks, TLS, retries, and all that is in OPTIONS["tenants"]; None leaves a field out."""
    entry = conf.database(
        URL,
        pool_pre_ping=True,
        ssl_enabled=True,
        ssl_ca_file="/ca.pem",
        ssl_cert_file="/client.crt",
        ssl_key_file="/client.key",
        retry_attempts=3,
        retry_delay=0.5,
        readonly=True,
        statement_timeout_ms=60_000,
        lock_timeout_ms=None,
        connect_timeout=3,
        tenants={"pooler": False},
    )
    assert entry["CONN_HEALTH_CHECKS"] is True
    assert entry["OPTIONS"] == {
        "sslmode": "verify-full",
        "sslrootcert": "/ca.pem",
        "sslcert": "/client.crt",
        "sslkey": "/client.key",
        "connect_timeout": 3,
        "tenants": {
            "pooler": False,
            "readonly": True,
            "statement_timeout_ms": 60_000,
            "retry": {"attempts": 3, "delay": 0.5},
        },
    }
    assert conf.database(URL, ssl_enabled=False)["OPTIONS"] == {"sslmode": "disable"}


@pytest.mark.parametrize(
    ("fields", "part"),
    [
        ({"pool_size": -1}, "pool_size is -1"),
        ({"pool_size": "x"}, "pool_size is 'x'"),
        ({"pool_size": True}, "pool_size is True"),
        ({"pool_size": 1, "max_connections": 2}, "say the same in two ways"),
        ({"min_connections": 9, "max_connections": 2}, "at least 9 and at most 2"),
        ({"pool_timeout": 0}, "pool_timeout is 0"),
        ({"pool_recycle": "1h"}, "pool_recycle is '1h'"),
        ({"pool_size": 1, "pool": False}, "pool is False"),
        ({"pool_pre_ping": 1}, "pool_pre_ping is 1"),
        ({"ssl_enabled": "yes"}, "ssl_enabled is 'yes'"),
        ({"ssl_mode": "verify"}, "ssl_mode is 'verify', which libpq does not know. Use one of disable"),
        ({"ssl_enabled": False, "ssl_ca_file": "/ca"}, "ssl_enabled is False, and sslrootcert"),
        ({"password": "x", "password_file": "/x"}, "Give one of them"),
    ],
)
def test_bad_fields(fields: dict[str, Any], part: str) -> None:
    """The error names the field, the value and the remedy."""
    with pytest.raises(ConfigurationError) as caught:
        conf.database(URL, **fields)
    assert part in str(caught.value)


@pytest.mark.parametrize(
    ("raw", "part"),
    [
        ({"readonly": 1}, "['readonly'] is 1"),
        ({"readonly": True, "create_db": True}, "both readonly and create_db"),
        ({"lock_timeout_ms": -1}, "['lock_timeout_ms'] is -1"),
        ({"statement_timeout_ms": "60s"}, "a whole number of milliseconds"),
        ({"retry": 3}, "['retry'] is 3"),
        ({"retry": {"attempt": 3}}, "Did you mean 'attempts'?"),
        ({"retry": {"attempts": 0}}, "['attempts'] is 0"),
        ({"retry": {"backoff": 0.5}}, "a factor of 1 or more"),
        ({"extensions": "vector"}, "a list of strings"),
    ],
)
def test_bad_values_of_an_alias(raw: dict[str, Any], part: str) -> None:
    """The error names the key, the value and the remedy."""
    with pytest.raises(ConfigurationError) as caught:
        conf.alias_options(raw, "replica")
    assert part in str(caught.value)


def test_values_of_an_alias() -> None:
    """What is left out has no effect; `retry: True` is the defaults."""
    assert conf.alias_options({"lock_timeout_ms": None, "retry": None}, "a") == conf.AliasOptions()
    options = conf.alias_options({"retry": True, "lock_timeout_ms": 5000, "extensions": ["vector"]}, "a")
    assert options.retry == conf.Retry(attempts=5, delay=0.5, backoff=2.0, max_delay=10.0)
    assert options.timeouts.settings == (("lock_timeout", "5000"),)
    assert options.extensions == ("vector",)


@pytest.mark.parametrize("value", [-1, "60", True, None, float("inf"), float("nan")])
def test_cache_seconds(value: object) -> None:
    """A number, 0 or more."""
    (problem,) = problems(CACHE_SECONDS=value)
    assert problem[0] == "type"
    assert "CACHE_SECONDS" in problem[1]
    assert problems(CACHE_SECONDS=0) == problems(CACHE_SECONDS=1.5) == []


def test_cache() -> None:
    """An alias, or nothing."""
    assert problems(CACHE="shared") == problems(CACHE=None) == []
    assert [problem[0] for problem in problems(CACHE=7)] == ["type"]


def test_timeouts_of_migrations() -> None:
    """In milliseconds; a lock is waited for shortly unless something else is said."""
    assert conf.alias_options({}, "x").migrations == {
        "lock_timeout": 5000,
        "statement_timeout": 0,
        "idle_in_transaction_session_timeout": 0,
    }
    given = {"lock_timeout_ms": None, "statement_timeout_ms": 60_000}
    found = conf.alias_options({"migrations": given}, "x").migrations
    assert (found["lock_timeout"], found["statement_timeout"]) == (0, 60_000)
    for wrong in (
        {"lock_timeout_ms": "5s"},
        {"lock_timeout_ms": -1},
        {"lock_timeout": 5},
        {"statement_timeout_ms": True},
        5,
    ):
        with pytest.raises(ConfigurationError, match="migrations"):
            conf.alias_options({"migrations": wrong}, "x")


def test_a_folder_of_sql_files() -> None:
    """A relative one begins at BASE_DIR; without that, or with another type, it is a problem."""

    def folder(value: object) -> tuple[object, tuple[tuple[str, str, str], ...]]:
        modules = {"tenant": {"sql_migrations": value}}
        with override_settings(
            PG_TENANTS={"TENANT_MODEL": "a.T", "DOMAIN_MODEL": "a.D", "MODULES": modules}, BASE_DIR=base
        ):
            config = conf.require()
            return config.modules["tenant"].sql_migrations, config.problems

    base: object = "/srv/app"
    assert folder("notes/sql") == (Path("/srv/app/notes/sql"), ())
    assert folder(Path("../sql")) == (Path("/srv/sql"), ())
    assert folder("/else/sql") == (Path("/else/sql"), ())
    for wrong in (7, "", ["sql"]):
        (problem,) = folder(wrong)[1]
        assert "['sql_migrations']" in problem[1]
        assert "a path" in problem[2]
    base = None
    assert "no BASE_DIR" in folder("sql")[1][0][1]
    assert folder("/else/sql") == (Path("/else/sql"), ())
