"""System checks: each id, with its value and its remedy."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.core import checks as django_checks
from django.core.checks import CheckMessage
from django.db import connections, models
from django.test import override_settings

from example_project.settings import PG_TENANTS as EXAMPLE
from pg_tenants import checks, conf
from pg_tenants.backends.postgresql.base import DatabaseWrapper
from pg_tenants.exceptions import ConfigurationError

ROOT = Path(__file__).parents[2]
RAW: dict[str, Any] = settings.PG_TENANTS
MODULES: dict[str, Any] = RAW["MODULES"]


def run(check: Any, **changes: Any) -> list[CheckMessage]:
    with override_settings(PG_TENANTS={**RAW, **changes}):
        return check()


def with_modules(**changes: Any) -> list[CheckMessage]:
    return run(checks.check_modules, MODULES={**MODULES, **changes})


def only(found: list[CheckMessage], check_id: str) -> CheckMessage:
    assert [message.id for message in found] == [check_id], found
    message = found[0]
    assert message.hint
    assert message.level >= (django_checks.ERROR if ".E" in check_id else django_checks.WARNING)
    return message


def says(message: CheckMessage, *parts: str) -> None:
    text = f"{message.msg} {message.hint}"
    for part in parts:
        assert part in text, f"{part!r} is not in {text!r}"


def test_the_example_project_has_no_problem() -> None:
    """Nor have Django's own checks one."""
    with override_settings(PG_TENANTS=EXAMPLE):
        assert django_checks.run_checks() == []


def test_every_id_has_a_test() -> None:
    """In this file, or in that of what the check is about."""
    source = "".join(path.read_text() for path in Path(checks.__file__).parent.glob("*.py"))
    files = [path for path in (ROOT / "tests").rglob("*.py") if path.name != "test_docs.py"]
    tests = "".join(path.read_text() for path in files)
    ids = set(re.findall(r"pg_tenants\.[EW]\d{3}", source))
    assert len(ids) > 15
    assert [check_id for check_id in sorted(ids) if f'{check_id[-4:]}"' not in tests] == []


# -- settings ---------------------------------------------------------------------------------------------------------


def test_e001_an_unknown_key() -> None:
    """The nearest is named."""
    message = only(run(checks.check_settings, TENANT_MODELS="x"), "pg_tenants.E001")
    says(message, "PG_TENANTS has no key 'TENANT_MODELS'", "Did you mean 'TENANT_MODEL'?")


def test_e002_a_wrong_type() -> None:
    """Value, type and what to set."""
    message = only(run(checks.check_settings, PUBLIC_HOSTS="localhost"), "pg_tenants.E002")
    says(message, "PG_TENANTS['PUBLIC_HOSTS'] is 'localhost', of type str", "Set it to a list of strings")


@pytest.mark.parametrize("key", ["TENANT_MODEL", "DOMAIN_MODEL", "MODULES"])
def test_e003_a_missing_key(key: str) -> None:
    """The key is named."""
    with override_settings(PG_TENANTS={name: value for name, value in RAW.items() if name != key}):
        message = only(checks.check_settings(), "pg_tenants.E003")
    says(message, f"PG_TENANTS has no {key!r}", f"Add {key!r} to settings.PG_TENANTS")


def test_e003_no_settings_at_all() -> None:
    """The other checks need none."""
    with override_settings(PG_TENANTS=None):
        message = only(checks.check_settings(), "pg_tenants.E003")
        says(message, "settings.PG_TENANTS is missing", "TENANT_MODEL, DOMAIN_MODEL and MODULES")
        assert checks.check_modules() == checks.check_models() == checks.check_installation() == []


@pytest.mark.parametrize("raw", [{}, {"MODULES": {}}, [], "x", {"MODULES": {"a": 1}}, {"MODULES": {"a": {"apps": 1}}}])
def test_checks_survive_any_settings(raw: Any) -> None:
    """They report, and never raise."""
    with override_settings(PG_TENANTS=raw):
        for check in (checks.check_settings, checks.check_modules, checks.check_models, checks.check_installation):
            assert isinstance(check(), list)
        assert checks.check_settings()


# -- modules ----------------------------------------------------------------------------------------------------------


