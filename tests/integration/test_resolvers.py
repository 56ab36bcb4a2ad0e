"""Requests to tenants that a path, a header, a session or a subdomain names."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
from django.conf import settings
from django.contrib.auth.models import User
from django.core.handlers.wsgi import WSGIHandler
from django.db import connections
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, JsonResponse, StreamingHttpResponse
from django.shortcuts import redirect
from django.template import Context, Template
from django.test import Client, RequestFactory, override_settings
from django.urls import URLResolver, get_script_prefix, include, path, reverse
from django.urls.resolvers import _get_cached_resolver, get_ns_resolver

from example_project.customers.models import Tenant
from pg_tenants import current_schema, tenant_context
from pg_tenants.exceptions import TenantNotFound
from pg_tenants.middleware import TenantMiddleware
from pg_tenants.resolvers import HeaderResolver, TenantResolver, tenant_by
from tests.conftest import set_status
from tests.integration.test_middleware import HostClient, run

RAW: dict[str, Any] = settings.PG_TENANTS
PATH = "pg_tenants.resolvers.PathResolver"
HEADER = "pg_tenants.resolvers.HeaderResolver"
SESSION = "pg_tenants.resolvers.SessionResolver"
DOMAIN = "pg_tenants.resolvers.DomainResolver"
SUBDOMAIN = ("pg_tenants.resolvers.SubdomainResolver", {"base": "example.com"})
SIGNED = "django.contrib.sessions.backends.signed_cookies"


class Boom(Exception):
    """Raised by a view."""


def facts(request: HttpRequest) -> dict[str, Any]:
    return {
        "schema": current_schema(),
        "tenant": getattr(request.tenant, "schema_name", None),  # type: ignore[attr-defined]
        "path": request.path,
        "path_info": request.path_info,
        "script": request.META["SCRIPT_NAME"],
        "url": request.build_absolute_uri(),
        "reverse": reverse("shop:item", args=[7]),
        "tag": Template("{% url 'what' %} {% load static %}{% static 'a.css' %}").render(Context()),
    }


def what(request: HttpRequest) -> JsonResponse:
    return JsonResponse(facts(request))


async def what_async(request: HttpRequest) -> JsonResponse:
    await asyncio.sleep(0.001)
    return JsonResponse(facts(request))


def item(request: HttpRequest, number: int) -> HttpResponseRedirect:
    return redirect("what")


def fail(request: HttpRequest) -> HttpResponse:
    raise Boom(reverse("what"))


async def fail_async(request: HttpRequest) -> HttpResponse:
    raise Boom(reverse("what"))


def stream(request: HttpRequest) -> StreamingHttpResponse:
    def parts() -> Iterator[str]:
        for _ in range(3):
            yield f"{current_schema()} {reverse('what')} {request.path_info}\n"

    return StreamingHttpResponse(parts())


async def stream_async(request: HttpRequest) -> StreamingHttpResponse:
    async def parts() -> AsyncIterator[str]:
        for _ in range(3):
            await asyncio.sleep(0)
            yield f"{current_schema()} {reverse('what')} {request.path_info}\n"

    return StreamingHttpResponse(parts())


def choose(request: HttpRequest, name: str) -> HttpResponse:
    request.session["tenant"] = name
    return HttpResponse(current_schema())


def public(request: HttpRequest) -> HttpResponse:
    return HttpResponse(f"public {current_schema()} {reverse('what')}")


def module(name: str, *patterns: Any) -> None:
    made: Any = ModuleType(name)
    shop = include(([path("<int:number>/", item, name="item")], "shop"))
    made.urlpatterns = [path("what/", what, name="what"), path("shop/", shop), *patterns]
    sys.modules[name] = made


@pytest.fixture(autouse=True)
def _urls() -> Iterator[None]:
    module(
        "resolver_urls",
        path("what-async/", what_async),
        path("fail/", fail),
        path("fail-async/", fail_async),
        path("stream/", stream),
        path("stream-async/", stream_async),
        path("choose/<name>/", choose),
    )
    module("resolver_public_urls", path("", public), path("choose/<name>/", choose))
    with override_settings(ROOT_URLCONF="resolver_urls"):
        yield
    del sys.modules["resolver_urls"], sys.modules["resolver_public_urls"]


class using(override_settings):
    """Has these resolvers, and a public site."""

    def __init__(self, *resolvers: Any, **changes: Any):
        tenants = {
            **RAW,
            "RESOLVERS": list(resolvers),
            "PUBLIC_HOSTS": ["www.example.com"],
            "PUBLIC_URLCONF": "resolver_public_urls",
            **changes,
        }
        super().__init__(PG_TENANTS=tenants)


Ask = Callable[..., Any]


@pytest.fixture(params=["wsgi", "asgi"])
def ask(request: pytest.FixtureRequest) -> Ask:
    """Return a function that asks for a path, through either handler."""

    def wsgi(url: str, host: str = "www.example.com", *, raises: bool = True, **headers: str) -> Any:
        sent = {"host": host, **{name.replace("_", "-"): value for name, value in headers.items()}}
        response = Client(raise_request_exception=raises).get(url, headers=sent)
        assert (current_schema(), get_script_prefix()) == (None, "/")
        return response

    async def asgi(url: str, host: str = "www.example.com", *, raises: bool = True, **headers: str) -> Any:
        sent = {"host": host, **{name.replace("_", "-"): value for name, value in headers.items()}}
        response: Any = await HostClient(raise_request_exception=raises).get(url, headers=sent)
        assert (current_schema(), get_script_prefix()) == (None, "/")
        return response

    return wsgi if request.param == "wsgi" else lambda *args, **kwargs: run(asgi(*args, **kwargs))


# -- each of them -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("resolver", "url", "host", "headers"),
    [
        (DOMAIN, "/what/", "{}.localhost", {}),
        (SUBDOMAIN, "/what/", "{}.example.com", {}),
        (HEADER, "/what/", "anything.example", {"x_tenant": "{}"}),
        (HEADER, "/what/", "www.example.com", {"x_tenant": "{}"}),
        (PATH, "/t/{}/what/", "anything.example", {}),
        (PATH, "/t/{}/what/", "www.example.com", {}),
    ],
)
def test_known_unknown_and_suspended(
    ask: Ask, acme: Any, globex: Any, resolver: Any, url: str, host: str, headers: dict[str, str]
) -> None:
    """The named tenant, a 404 for one that does not exist, a 503 for one that is not active."""

    def asked(name: str) -> Any:
        return ask(url.format(name), host.format(name), **{key: value.format(name) for key, value in headers.items()})

    with using(resolver):
        for name in ("acme", "globex", "acme"):
            assert (asked(name).json()["schema"], asked(name).json()["tenant"]) == (name, name)
        assert asked("nobody").status_code == 404
        assert asked("acme2").status_code == 404
        globex.suspend()
        assert asked("globex").status_code == 503
        set_status(globex, "active")
        assert asked("globex").json()["schema"] == "globex"


@pytest.mark.parametrize("resolver", [DOMAIN, SUBDOMAIN, HEADER, PATH])
def test_the_public_site_beside_each(ask: Ask, acme: Any, resolver: Any) -> None:
    """It is where nothing names a tenant, on its own hosts alone."""
    with using(resolver):
        assert ask("/").content == b"public public /what/"
        assert ask("/", "other.example").status_code == 404
        assert ask("/what/").json()["tenant"] is None
        assert ask("/fail/").status_code == 404


def test_sessions(acme: Any, globex: Any) -> None:
    """A value of the session names the tenant from the next request on; an unknown one is a 404."""
    order = [name for name in settings.MIDDLEWARE if "sessions" not in name]
    order.insert(0, "django.contrib.sessions.middleware.SessionMiddleware")
    with using(SESSION), override_settings(MIDDLEWARE=order, SESSION_ENGINE=SIGNED):
        client = Client(headers={"host": "www.example.com"})
        assert client.get("/choose/acme/").content == b"public"
        assert client.get("/what/").json()["schema"] == "acme"
        assert client.get("/choose/globex/").content == b"acme"
        response = client.get("/what/")
        assert response.json()["schema"] == "globex"
        assert "Cookie" in response.headers["Vary"]
        client.get("/choose/nobody/")
        assert client.get("/what/").status_code == 404


def test_a_bad_value_never_falls_through(ask: Ask, acme: Any) -> None:
    """Neither to the next resolver, which would find one, nor to the public site."""
    with using(HEADER, PATH, DOMAIN):
        assert ask("/what/", "acme.localhost").json()["schema"] == "acme"
        for value in ("nobody", "", "acme,globex", "ACME", "acme ", "x" * 300, "public", "acme'--"):
            for host in ("acme.localhost", "www.example.com"):
                if value.strip() == "acme":
                    continue
                assert ask("/what/", host, x_tenant=value).status_code == 404, value
        assert ask("/t/nobody/what/", "acme.localhost").status_code == 404
        assert ask("/t/a%00b/what/", "www.example.com").status_code == 404


def test_the_404_names_the_value(acme: Any) -> None:
    """For developers, in debug mode."""
    with using(HEADER, DOMAIN), override_settings(DEBUG=True):
        response = Client().get("/what/", headers={"host": "acme.localhost", "x-tenant": "nobody"})
    assert response.status_code == 404
    assert "HeaderResolver finds no tenant for &#x27;nobody&#x27;" in response.content.decode()


def test_they_are_asked_in_order(ask: Ask, acme: Any, globex: Any) -> None:
    """The first that has a value decides."""
    with using(HEADER, PATH, DOMAIN):
        assert ask("/t/globex/what/", "acme.localhost").json()["schema"] == "globex"
        assert ask("/what/", "acme.localhost", x_tenant="globex").json()["schema"] == "globex"
        assert ask("/t/acme/what/", "x.example", x_tenant="globex").status_code == 404


def test_a_resolver_of_ones_own(ask: Ask, acme: Any, globex: Any) -> None:
    """A subclass or a function, whichever the project has."""

    class QueryResolver(TenantResolver):
        def value(self, request: HttpRequest) -> str | None:
            return request.GET.get("of")

    def by_query(request: HttpRequest) -> Any:
        name = request.GET.get("tenant")
        if name is None:
            return None
        tenant = tenant_by("schema_name", name)
        if tenant is None:
            raise TenantNotFound(f"There is no tenant {name!r}.")
        return tenant

    class ByReversedHeader(HeaderResolver):
        def find(self, value: str) -> Any:
            return Tenant.objects.filter(schema_name=value[::-1]).first()

    for own in (QueryResolver, by_query):
        with using(own, ByReversedHeader):
            name = "of" if own is QueryResolver else "tenant"
            assert ask("/what/", x_tenant="emca").json()["schema"] == "acme"
            assert ask("/what/", x_tenant="acme").status_code == 404
            assert ask(f"/what/?{name}=globex").json()["schema"] == "globex"
            assert ask(f"/what/?{name}=nobody", x_tenant="emca").status_code == 404


def test_other_fields(ask: Ask, acme: Any) -> None:
    """Any unique one; a value that is none of its type names no tenant."""
    with using((HEADER, {"header": "X-Id", "field": "id"})):
        assert ask("/what/", x_id=str(acme.pk)).json()["schema"] == "acme"
        for value in ("acme", "0", "9" * 30, "1.5"):
            assert ask("/what/", x_id=value).status_code == 404, value


def test_caches_on_the_way_are_told_of_the_header(ask: Ask, acme: Any) -> None:
    """Else they would give one tenant's page to another."""
    with using(HEADER):
        for headers in ({"x_tenant": "acme"}, {}):
            assert "X-Tenant" in ask("/what/", **headers).headers["Vary"]


