"""A request's tenant is active from before the view until the last byte of the response."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.conf import settings
from django.contrib.auth.decorators import login_required
from django.contrib.auth.models import User
from django.db import connections
from django.http import FileResponse, HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from django.template.response import TemplateResponse
from django.test import AsyncClient, Client, RequestFactory, override_settings
from django.urls import path

from example_project.customers.models import Domain, Tenant
from example_project.notes.models import Note
from pg_tenants import current_schema, current_tenant, tenant_context
from pg_tenants.exceptions import TenantNotFound
from pg_tenants.middleware import TenantMiddleware
from pg_tenants.models import TenantStatus
from tests.conftest import set_status

RAW: dict[str, Any] = settings.PG_TENANTS
SEEN: list[Any] = []


class Boom(Exception):
    """Raised by a view."""


def what(request: HttpRequest) -> HttpResponse:
    tenant = request.tenant  # type: ignore[attr-defined]
    titles = list(Note.objects.values_list("title", flat=True)) if tenant else None
    return JsonResponse({"schema": current_schema(), "tenant": str(tenant), "notes": titles})


def count_in_a_thread() -> int:
    try:
        return Note.objects.count()
    finally:
        connections.close_all()


async def what_async(request: HttpRequest) -> HttpResponse:
    titles = [note.title async for note in Note.objects.all()]
    count = await sync_to_async(count_in_a_thread, thread_sensitive=False)()
    return JsonResponse({"schema": current_schema(), "tenant": str(current_tenant()), "notes": titles, "count": count})


def fail(request: HttpRequest) -> HttpResponse:
    raise Boom(current_schema())


async def fail_async(request: HttpRequest) -> HttpResponse:
    raise Boom(current_schema())


def parts() -> Iterator[str]:
    try:
        for note in Note.objects.all():
            yield f"{current_schema()}: {note.title}\n"
        with tenant_context(Tenant.objects.exclude(pk=current_tenant().pk).get()):
            yield f"{current_schema()}: {Note.objects.get().title}\n"
            yield f"{current_schema()}: {Note.objects.get().title}\n"
        yield f"{current_schema()}: {Note.objects.count()}\n"
    finally:
        SEEN.append(current_schema())


async def parts_async() -> AsyncIterator[str]:
    try:
        async for note in Note.objects.all():
            yield f"{current_schema()}: {note.title}\n"
        other = await Tenant.objects.exclude(pk=current_tenant().pk).aget()
        async with tenant_context(other):
            yield f"{current_schema()}: {(await Note.objects.aget()).title}\n"
            yield f"{current_schema()}: {(await Note.objects.aget()).title}\n"
        yield f"{current_schema()}: {await Note.objects.acount()}\n"
    finally:
        SEEN.append(current_schema())


STREAM = "acme: note of acme\nglobex: note of globex\nglobex: note of globex\nacme: 1\n"


def stream(request: HttpRequest) -> StreamingHttpResponse:
    return StreamingHttpResponse(parts())


async def stream_async(request: HttpRequest) -> StreamingHttpResponse:
    return StreamingHttpResponse(parts_async())


def file(request: HttpRequest) -> FileResponse:
    return FileResponse(open(__file__, "rb"))  # noqa: PTH123


def template(request: HttpRequest) -> TemplateResponse:
    return TemplateResponse(request, "404.html", {"notes": Note.objects.all()})


@login_required
def private(request: HttpRequest) -> HttpResponse:
    return HttpResponse(request.user.get_username())


def urlconf() -> Any:
    module: Any = ModuleType("tests_urls")
    module.urlpatterns = [
        path("what/", what),
        path("what-async/", what_async),
        path("fail/", fail),
        path("fail-async/", fail_async),
        path("stream/", stream),
        path("stream-async/", stream_async),
        path("file/", file),
        path("template/", template),
        path("private/", private),
        path("login/", what, name="login"),
    ]
    return module


@pytest.fixture(autouse=True)
def _urls() -> Iterator[None]:
    import sys

    SEEN.clear()
    sys.modules["tests_urls"] = urlconf()
    with override_settings(ROOT_URLCONF="tests_urls", PG_TENANTS={**RAW, "PUBLIC_HOSTS": ["www.example"]}):
        yield
    del sys.modules["tests_urls"]


Ask = Callable[..., Any]


class HostClient(AsyncClient):
    """Django's client, which adds its own host beside the one that it is given."""

    def _base_scope(self, **request: Any) -> Any:
        hosts = [header for header in request["headers"] if header[0] == b"host"]
        request["headers"] = hosts[-1:] + [header for header in request["headers"] if header[0] != b"host"]
        return super()._base_scope(**request)  # type: ignore[misc]