def test_e004_an_app_that_is_not_installed() -> None:
    """With the nearest that is."""
    found = with_modules(more={"schema": "more", "apps": ["bilding"]})
    message = only(found, "pg_tenants.E004")
    says(message, "module 'more'", "'bilding'", "INSTALLED_APPS", "Did you mean 'billing'?")


def test_e004_an_app_that_is_given_by_its_full_name() -> None:
    """The nearest is found among full names, too."""
    found = with_modules(more={"schema": "more", "apps": ["example_project.bilings"]})
    says(only(found, "pg_tenants.E004"), "'example_project.bilings'", "Did you mean 'example_project.billing'?")


def test_e005_an_app_in_no_module() -> None:
    """With a model of it, and what to write where."""
    message = only(with_modules(billing={"schema": "billing", "apps": []}), "pg_tenants.E005")
    says(message, "'billing'", "Invoice", "in no module", "Add 'example_project.billing' to the apps of a module")


def test_e005_is_about_tables_alone() -> None:
    """Apps without models need no module: messages and staticfiles are in none."""
    assert with_modules() == []


def test_e006_an_app_in_two_fixed_modules() -> None:
    """Both are named."""
    found = with_modules(more={"schema": "more", "apps": ["billing"]})
    message = only(found, "pg_tenants.E006")
    says(message, "'billing' is in several fixed modules: 'billing', 'more'", "Leave it in one")


def test_an_app_in_a_fixed_and_in_tenant_modules_is_right() -> None:
    """The tenant's own table is found first."""
    both = {"schema": "public", "apps": ["customers", "auth", "contenttypes"]}
    assert with_modules(shared=both) == []
    assert run(checks.check_models, MODULES={**MODULES, "shared": both}) == []


def test_e006_an_app_twice_in_one_module() -> None:
    """By two of its names: it is not in several modules, so the message must not say so."""
    found = with_modules(billing={"schema": "billing", "apps": ["billing", "example_project.billing"]})
    assert not [message for message in found if "'billing', 'billing'" in message.msg]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("Bil", "other characters"),
        ("pg_x", "pg_"),
        ("information_schema", "itself"),
        ("user", "reserved"),
        ("b" * 52, "52"),
    ],
)
def test_e011_a_bad_schema(name: str, reason: str) -> None:
    """Of a module."""
    message = only(with_modules(billing={"schema": name, "apps": ["billing"]}), "pg_tenants.E011")
    says(message, "the module 'billing'", repr(name), reason)


def test_e011_a_bad_schema_for_extensions() -> None:
    """The setting is named."""
    message = only(run(checks.check_modules, EXTENSIONS_SCHEMA="pg_ext"), "pg_tenants.E011")
    says(message, "EXTENSIONS_SCHEMA", "'pg_ext'", "pg_")


@pytest.mark.parametrize("name", ["PG_TRGM", "a b", "a;b", "", 'a"b', "ä"])
def test_e012_no_name_of_an_extension(name: str) -> None:
    """The module and the name are told."""
    message = only(with_modules(tenant={**MODULES["tenant"], "extensions": [name]}), "pg_tenants.E012")
    says(message, "module 'tenant'", repr(name), "as in 'pg_trgm'")


def test_e014_an_unknown_database() -> None:
    """With the nearest that is there."""
    found = with_modules(billing={**MODULES["billing"], "database": "defalt"})
    message = only([m for m in found if m.id != "pg_tenants.E013"], "pg_tenants.E014")
    says(message, "module 'billing'", "'defalt'", "not in DATABASES", "Did you mean 'default'?")


def test_e015_no_tenant_module() -> None:
    """What to add."""
    found = run(checks.check_modules, MODULES={"shared": {"schema": "public", "apps": ["customers"]}})
    message = only([m for m in found if m.id != "pg_tenants.E005"], "pg_tenants.E015")
    says(message, "has no tenant module", "without 'schema'")


@pytest.fixture
def other_alias() -> Iterator[dict[str, Any]]:
    """Add an alias with Django's own engine."""
    entry = {**connections.settings["default"], "ENGINE": "django.db.backends.postgresql", "OPTIONS": {}}
    connections.settings["other"] = entry
    yield entry
    del connections.settings["other"]
    if hasattr(connections._connections, "other"):  # type: ignore[attr-defined]
        del connections["other"]


