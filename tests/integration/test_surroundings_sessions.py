"""A session is good for its own tenant alone, whatever it is stored in."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from asgiref.sync import iscoroutinefunction
from django.conf import settings
from django.contrib.auth import alogin, alogout, login, logout
from django.contrib.auth.models import User
from django.contrib.auth.tokens import PasswordResetTokenGenerator, default_token_generator
from django.contrib.sessions.backends.base import SessionBase
from django.contrib.sessions.models import Session
from django.core import signing
from django.core.cache import caches
from django.core.management import call_command
from django.db import connection
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.test import Client, override_settings
from django.urls import path

from pg_tenants import current_schema, schema_context, tenant_context
from pg_tenants.contrib.sessions import SCHEMA_KEY
from pg_tenants.exceptions import WrongTenant
from tests.integration.test_middleware import HostClient, run

ENGINES = ("db", "cache", "cached_db", "file", "signed_cookies")
RAW: dict[str, Any] = settings.PG_TENANTS
MODULES: dict[str, Any] = RAW["MODULES"]
SESSIONS = "django.contrib.sessions"
SHARED = {
    **MODULES,
    "shared": {**MODULES["shared"], "apps": [*MODULES["shared"]["apps"], SESSIONS]},
    "tenant": {**MODULES["tenant"], "apps": [app for app in MODULES["tenant"]["apps"] if app != SESSIONS]},
}


def who(request: HttpRequest) -> HttpResponse:
    found = {key: value for key, value in request.session.items() if not key.startswith("_")}
    return JsonResponse({"user": request.user.get_username(), "session": found})


def log_in(request: HttpRequest) -> HttpResponse:
    login(request, User.objects.get())
    request.session["secret"] = current_schema()
    return HttpResponse()


def log_out(request: HttpRequest) -> HttpResponse:
    logout(request)
    return HttpResponse()


def write(request: HttpRequest) -> HttpResponse:
    request.session["secret"] = "overwritten"
    return HttpResponse()


def clear(request: HttpRequest) -> HttpResponse:
    request.session.clear()
    return HttpResponse()


def flush(request: HttpRequest) -> HttpResponse:
    request.session.flush()
    return HttpResponse()


def delete(request: HttpRequest) -> HttpResponse:
    request.session.delete()
    return HttpResponse()


def cycle(request: HttpRequest) -> HttpResponse:
    request.session.cycle_key()
    return HttpResponse()


async def who_async(request: HttpRequest) -> HttpResponse:
    user = await request.auser()
    found = {key: value for key, value in await request.session.aitems() if not key.startswith("_")}
    return JsonResponse({"user": user.get_username(), "session": found})


async def log_in_async(request: HttpRequest) -> HttpResponse:
    await alogin(request, await User.objects.aget())
    await request.session.aset("secret", current_schema())
    return HttpResponse()


async def log_out_async(request: HttpRequest) -> HttpResponse:
    await alogout(request)
    return HttpResponse()


async def write_async(request: HttpRequest) -> HttpResponse:
    await request.session.aset("secret", "overwritten")
    return HttpResponse()


async def clear_async(request: HttpRequest) -> HttpResponse:
    request.session.clear()
    await request.session.asave()
    return HttpResponse()


async def flush_async(request: HttpRequest) -> HttpResponse:
    await request.session.aflush()
    return HttpResponse()


async def delete_async(request: HttpRequest) -> HttpResponse:
    await request.session.adelete()
    return HttpResponse()


async def cycle_async(request: HttpRequest) -> HttpResponse:
    await request.session.acycle_key()
    return HttpResponse()


def elsewhere(request: HttpRequest) -> HttpResponse:
    with schema_context("globex"):
        login(request, User.objects.get())
    return HttpResponse()


VIEWS = [who, log_in, log_out, write, clear, flush, delete, cycle, elsewhere]
VIEWS += [who_async, log_in_async, log_out_async, write_async, clear_async, flush_async, delete_async, cycle_async]
NOBODY: dict[str, Any] = {"user": "", "session": {}}

Ask = Callable[..., Any]


def wsgi(tenant: str, view: str, cookie: str = "") -> Any:
    """Ask a tenant's site, with a session's cookie, and return the response."""
    client = Client(headers={"host": f"{tenant}.localhost"})
    client.cookies[settings.SESSION_COOKIE_NAME] = cookie
    return client.get(f"/{view}/")


def asgi(tenant: str, view: str, cookie: str = "") -> Any:
    """Do the same through the other handler and an asynchronous view."""
    client = HostClient()
    client.cookies[settings.SESSION_COOKIE_NAME] = cookie
    return run(client.get(f"/{view}_async/", headers={"host": f"{tenant}.localhost"}))


ASKS: list[Ask] = [wsgi, asgi]


def cookie_of(response: Any) -> str:
    morsel = response.cookies.get(settings.SESSION_COOKIE_NAME)
    return morsel.value if morsel else ""


@contextlib.contextmanager
def stored(engine: str, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Store sessions by an engine: ``shared`` by all tenants, or ``own`` to each as far as the store can."""
    shared = where == "shared"
    cache = {"BACKEND": "django.core.cache.backends.locmem.LocMemCache", "LOCATION": str(tmp_path)}
    key_function = {} if shared else {"KEY_FUNCTION": "pg_tenants.contrib.cache.make_key"}
    store = import_module(f"django.contrib.sessions.backends.{engine.rpartition('.')[2]}").SessionStore
    if engine.endswith("file"):
        monkeypatch.setattr(store, "_storage_path", str(tmp_path), raising=False)
    with override_settings(
        SESSION_ENGINE=engine,
        SESSION_COOKIE_DOMAIN=".localhost",
        CACHES={"default": {**cache, **key_function}},
        PG_TENANTS={**RAW, "MODULES": SHARED if shared else MODULES},
        ROOT_URLCONF="sessions_urls",
    ):
        if shared:
            with schema_context("public"), connection.schema_editor() as editor:
                editor.create_model(Session)
        try:
            yield
        finally:
            caches.close_all()
            if shared:
                with schema_context("public"), connection.schema_editor() as editor:
                    editor.delete_model(Session)