# -- paths ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("url", ["/what/", "/what-async/"])
def test_urls_of_a_tenant_by_path(ask: Ask, acme: Any, url: str) -> None:
    """They are resolved without the prefix and made with it; static files have none."""
    with using(PATH), override_settings(STATIC_URL="static/"):
        assert ask(f"/t/acme{url}?q=1").json() == {
            "schema": "acme",
            "tenant": "acme",
            "path": f"/t/acme{url}",
            "path_info": url,
            "script": "/t/acme",
            "url": f"http://www.example.com/t/acme{url}?q=1",
            "reverse": "/t/acme/shop/7/",
            "tag": "/t/acme/what/ /static/a.css",
        }
        assert ask("/t/acme/shop/7/").headers["Location"] == "/t/acme/what/"
        assert ask("/what/").json()["tag"] == "/what/ /static/a.css"
        assert ask("/t/acme/nowhere/").status_code == 404


def test_the_root_of_a_tenant_by_path(ask: Ask, acme: Any) -> None:
    """With a slash at the end or without, and nothing is stripped twice."""
    sys.modules["resolver_urls"].urlpatterns.append(path("", what))  # type: ignore[attr-defined]
    sys.modules["resolver_urls"].urlpatterns.append(path("t/acme/", what))  # type: ignore[attr-defined]
    with using(PATH):
        for url in ("/t/acme/", "/t/acme"):
            assert (ask(url).json()["path_info"], ask(url).json()["path"]) == ("/", url)
        assert ask("/t/acme/t/acme/").json()["path_info"] == "/t/acme/"