def test_e010_a_wrong_engine(other_alias: dict[str, Any]) -> None:
    """The one that is there, and the one that should be."""
    found = with_modules(billing={**MODULES["billing"], "database": "other"})
    message = only(found, "pg_tenants.E010")
    says(message, "DATABASES['other']", "'django.db.backends.postgresql'", conf.ENGINE, "postgis")


def test_e094_no_database_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """A module that names none, in a project that has no default one."""
    monkeypatch.setitem(connections.settings["default"], "ENGINE", conf.NO_ENGINE)
    found = [message for message in with_modules() if message.id == "pg_tenants.E094"]
    assert len(found) == len(MODULES)
    says(found[1], "module 'billing'", "names none", "no default", "PG_TENANTS['MODULES']['billing']['database']")


def test_e096_a_module_on_an_alias_that_is_bound_to_a_schema(other_alias: dict[str, Any]) -> None:
    """All of its statements would run in that one."""
    other_alias.update(ENGINE=conf.ENGINE, OPTIONS={"tenants": {"schema": "elsewhere"}})
    found = with_modules(billing={**MODULES["billing"], "database": "other"})
    says(only(found, "pg_tenants.E096"), "module 'billing'", "DATABASES['other']", "'elsewhere'", "['schema']")


def with_pools(other: dict[str, Any], first: dict[str, Any], second: dict[str, Any]) -> list[CheckMessage]:
    default = connections.settings["default"]
    before = dict(default)
    other.update({**default, "OPTIONS": {"pool": True}, **second})
    default.update({"OPTIONS": {"pool": {"max_size": 4}}, **first})
    try:
        return checks.check_pools()
    finally:
        default.update(before)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"HOST": "localhost", "PORT": ""}, {"HOST": "127.0.0.1", "PORT": "5432"}),
        ({"HOST": "DB.example.com.", "PORT": 5432}, {"HOST": "db.example.com", "PORT": "5432"}),
        ({"HOST": "", "PORT": ""}, {"HOST": "", "PORT": 5432}),
        ({"OPTIONS": {"pool": True, "tenants": {"pgserver": True}}},) * 2,
    ],
)
def test_w107_two_pools_on_one_database(
    other_alias: dict[str, Any], first: dict[str, Any], second: dict[str, Any]
) -> None:
    """However its place is written."""
    message = only(with_pools(other_alias, first, second), "pg_tenants.W107")
    says(message, "DATABASES['default']", "DATABASES['other']", "a pool", "read-only")


@pytest.mark.parametrize(
    "second",
    [
        {"NAME": "another"},
        {"HOST": "db.example.com"},
        {"PORT": "6432"},
        {"OPTIONS": {}},
        {"OPTIONS": {"pool": True, "service": "another"}},
        {"OPTIONS": {"pool": True, "tenants": {"readonly": True}}},
        {"OPTIONS": {"pool": True, "tenants": {"schema": "billing"}}},
        {"ENGINE": "django.db.backends.postgresql"},
    ],
)
def test_pools_that_are_of_use(other_alias: dict[str, Any], second: dict[str, Any]) -> None:
    """Of another database or another server, read-only ones, and those bound to one schema; and only ours."""
    assert with_pools(other_alias, {}, second) == []


def test_an_alias_that_no_module_uses_may_have_any_engine(other_alias: dict[str, Any]) -> None:
    """It is none of our business."""
    assert with_modules() == []
    assert checks.check_databases(["other"]) == []


# -- models -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["TENANT_MODEL", "DOMAIN_MODEL"])
@pytest.mark.parametrize("name", ["customers.Nothing", "nothing.Tenant", "Tenant", "a.b.c"])
def test_e007_no_such_model(key: str, name: str) -> None:
    """Key, value and how to write it."""
    message = only(run(checks.check_models, **{key: name}), "pg_tenants.E007")
    says(message, f"PG_TENANTS[{key!r}] is {name!r}", "app_label.ModelName")