@pytest.fixture(autouse=True)
def _urls() -> Iterator[None]:
    module: Any = ModuleType("sessions_urls")
    module.urlpatterns = [path(f"{view.__name__}/", view) for view in VIEWS]
    sys.modules["sessions_urls"] = module
    yield
    del sys.modules["sessions_urls"]


STORES = [(engine, "shared") for engine in ENGINES] + [(engine, "own") for engine in ("db", "cache", "cached_db")]


@pytest.fixture(params=STORES, ids="-".join)
def engine(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, open_db: None
) -> Iterator[str]:
    name, where = request.param
    with stored(f"pg_tenants.contrib.sessions.{name}", where, tmp_path, monkeypatch):
        yield name
        # Before the setting that says where they are goes.
        from example_project.customers.models import Tenant

        for tenant in Tenant.objects.filter(schema_name__in=["acme", "globex"]):
            tenant.delete()


def equal_users() -> None:
    """Make globex's user acme's in number and password, as in a tenant that was copied."""
    with schema_context("acme"):
        user = User.objects.get()
    with schema_context("globex"):
        User.objects.update(password=user.password)
        assert User.objects.get().pk == user.pk


@pytest.fixture
def pair(engine: str, request: pytest.FixtureRequest) -> None:
    """Make two tenants whose users cannot be told apart by a session."""
    for name in ("acme", "globex"):
        request.getfixturevalue(name)
    equal_users()


def test_a_session_works_at_home(engine: str, pair: None) -> None:
    """Log in, read, write, take a new key, clear, flush, log out: as with Django's engine."""
    for ask in ASKS:
        cookie = cookie_of(ask("acme", "log_in"))
        for _ in range(2):
            assert ask("acme", "who", cookie).json() == {"user": "ada-acme", "session": {"secret": "acme"}}
        cookie = cookie_of(ask("acme", "write", cookie)) or cookie
        assert ask("acme", "who", cookie).json()["session"] == {"secret": "overwritten"}
        before, cookie = cookie, cookie_of(ask("acme", "cycle", cookie)) or cookie
        assert ask("acme", "who", cookie).json()["user"] == "ada-acme"
        cookie = cookie_of(ask("acme", "clear", cookie)) or cookie
        assert ask("acme", "who", cookie).json() == NOBODY
        gone = [before]
        for act in ("flush", "log_out"):
            cookie = cookie_of(ask("acme", "log_in"))
            assert not cookie_of(ask("acme", act, cookie))
            gone.append(cookie)
        if engine != "signed_cookies":
            assert [ask("acme", "who", cookie).json() for cookie in gone] == [NOBODY] * 3