@pytest.fixture(params=["wsgi", "asgi"])
def ask(request: pytest.FixtureRequest) -> Ask:
    """Return a function that asks a host for a path, through either handler."""

    def wsgi(host: str, url: str = "/what/", **kwargs: Any) -> Any:
        return Client(raise_request_exception=kwargs.pop("raises", True)).get(url, headers={"host": host}, **kwargs)

    def asgi(host: str, url: str = "/what/", **kwargs: Any) -> Any:
        return run(_ask_async(host, url, raises=kwargs.pop("raises", True), **kwargs))

    return wsgi if request.param == "wsgi" else asgi


async def _ask_async(host: str, url: str, *, raises: bool, **kwargs: Any) -> Any:
    response = await HostClient(raise_request_exception=raises).get(url, headers={"host": host}, **kwargs)
    assert current_schema() is None
    if response.streaming:
        response.text_parts = [part async for part in response]
    return response


def run(coroutine: Awaitable[Any]) -> Any:
    async def main() -> Any:
        try:
            return await coroutine
        finally:
            await sync_to_async(connections.close_all)()

    return asyncio.run(main())


def test_each_host_has_its_tenant(ask: Ask, acme: Any, globex: Any) -> None:
    """The view sees its rows, `request.tenant` and the context; afterwards nothing is active."""
    for url in ("/what/", "/what-async/"):
        for tenant in (acme, globex, acme):
            data = ask(f"{tenant.schema_name}.localhost", url).json()
            assert data["schema"] == tenant.schema_name
            assert data["tenant"] == tenant.name
            assert data["notes"] == [f"note of {tenant.schema_name}"]
            assert data.get("count", 1) == 1
            assert current_schema() is None


def test_spellings_of_a_host(ask: Ask, acme: Any) -> None:
    """Case, port and a final dot make no difference."""
    for host in ("ACME.localhost", "acme.localhost.", "Acme.LocalHost.:8000", "acme.localhost:8000"):
        assert ask(host).json()["schema"] == "acme", host


def test_several_domains_and_letters_beyond_ascii(ask: Ask, acme: Any) -> None:
    """As browsers send them."""
    Domain.objects.create(domain="bücher.example", tenant=acme, is_primary=False)
    assert ask("xn--bcher-kva.example").json()["schema"] == "acme"


def test_an_unknown_host_is_a_404(ask: Ask, acme: Any) -> None:
    """Never the public site, nor another tenant's."""
    for host in ("nobody.localhost", "localhost", "acme.localhost.evil.example", "acme", "127.0.0.1", "[::1]:80"):
        for url in ("/what/", "/nowhere/", "/"):
            response = ask(host, url)
            assert response.status_code == 404, (host, url)
            assert b"note of" not in response.content
            assert current_schema() is None


def test_an_unknown_host_is_told_in_debug_mode(acme: Any) -> None:
    """Django's page for developers needs no tenant."""
    with override_settings(DEBUG=True):
        response = Client().get("/what/", headers={"host": "nobody.localhost"})
    assert response.status_code == 404
    assert b"nobody.localhost" in response.content