@pytest.mark.parametrize(("key", "mixin"), [("TENANT_MODEL", "TenantMixin"), ("DOMAIN_MODEL", "DomainMixin")])
def test_e007_a_model_of_another_kind(key: str, mixin: str) -> None:
    """The mixin that it lacks."""
    message = only(run(checks.check_models, **{key: "billing.Invoice"}), "pg_tenants.E007")
    says(message, "'billing.Invoice'", f"does not inherit from {mixin}", f"class Invoice({mixin})")


def test_e008_tenants_in_a_tenant_module() -> None:
    """Both settings are named, each with its app, and where to move it."""
    modules = {"billing": MODULES["billing"], "tenant": {"apps": [*MODULES["tenant"]["apps"], "customers"]}}
    found = run(checks.check_models, MODULES=modules)
    assert [message.id for message in found] == ["pg_tenants.E008"] * 2
    says(found[0], "PG_TENANTS['TENANT_MODEL'] is 'customers.Tenant'", "tenant module", "Move the app 'customers'")
    says(found[1], "PG_TENANTS['DOMAIN_MODEL'] is 'customers.Domain'", "'public'")


def test_e013_a_relation_into_another_database() -> None:
    """Both models, both modules, and what to do."""
    modules = {**MODULES, "auth": {"schema": "auth", "apps": ["auth", "contenttypes"], "database": "other"}}
    modules["tenant"] = {"apps": ["sessions", "admin", "notes"]}
    found = run(checks.check_models, MODULES=modules)
    assert {message.id for message in found} == {"pg_tenants.E013"}
    (message,) = [m for m in found if "Note.author" in m.msg]
    says(message, "module 'tenant' (on 'default')", "refers to User", "'auth' (on 'other')", "into one module")


def test_e013_a_fixed_modules_relation_to_a_tenants() -> None:
    """No tenant is meant by it."""
    modules = {**MODULES, "log": {"schema": "log", "apps": ["admin"]}}
    modules["tenant"] = {"apps": [app for app in MODULES["tenant"]["apps"] if "admin" not in app]}
    found = run(checks.check_models, MODULES=modules)
    assert {message.id for message in found} == {"pg_tenants.E013"}
    says(next(m for m in found if "LogEntry.user" in m.msg), "module 'log'", "User", "'tenant'")


def test_e013_many_to_many() -> None:
    """The rows between are looked at as well."""
    modules = {**MODULES, "users": {"schema": "users", "apps": ["auth"]}}
    modules["tenant"] = {"apps": [app for app in MODULES["tenant"]["apps"] if "auth" not in app]}
    found = run(checks.check_models, MODULES=modules)
    assert {message.id for message in found} == {"pg_tenants.E013"}
    assert any("Permission.content_type" in message.msg for message in found)
    # A tenant's table may refer to a fixed module's.
    assert not any("Note" in message.msg or "LogEntry" in message.msg for message in found)


def test_a_tenants_relation_to_a_fixed_module_is_right() -> None:
    """And so is one between fixed modules of one database."""
    modules = {**MODULES, "billing": {"schema": "billing", "apps": ["billing", "auth", "contenttypes"]}}
    modules["tenant"] = {"apps": ["sessions", "admin", "notes"]}
    assert run(checks.check_models, MODULES=modules) == []


# -- installation -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("routers", [[], [object()]])
def test_e009_no_router(routers: list[Any]) -> None:
    """What to add where."""
    with override_settings(DATABASE_ROUTERS=routers):
        message = only(checks.check_installation(), "pg_tenants.E009")
    says(message, "router of pg_tenants is missing", "'pg_tenants.routers.TenantRouter' to DATABASE_ROUTERS")


def test_a_router_may_be_an_object_or_a_subclass() -> None:
    """Django takes instances as well as paths, and projects extend ours."""
    from pg_tenants.routers import TenantRouter

    with override_settings(DATABASE_ROUTERS=[TenantRouter()]):
        assert checks.check_installation() == []
    with override_settings(DATABASE_ROUTERS=[type("ProjectRouter", (TenantRouter,), {})()]):
        assert checks.check_installation() == []