def test_another_tenant_refuses_the_cookie(engine: str, pair: None) -> None:
    """Its reader is nobody, what it does there gets a key of its own, and the session at home is not touched."""
    for ask in ASKS:
        cookie = cookie_of(ask("acme", "log_in"))
        response = ask("globex", "who", cookie)
        assert response.json() == NOBODY
        assert cookie_of(response) == ""
        for act in ("write", "clear", "flush", "delete", "cycle", "log_in", "log_out"):
            other = cookie_of(ask("globex", act, cookie))
            assert other != cookie
            if act == "log_in":
                assert ask("globex", "who", other).json() == {"user": "ada-globex", "session": {"secret": "globex"}}
                assert ask("acme", "who", other).json() == NOBODY
            if act == "write":
                assert ask("globex", "who", other).json() == {"user": "", "session": {"secret": "overwritten"}}
            assert ask("acme", "who", cookie).json() == {"user": "ada-acme", "session": {"secret": "acme"}}, act


@pytest.mark.parametrize("name", ["db", "cache", "file", "signed_cookies"])
def test_djangos_engines_accept_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, open_db: None, request: pytest.FixtureRequest
) -> None:
    """In a store that tenants share: the tests above show what there is to show."""
    with stored(f"django.contrib.sessions.backends.{name}", "shared", tmp_path, monkeypatch):
        tenants = [request.getfixturevalue(tenant) for tenant in ("acme", "globex")]
        equal_users()
        for ask in ASKS:
            cookie = cookie_of(ask("acme", "log_in"))
            assert ask("globex", "who", cookie).json() == {"user": "ada-globex", "session": {"secret": "acme"}}
        for tenant in tenants:
            tenant.delete()


def test_no_tenant_active(engine: str, pair: None) -> None:
    """A tenant's session is not read there; one that was made there is no tenant's."""
    cookie = cookie_of(Client(headers={"host": "acme.localhost"}).get("/log_in/"))
    store = import_module(settings.SESSION_ENGINE).SessionStore
    with schema_context("public"):
        if engine not in ("db", "cached_db") or settings.PG_TENANTS["MODULES"] is SHARED:
            assert dict(store(cookie).items()) == {}
    if engine in ("db", "cached_db"):
        return
    assert dict(store(cookie).items()) == {}
    session = store()
    session["a"] = 1
    session.save()
    assert dict(store(session.session_key).items()) == {"a": 1}
    with schema_context("acme"):
        assert dict(store(session.session_key).items()) == {}


@pytest.mark.parametrize("engine", [("db", "own"), ("signed_cookies", "shared")], indirect=True, ids="-".join)
def test_a_login_in_another_tenants_context_is_an_error(engine: str, pair: None) -> None:
    """Its user would become another one of the request's tenant."""
    client = Client(headers={"host": "acme.localhost"})
    client.get("/log_in/")
    with pytest.raises(WrongTenant, match=r"'globex'.*'acme'.*SessionMiddleware"):
        client.get("/elsewhere/")
    assert current_schema() is None


def test_expired_sessions(engine: str, pair: None) -> None:
    """They are refused, and `clearsessions` removes them and no others."""
    store = import_module(settings.SESSION_ENGINE).SessionStore
    with schema_context("acme"):
        old, young = store(), store()
        old["a"] = young["a"] = 1
        old.set_expiry(-10)
        old.save()
        young.save()
        if engine != "signed_cookies":
            assert "a" not in store(old.session_key)
    with schema_context("acme"):
        call_command("clearsessions")
        assert store(young.session_key)["a"] == 1