def test_a_tenant_that_is_not_active_is_a_503(ask: Ask, acme: Any) -> None:
    """Suspended, half made, failed or going: nothing of it is shown, and the client is told to come back."""
    assert {"provisioning", "suspended", "deleting", "failed"} < set(TenantStatus.values)
    for status in [*TenantStatus.values, "unheard-of"]:
        set_status(acme, status)
        response = ask("acme.localhost")
        assert response.status_code == (200 if status == "active" else 503), status
        assert current_schema() is None
        if status != "active":
            assert int(response.headers["Retry-After"]) > 0
            assert b"note of" not in response.content


def test_a_503_without_a_template(acme: Any) -> None:
    """Plain text."""
    set_status(acme, "suspended")
    templates = [{"BACKEND": "django.template.backends.django.DjangoTemplates"}]
    with override_settings(TEMPLATES=templates):
        response = Client().get("/what/", headers={"host": "acme.localhost"})
    assert response.status_code == 503
    assert response.headers["Content-Type"].startswith("text/plain")


def test_a_public_host(ask: Ask, acme: Any) -> None:
    """It has no tenant and the schema public; without PUBLIC_URLCONF the usual addresses."""
    with override_settings(PG_TENANTS={**RAW, "PUBLIC_HOSTS": ["www.example"], "PUBLIC_URLCONF": None}):
        for host in ("www.example", "WWW.Example:8000", "www.example."):
            assert ask(host).json() == {"schema": "public", "tenant": "None", "notes": None}