def test_below_another_script_name(acme: Any) -> None:
    """Where the server has mounted the project somewhere, the tenant's part follows it, and goes again."""
    seen: list[Any] = []
    environ = RequestFactory().get("/t/acme/what/", headers={"host": "www.example.com"}).environ
    with using(PATH):
        body = WSGIHandler()({**environ, "SCRIPT_NAME": "/app"}, lambda *args: seen.append(args))
        data = b"".join(body).decode()
    for part in ('"script": "/app/t/acme"', '"path": "/app/t/acme/what/"', '"reverse": "/app/t/acme/shop/7/"'):
        assert part in data
    assert get_script_prefix() == "/app/"


@pytest.fixture(autouse=True)
def _script_prefix() -> Iterator[None]:
    from django.urls import set_script_prefix

    yield
    set_script_prefix("/")


def test_errors_take_the_prefix_away(ask: Ask, acme: Any) -> None:
    """In the view, or in middleware with nothing in between."""
    with using(PATH):
        for url in ("/t/acme/fail/", "/t/acme/fail-async/"):
            with pytest.raises(Boom, match="/t/acme/what/"):
                ask(url)
            assert get_script_prefix() == "/"
            assert ask(url, raises=False).status_code == 500
            assert ask("/").content == b"public public /what/"
        request = RequestFactory().get("/t/acme/", headers={"host": "www.example.com"})
        with pytest.raises(Boom, match="/t/acme/what/"):
            TenantMiddleware(fail)(request)
        assert get_script_prefix() == "/"