@pytest.mark.parametrize("engine", [("db", "own")], indirect=True, ids="-".join)
def test_the_test_client_logs_in(engine: str, pair: None) -> None:
    """Inside the tenant, whose session it makes."""
    client = Client(headers={"host": "acme.localhost"})
    with schema_context("acme"):
        client.force_login(User.objects.get())
        assert client.session[SCHEMA_KEY] == "acme"
    assert client.get("/who/").json()["user"] == "ada-acme"


@pytest.mark.parametrize("engine", [("db", "own")], indirect=True, ids="-".join)
def test_reading_costs_no_more_queries(
    engine: str, pair: None, django_assert_num_queries: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One to load, and what Django needs to save."""
    store = import_module(settings.SESSION_ENGINE).SessionStore
    with schema_context("acme"):
        session = store()
        session["a"] = 1
        session.save()
        with django_assert_num_queries(1):
            again = store(session.session_key)
            assert again["a"] == 1
        again["a"] = 2
        with django_assert_num_queries(3):
            again.save()


def test_no_engine_of_django_is_missing() -> None:
    """Each of Django's has its bound one, and it is Django's class."""
    import django.contrib.sessions.backends as theirs

    names = {path.stem for path in Path(theirs.__path__[0]).glob("*.py")} - {"__init__", "base"}
    assert names == set(ENGINES)
    for name in names:
        ours = import_module(f"pg_tenants.contrib.sessions.{name}").SessionStore
        assert issubclass(ours, import_module(f"django.contrib.sessions.backends.{name}").SessionStore)
        for method in ("load", "save", "delete"):
            assert not iscoroutinefunction(getattr(SessionBase, method))


# -- signed values ----------------------------------------------------------------------------------------------------


class TenantTokenGenerator(PasswordResetTokenGenerator):
    def _make_hash_value(self, user: Any, timestamp: int) -> str:
        return f"{current_schema()}{super()._make_hash_value(user, timestamp)}"


def test_links_for_a_new_password(acme: Any, globex: Any) -> None:
    """They depend on the password's hash, so they are good elsewhere for copied rows alone; bound ones never."""
    with tenant_context(acme):
        user = User.objects.get()
        link, bound = default_token_generator.make_token(user), TenantTokenGenerator().make_token(user)
        assert TenantTokenGenerator().check_token(user, bound)
    with tenant_context(globex):
        other = User.objects.get()
        assert other.pk == user.pk
        assert not default_token_generator.check_token(other, link)
        other.password, other.email, other.last_login = user.password, user.email, user.last_login
        assert default_token_generator.check_token(other, link)
        assert not TenantTokenGenerator().check_token(other, bound)


def test_signed_values(acme: Any, globex: Any) -> None:
    """They are good everywhere unless the salt names the schema."""
    with tenant_context(acme):
        plain, bound = signing.dumps("invitation"), signing.dumps("invitation", salt=f"invite-{current_schema()}")
    with tenant_context(globex):
        assert signing.loads(plain) == "invitation"
        with pytest.raises(signing.BadSignature):
            signing.loads(bound, salt=f"invite-{current_schema()}")


def test_async_tasks_share_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, acme: Any, globex: Any) -> None:
    """Sessions that are made and read in turns stay apart."""
    with (
        stored("pg_tenants.contrib.sessions.cache", "own", tmp_path, monkeypatch),
        override_settings(
            CACHES={"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache", "LOCATION": str(tmp_path)}}
        ),
    ):
        store = import_module(settings.SESSION_ENGINE).SessionStore
        keys: dict[str, str] = {}

        async def work(mine: Any, theirs: Any) -> list[Any]:
            async with tenant_context(mine):
                session = store()
                await session.aset("who", mine.schema_name)
                await session.asave()
                keys[mine.schema_name] = session.session_key
                while len(keys) < 2:
                    await asyncio.sleep(0)
                names = (mine.schema_name, theirs.schema_name)
                return [await store(keys[name]).aget("who") for name in names]

        async def main() -> list[Any]:
            return await asyncio.gather(work(acme, globex), work(globex, acme))

        assert asyncio.run(main()) == [["acme", None], ["globex", None]]