def test_e016_bad_options_of_an_alias(monkeypatch: pytest.MonkeyPatch) -> None:
    """Alias, key and the nearest; the checks of the database itself do not fall over it."""
    wrong = {"tenants": {"shema": "acme"}}
    monkeypatch.setitem(connections["default"].settings_dict, "OPTIONS", wrong)
    message = only(checks.check_installation(), "pg_tenants.E016")
    says(message, "DATABASES['default']['OPTIONS']['tenants'] has no key 'shema'", "Did you mean 'schema'?")
    assert checks.check_databases(["default"]) == []


@pytest.mark.parametrize(
    ("entry", "parts"),
    [
        ("pg_tenants.resolvers.DomanResolver", ["'pg_tenants.resolvers.DomanResolver'", "cannot be imported"]),
        ("nothing", ["'nothing'", "cannot be imported", "'pg_tenants.resolvers.DomainResolver'"]),
        (7, ["7", "not callable", "takes the request"]),
        ("pg_tenants.conf.ENGINE", ["not callable"]),
    ],
)
def test_e017_a_resolver_that_is_none(entry: Any, parts: list[str]) -> None:
    """Value, cause and what to write."""
    message = only(run(checks.check_installation, RESOLVERS=[entry]), "pg_tenants.E017")
    says(message, "PG_TENANTS['RESOLVERS']", *parts)


def test_w001_sessions_before_tenants() -> None:
    """They would be read in no tenant."""
    order = ["django.contrib.sessions.middleware.SessionMiddleware", "pg_tenants.middleware.TenantMiddleware"]
    with override_settings(MIDDLEWARE=order):
        message = only(checks.check_installation(), "pg_tenants.W001")
    says(message, "SessionMiddleware comes before TenantMiddleware", "top of MIDDLEWARE")
    with override_settings(MIDDLEWARE=order[::-1]):
        assert checks.check_installation() == []


def test_sessions_may_come_first_for_the_resolver_that_reads_them() -> None:
    """And must."""
    order = ["django.contrib.sessions.middleware.SessionMiddleware", "pg_tenants.middleware.TenantMiddleware"]
    resolvers = ["pg_tenants.resolvers.SessionResolver"]
    with override_settings(MIDDLEWARE=order):
        assert run(checks.check_installation, RESOLVERS=resolvers) == []
    with override_settings(MIDDLEWARE=order[::-1]):
        message = only(run(checks.check_installation, RESOLVERS=resolvers), "pg_tenants.E032")
    says(message, "SessionResolver needs sessions", "SessionMiddleware", "before", "fixed module")


@pytest.mark.parametrize("name", ["PrimaryDomainMiddleware", "TenantCsrfMiddleware"])
def test_e031_middleware_that_needs_the_tenant(name: str) -> None:
    """It stands below TenantMiddleware."""
    order = ["pg_tenants.middleware.TenantMiddleware", f"pg_tenants.middleware.{name}"]
    with override_settings(MIDDLEWARE=order):
        assert checks.check_installation() == []
    for wrong in (order[::-1], order[1:]):
        with override_settings(MIDDLEWARE=wrong):
            says(only(checks.check_installation(), "pg_tenants.E031"), name, "Put 'pg_tenants.middleware.Ten")


def test_e033_two_csrf_middlewares() -> None:
    """Django's own would refuse first."""
    order = [
        "pg_tenants.middleware.TenantMiddleware",
        "django.middleware.csrf.CsrfViewMiddleware",
        "pg_tenants.middleware.TenantCsrfMiddleware",
    ]
    with override_settings(MIDDLEWARE=order):
        says(only(checks.check_installation(), "pg_tenants.E033"), "CsrfViewMiddleware", "directly before")