@pytest.mark.parametrize(
    ("setting", "host"),
    [
        ("WWW.Example", "www.example"),
        ("www.example.", "www.example"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("[::1]", "[::1]:8000"),
        ("127.0.0.1", "127.0.0.1:8000"),
    ],
)
def test_public_hosts_are_written_as_people_write_them(open_db: None, setting: str, host: str) -> None:
    """In the forms that a domain may have, too."""
    with override_settings(PG_TENANTS={**RAW, "PUBLIC_HOSTS": [setting], "PUBLIC_URLCONF": None}):
        assert Client().get("/what/", headers={"host": host}).status_code == 200


def test_a_public_host_has_its_own_addresses(ask: Ask, acme: Any) -> None:
    """Those of PUBLIC_URLCONF and no tenant's, and a tenant none of the public ones."""
    assert ask("www.example", "/").status_code == 200
    assert ask("www.example", "/what/").status_code == 404
    assert ask("acme.localhost", "/").status_code == 404


def test_a_public_host_wins_over_a_domain(ask: Ask, acme: Any) -> None:
    """Nobody takes the public site by a row."""
    Domain.objects.create(domain="www.example", tenant=acme, is_primary=False)
    assert ask("www.example", "/").status_code == 200
    assert ask("www.example", "/what/").status_code == 404


def test_a_host_that_is_not_allowed(ask: Ask, acme: Any) -> None:
    """Django's own refusal comes first."""
    with override_settings(ALLOWED_HOSTS=["other.example"]):
        assert ask("acme.localhost").status_code == 400


def test_an_exception_leaves_the_tenant(ask: Ask, acme: Any) -> None:
    """Whether it comes through or becomes a 500."""
    for url in ("/fail/", "/fail-async/"):
        with pytest.raises(Boom, match="acme"):
            ask("acme.localhost", url)
        assert current_schema() is None
        assert ask("acme.localhost", url, raises=False).status_code == 500
        assert current_schema() is None


def test_an_exception_of_the_middleware_behind_leaves_the_tenant(acme: Any) -> None:
    """With nothing in between that would catch it."""

    def get_response(request: HttpRequest) -> HttpResponse:
        raise Boom(current_schema())

    async def get_response_async(request: HttpRequest) -> HttpResponse:
        raise Boom(current_schema())

    request = RequestFactory().get("/", headers={"host": "acme.localhost"})
    with pytest.raises(Boom, match="acme"):
        TenantMiddleware(get_response)(request)
    assert current_schema() is None

    async def main() -> None:
        with pytest.raises(Boom, match="acme"):
            await TenantMiddleware(get_response_async)(request)  # type: ignore[misc]
        assert current_schema() is None

    run(main())
    unknown = RequestFactory().get("/", headers={"host": "nobody.localhost"})
    with pytest.raises(TenantNotFound, match=r"nobody\.localhost"):
        TenantMiddleware(get_response)(unknown)
    assert current_schema() is None


def test_a_template_response_is_rendered_in_the_tenant(ask: Ask, acme: Any) -> None:
    """Its rendering is lazy."""
    assert ask("acme.localhost", "/template/").status_code == 200


# -- streaming --------------------------------------------------------------------------------------------------------


def test_a_stream_is_produced_in_the_tenant(acme: Any, globex: Any) -> None:
    """Each part, long after the middleware was left; and the server's own loop never has the tenant."""
    response: Any = Client().get("/stream/", headers={"host": "acme.localhost"})
    assert current_schema() is None
    found = []
    for part in response:
        assert current_schema() is None
        found.append(part.decode())
    assert "".join(found) == STREAM
    assert SEEN == ["acme"]


def test_an_async_stream_is_produced_in_the_tenant(acme: Any, globex: Any) -> None:
    """Contexts that the generator enters hold over its yields, as they do elsewhere."""

    async def main() -> str:
        response: Any = await HostClient().get("/stream-async/", headers={"host": "acme.localhost"})
        found = []
        async for part in response:
            assert current_schema() is None
            found.append(part.decode())
        return "".join(found)

    assert run(main()) == STREAM
    assert SEEN == ["acme"]


def test_two_streams_at_once(acme: Any, globex: Any) -> None:
    """They are produced in turns, each in its own tenant."""
    responses: list[Any] = [
        Client().get("/stream/", headers={"host": f"{name}.localhost"}) for name in ("acme", "globex")
    ]
    iterators = [iter(response) for response in responses]
    assert [next(iterator).decode() for iterator in iterators] == ["acme: note of acme\n", "globex: note of globex\n"]
    assert [next(iterator).decode() for iterator in iterators] == ["globex: note of globex\n", "acme: note of acme\n"]
    for response in responses:
        response.close()


def test_a_stream_that_is_closed_early_ends_in_the_tenant(acme: Any, globex: Any) -> None:
    """A client that goes away makes the generator clean up in its tenant, and nothing stays."""
    response: Any = Client().get("/stream/", headers={"host": "acme.localhost"})
    iterator = iter(response)
    assert next(iterator) == b"acme: note of acme\n"
    response.close()
    del iterator, response
    gc.collect()
    assert SEEN == ["acme"]
    assert current_schema() is None


def test_an_async_stream_that_is_closed_early_ends_in_no_other_tenant(acme: Any, globex: Any) -> None:
    """Django leaves a generator that is not read to its end to the loop, which may close it outside any context."""

    async def main() -> None:
        response: Any = await HostClient().get("/stream-async/", headers={"host": "acme.localhost"})
        content = aiter(response)
        assert await anext(content) == b"acme: note of acme\n"
        await content.aclose()
        del content, response
        gc.collect()
        # The loop closes generators that nobody holds any more.
        for _ in range(20):
            await asyncio.sleep(0.01)
        assert current_schema() is None

    run(main())
    assert SEEN in (["acme"], [None])


def test_a_stream_that_is_never_read(acme: Any, globex: Any) -> None:
    """It opens nothing."""
    response: Any = Client().get("/stream/", headers={"host": "acme.localhost"})
    response.close()
    assert SEEN == []


def test_a_sync_stream_under_asgi_and_the_other_way(acme: Any, globex: Any) -> None:
    """Django bridges them, with a warning; the tenant is the same."""

    async def main() -> bytes:
        response: Any = await HostClient().get("/stream/", headers={"host": "acme.localhost"})
        return b"".join([part async for part in response])

    with pytest.warns(Warning, match="synchronous iterators"):
        text = run(main()).decode()
    assert text == STREAM
    response: Any = Client().get("/stream-async/", headers={"host": "acme.localhost"})
    with pytest.warns(Warning, match="asynchronous iterators"):
        text = b"".join(response).decode()
    assert text == STREAM
    connections.close_all()


def test_a_file_is_sent_as_it_is(acme: Any) -> None:
    """Servers have faster ways for files, which look for the file itself."""
    # Django's test client wraps the response in iterators of its own.
    response: Any = TenantMiddleware(file)(RequestFactory().get("/", headers={"host": "acme.localhost"}))
    assert response.file_to_stream is not None
    assert b"A file is sent as it is" in b"".join(response)
    response.close()


# -- sessions ---------------------------------------------------------------------------------------------------------


def test_a_session_of_one_tenant_is_none_of_another(acme: Any, globex: Any) -> None:
    """Its cookie is refused, and both keep theirs."""
    for tenant in (acme, globex):
        with tenant_context(tenant):
            User.objects.create_user("same", password="secret")
    client = Client(headers={"host": "acme.localhost"})
    with tenant_context(acme):
        assert client.login(username="same", password="secret")
    assert client.get("/private/").content == b"same"
    stolen = Client(headers={"host": "globex.localhost"})
    stolen.cookies = client.cookies
    response = stolen.get("/private/")
    assert response.status_code == 302
    assert "/login/" in response.headers["Location"]
    assert client.get("/private/").status_code in (200, 302)
    fresh = Client(headers={"host": "acme.localhost"})
    fresh.cookies["sessionid"] = client.cookies["sessionid"].value
    assert fresh.get("/private/").status_code == 200 or not client.cookies["sessionid"].value


def test_a_deleted_tenant_is_a_404(ask: Ask, acme: Any) -> None:
    """At once."""
    assert ask("acme.localhost").status_code == 200
    acme.delete()
    assert ask("acme.localhost").status_code == 404


def test_many_requests_at_once(acme: Any, globex: Any) -> None:
    """Interleaved on one event loop, none sees another's rows."""

    async def one(name: str) -> list[str]:
        response = await HostClient().get("/what-async/", headers={"host": f"{name}.localhost"})
        return list(response.json()["notes"])

    async def main() -> list[list[str]]:
        return await asyncio.gather(*(one(name) for name in ["acme", "globex"] * 8))

    assert run(main()) == [["note of acme"], ["note of globex"]] * 8


# -- resolvers --------------------------------------------------------------------------------------------------------


def by_header(request: HttpRequest) -> Any:
    return Tenant.objects.filter(schema_name=request.headers.get("X-Tenant", "")).first()


def test_resolvers_are_asked_in_order(acme: Any, globex: Any) -> None:
    """The first one that knows decides; without one it is a 404."""
    resolvers = [by_header, "pg_tenants.resolvers.DomainResolver"]
    with override_settings(PG_TENANTS={**RAW, "RESOLVERS": resolvers}):
        headers = {"host": "acme.localhost", "x-tenant": "globex"}
        assert Client().get("/what/", headers=headers).json()["schema"] == "globex"
        assert Client().get("/what/", headers={"host": "acme.localhost"}).json()["schema"] == "acme"
        headers = {"host": "nobody.localhost", "x-tenant": "nobody"}
        assert Client().get("/what/", headers=headers).status_code == 404


def test_the_lookup_of_the_domain_takes_one_query(acme: Any, django_assert_num_queries: Any) -> None:
    """Row and tenant together; whatever is active around, the lookup is in the fixed modules."""
    with tenant_context(acme), django_assert_num_queries(2):
        assert Client().get("/what/", headers={"host": "acme.localhost"}).json()["schema"] == "acme"