def test_streams_have_the_prefix(acme: Any, globex: Any) -> None:
    """Two at once, each its own, and the loop that reads them none."""
    with using(PATH):
        responses: list[Any] = [
            Client().get(f"/t/{name}/stream/", headers={"host": "www.example.com"}) for name in ("acme", "globex")
        ]
        for parts in zip(*responses, strict=True):
            assert get_script_prefix() == "/"
            assert [part.decode() for part in parts] == [
                f"{name} /t/{name}/what/ /stream/\n" for name in ("acme", "globex")
            ]

        async def main() -> list[str]:
            async def one(name: str) -> str:
                client = HostClient()
                response: Any = await client.get(f"/t/{name}/stream-async/", headers={"host": "www.example.com"})
                found = ""
                async for part in response:
                    assert get_script_prefix() == "/"
                    found += part.decode()
                return found

            return await asyncio.gather(*(one(name) for name in ["acme", "globex"] * 4))

        assert run(main()) == [f"{name} /t/{name}/what/ /stream-async/\n" * 3 for name in ["acme", "globex"] * 4]


def test_many_at_once_have_their_own_prefix(acme: Any, globex: Any) -> None:
    """Threads and tasks."""
    wrong: list[Any] = []

    def thread(name: str) -> None:
        try:
            for _ in range(15):
                data = Client().get(f"/t/{name}/what/", headers={"host": "www.example.com"}).json()
                if (data["reverse"], data["schema"]) != (f"/t/{name}/shop/7/", name):
                    wrong.append(data)
        except Exception as exc:  # noqa: BLE001
            wrong.append(exc)
        finally:
            connections.close_all()

    async def task(name: str) -> Any:
        response = await HostClient().get(f"/t/{name}/what-async/", headers={"host": "www.example.com"})
        return response.json()["reverse"]

    async def main() -> list[Any]:
        return await asyncio.gather(*(task(name) for name in ["acme", "globex"] * 10))

    with using(PATH):
        threads = [threading.Thread(target=thread, args=[name]) for name in ["acme", "globex"] * 3]
        for one in threads:
            one.start()
        for one in threads:
            one.join()
        assert wrong == []
        assert run(main()) == ["/t/acme/shop/7/", "/t/globex/shop/7/"] * 10


def test_the_url_configuration_is_built_once(acme: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fifty tenants take no more of it than one, and each request reads no more of it."""

    def caches() -> tuple[int, int, int]:
        gc.collect()
        objects = sum(isinstance(found, URLResolver) for found in gc.get_objects())
        return objects, _get_cached_resolver.cache_info().currsize, get_ns_resolver.cache_info().currsize

    with using(PATH):
        client = Client(headers={"host": "www.example.com"})
        assert client.get("/t/acme/what/").json()["reverse"] == "/t/acme/shop/7/"
        before = caches()
        for number in range(50):
            monkeypatch.setattr(
                "pg_tenants.resolvers.tenant_by", lambda field, value: Tenant(schema_name=value, status="active")
            )
            assert client.get(f"/t/t{number}/what/").json()["reverse"] == f"/t/t{number}/shop/7/"
        assert caches() == before


def test_login_and_admin_of_a_tenant_by_path(acme: Any, globex: Any) -> None:
    """Their redirects and links stay with the tenant. The cookie is the host's, so it holds one login at a time."""
    with tenant_context(acme):
        User.objects.create_superuser("root", password="secret")
    with using(PATH), override_settings(ROOT_URLCONF="example_project.urls"):
        client = Client(headers={"host": "www.example.com"})
        response = client.get("/t/acme/admin/")
        assert response.headers["Location"] == "/t/acme/admin/login/?next=/t/acme/admin/"
        login = {"username": "root", "password": "secret"}
        response = client.post(response.headers["Location"], login)
        assert response.headers["Location"] == "/t/acme/admin/"
        page = client.get("/t/acme/admin/")
        assert page.status_code == 200
        assert 'href="/t/acme/admin/notes/note/"' in page.content.decode()
        assert 'href="/static/admin/css/base' in page.content.decode()
        assert client.cookies["sessionid"]["path"] == "/"
        assert client.get("/t/globex/admin/").status_code == 302