def test_the_cache() -> None:
    """It is in CACHES, and other processes share it."""
    memory = {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}
    redis = {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": "redis://127.0.0.1:1"}
    with override_settings(CACHES={"default": memory, "shared": redis}):
        assert run(checks.check_installation, CACHE="shared") == []
        message = only(run(checks.check_installation, CACHE="shard"), "pg_tenants.E030")
        says(message, "PG_TENANTS['CACHE'] is 'shard'", "Did you mean 'shared'?")
        message = only(run(checks.check_installation, CACHE="default"), "pg_tenants.W030")
        says(message, "'default'", "other processes", "Redis")


SESSIONS = "django.contrib.sessions"
LOCMEM = {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}
CACHE_MIDDLEWARE = [f"django.middleware.cache.{name}CacheMiddleware" for name in ("Update", "FetchFrom")]


@pytest.mark.parametrize(
    ("changes", "user"),
    [
        ({"SESSION_ENGINE": f"{SESSIONS}.backends.cache"}, "sessions"),
        ({"SESSION_ENGINE": f"{SESSIONS}.backends.cached_db"}, "sessions"),
        ({"MIDDLEWARE": [checks.MIDDLEWARE, *CACHE_MIDDLEWARE]}, "the cache middleware"),
    ],
)
def test_w050_a_cache_without_key_function(changes: dict[str, Any], user: str) -> None:
    """Where the settings say that something is kept there; a function of one's own is trusted."""
    with override_settings(**changes, CACHES={"default": LOCMEM}):
        message = only(checks.check_surroundings(), "pg_tenants.W050")
        says(message, "CACHES['default']", user, "'pg_tenants.contrib.cache.make_key'")
    for fine in ({**LOCMEM, "KEY_FUNCTION": "a.b"}, {"BACKEND": "django.core.cache.backends.dummy.DummyCache"}):
        with override_settings(**changes, CACHES={"default": fine}):
            assert checks.check_surroundings() == []
    with override_settings(CACHES={"default": LOCMEM}):
        assert checks.check_surroundings() == []


def test_w050_follows_the_aliases() -> None:
    """Of sessions and of the middleware, which may differ."""
    ours = {**LOCMEM, "KEY_FUNCTION": "pg_tenants.contrib.cache.make_key"}
    with override_settings(
        SESSION_ENGINE=f"{SESSIONS}.backends.cache", SESSION_CACHE_ALIAS="two", CACHES={"default": ours, "two": LOCMEM}
    ):
        says(only(checks.check_surroundings(), "pg_tenants.W050"), "CACHES['two']")


def test_w051_cache_middleware_before_tenants() -> None:
    """Its pages would be kept in no tenant."""
    ours = {**LOCMEM, "KEY_FUNCTION": "pg_tenants.contrib.cache.make_key"}
    order = [CACHE_MIDDLEWARE[0], checks.MIDDLEWARE, CACHE_MIDDLEWARE[1]]
    with override_settings(MIDDLEWARE=order, CACHES={"default": ours}):
        says(only(checks.check_surroundings(), "pg_tenants.W051"), "UpdateCacheMiddleware", "top of MIDDLEWARE")


@pytest.mark.parametrize("engine", ["file", "signed_cookies", "db", "cached_db"])
def test_w052_sessions_that_tenants_share(engine: str) -> None:
    """In files, cookies or a shared table, unless the engine is ours."""
    modules = {
        **MODULES,
        "shared": {**MODULES["shared"], "apps": [*MODULES["shared"]["apps"], SESSIONS]},
        "tenant": {**MODULES["tenant"], "apps": [app for app in MODULES["tenant"]["apps"] if app != SESSIONS]},
    }
    caches = {"default": {**LOCMEM, "KEY_FUNCTION": "pg_tenants.contrib.cache.make_key"}}
    with override_settings(SESSION_ENGINE=f"{SESSIONS}.backends.{engine}", CACHES=caches):
        message = only(run(checks.check_surroundings, MODULES=modules), "pg_tenants.W052")
        says(message, engine, f"'pg_tenants.contrib.sessions.{engine}'")
        if engine in ("db", "cached_db"):
            assert checks.check_surroundings() == []
    with override_settings(SESSION_ENGINE=f"pg_tenants.contrib.sessions.{engine}", CACHES=caches):
        assert run(checks.check_surroundings, MODULES=modules) == []


@pytest.mark.parametrize("engine", ["file", "signed_cookies", "db", "cached_db", "cache"])
def test_sessions_that_say_which_tenant_is_meant_are_shared(engine: str) -> None:
    """With a SessionResolver one session serves all tenants; bound to one, each login() would be a WrongTenant."""
    modules = {**MODULES, "shared": {**MODULES["shared"], "apps": [*MODULES["shared"]["apps"], SESSIONS]}}
    order = [f"{SESSIONS}.middleware.SessionMiddleware", checks.MIDDLEWARE]
    with override_settings(
        SESSION_ENGINE=f"{SESSIONS}.backends.{engine}", CACHES={"default": LOCMEM}, MIDDLEWARE=order
    ):
        resolvers = ["pg_tenants.resolvers.SessionResolver"]
        assert run(checks.check_surroundings, MODULES=modules, RESOLVERS=resolvers) == []


def test_the_checks_are_registered() -> None:
    """`manage.py check` runs them; the one that connects only where a database is named."""
    with override_settings(PG_TENANTS={**RAW, "X": 1}, DATABASE_ROUTERS=[]):
        ids = {message.id for message in django_checks.run_checks()}
    assert {"pg_tenants.E001", "pg_tenants.E009"} <= ids


@pytest.mark.parametrize(
    ("change", "check_id", "parts"),
    [
        ("PG_TENANTS['TENANT_MODEL'] = 'customers.Tennant'", "E007", ["'customers.Tennant'"]),
        ("PG_TENANTS['TENANT_MODEL'] = 'Tenant'", "E007", ["'Tenant'", "app_label.ModelName"]),
        ("del PG_TENANTS['TENANT_MODEL']", "E003", ["'TENANT_MODEL'"]),
        ("PG_TENANTS = 7", "E002", ["settings.PG_TENANTS is 7"]),
        ("DATABASES['default']['ENGINE'] = 'django.db.backends.postgresql'; DATABASES['default']['OPTIONS'] = {}",
         "E010", ["'django.db.backends.postgresql'", "'pg_tenants.backends.postgresql'"]),
        ("DATABASES['default'] = {'ENGINE': 'django.db.backends.sqlite3', 'NAME': ':memory:'}", "E010", ["sqlite3"]),
        ("DATABASE_ROUTERS = []", "E009", ["'pg_tenants.routers.TenantRouter'"]),
        ("PG_TENANTS['MODULES']['tenant']['apps'].append('example_project.customers')", "E008", ["'customers'"]),
        ("PG_TENANTS['MODULES']['tenant'] = None", "E002", ["['tenant'] is None"]),
        ("INSTALLED_APPS.remove('django.contrib.sessions')", "E004", ["'django.contrib.sessions'"]),
    ],
)  # fmt: skip
def test_a_project_that_starts_with_a_mistake(tmp_path: Path, change: str, check_id: str, parts: list[str]) -> None:
    """`manage.py check` says what is wrong; the mistake does not stop it from loading the apps."""
    done = check_project(tmp_path, change)
    assert done.returncode == 1, done.stdout
    assert "Traceback" not in done.stderr, done.stderr
    assert f"(pg_tenants.{check_id})" in done.stderr
    for part in parts:
        assert part in done.stderr
    # Nothing was connected to, and nothing was started.
    assert "cannot be used" not in done.stderr


def check_project(folder: Path, change: str) -> subprocess.CompletedProcess[str]:
    (folder / "mistaken.py").write_text(f"from tests.settings import *\n{change}\n")
    path = os.pathsep.join([str(folder), str(ROOT)])
    environ = {**os.environ, "DJANGO_SETTINGS_MODULE": "mistaken", "PYTHONPATH": path}
    command = [sys.executable, "-m", "django", "check"]
    return subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=60, check=False)


def test_a_domain_model_without_settings_says_what_is_missing(tmp_path: Path) -> None:
    """It cannot be made, because it refers to the TENANT_MODEL."""
    done = check_project(tmp_path, "del PG_TENANTS")
    assert done.returncode == 1
    assert "settings.PG_TENANTS is missing. Set it to a dictionary" in done.stderr.splitlines()[-1]


def test_options_raise_where_they_are_used() -> None:
    """Whoever skips the checks gets the same words."""
    connection = DatabaseWrapper({**connections["default"].settings_dict, "OPTIONS": {"tenants": {"x": 1}}}, "bad")
    with pytest.raises(ConfigurationError, match=r"DATABASES\['bad'\].*no key 'x'"):
        connection.tenant_options  # noqa: B018


def test_messages_of_models_name_the_field() -> None:
    """So that `manage.py check` can point to it."""
    modules = {**MODULES, "log": {"schema": "log", "apps": ["admin"]}}
    modules["tenant"] = {"apps": [app for app in MODULES["tenant"]["apps"] if "admin" not in app]}
    found = run(checks.check_models, MODULES=modules)
    assert all(isinstance(message.obj, models.Field) for message in found)


# -- the admin --------------------------------------------------------------------------------------------------------


def test_w090_an_admin_class_that_makes_schemas_inside_requests() -> None:
    """The class is named, and what to inherit from."""
    from django.contrib import admin

    from example_project.customers.models import Tenant

    site = admin.AdminSite(name="w090")
    site.register(Tenant)
    message = only(run(checks.check_admin, MODULES=EXAMPLE["MODULES"]), "pg_tenants.W090")
    says(message, "ModelAdmin, of Tenant", "class ModelAdmin(TenantAdmin)")
    site.unregister(Tenant)
    assert run(checks.check_admin, MODULES=EXAMPLE["MODULES"]) == []


def test_w091_an_admin_whose_users_have_no_tables() -> None:
    """The apps that are missing in the fixed modules are named."""
    import example_project.customers.admin  # noqa: F401

    message = only(checks.check_admin(), "pg_tenants.W091")
    says(message, "'admin', 'contenttypes', 'auth'", "fixed module of the TENANT_MODEL")


def test_e090_a_development_server_that_cannot_be() -> None:
    """Its own words are in the message; variables of the environment count."""
    found = run(checks.check_pgserver, PGSERVER={"prot": 7432})
    says(only(found, "pg_tenants.E090"), "'prot'", "Did you mean 'port'?")
    found = run(checks.check_pgserver, PGSERVER={"engine": "docker"})
    says(only(found, "pg_tenants.E090"), "'docker'", "neither 'version' nor 'image'")
    assert run(checks.check_pgserver, PGSERVER={"port": 7432}) == []


def test_e091_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the development server is used; elsewhere its libraries need not be there."""
    monkeypatch.setitem(sys.modules, "pg_tenants.server", None)
    says(only(run(checks.check_pgserver), "pg_tenants.E091"), "'default'", "pip install 'pg_tenants[server]'")
    with pytest.raises(ConfigurationError, match=r"'default'.*pip install 'pg_tenants\[server\]'"):
        DatabaseWrapper(connections.settings["default"], "default").get_connection_params()
    monkeypatch.setattr("pg_tenants.checks._servers.pgserver_aliases", list)
    assert run(checks.check_pgserver, PGSERVER={"prot": 1}) == []


def test_w092_the_development_server_in_production() -> None:
    """With check --deploy alone."""
    says(only(checks.check_deployment(), "pg_tenants.W092"), "'default'", "not for production", "postgresql://")
    assert checks.check_deployment not in django_checks.registry.registry.registered_checks
    assert checks.check_deployment in django_checks.registry.registry.deployment_checks


@pytest.mark.parametrize(
    ("name", "text", "check_id"),
    [
        (None, "", "pg_tenants.E042"),
        ("first.sql", "SELECT 1", "pg_tenants.E043"),
        ("1_b.sql", "SELECT 1", "pg_tenants.E044"),
        ("0002_a.sql", "COMMIT", "pg_tenants.E045"),
        ("0002_a.sql", "SELECT {{nothing}}", "pg_tenants.E046"),
        ("0002_a.sql", "-- nothing", "pg_tenants.W042"),
        ("shared", "", "pg_tenants.E047"),
    ],
)
def test_sql_migrations(tmp_path: Any, name: str | None, text: str, check_id: str) -> None:
    """Of folders and files that cannot be used; more cases are with the tests of SQL files."""
    from django.conf import settings

    from pg_tenants.checks import check_sql_migrations

    (tmp_path / "0001_a.sql").write_text("SELECT 1")
    modules = {key: dict(module) for key, module in settings.PG_TENANTS["MODULES"].items()}
    modules["tenant"]["sql_migrations"] = tmp_path if name else tmp_path / "none"
    if name == "shared":
        modules["billing"]["sql_migrations"] = tmp_path
    elif name:
        (tmp_path / name).write_text(text)
    with override_settings(PG_TENANTS={**settings.PG_TENANTS, "MODULES": modules}):
        assert [found.id for found in check_sql_migrations()] == [check_id]
