"""Connections of Channels run in the tenant of their host, and groups are a tenant's own."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from channels.layers import get_channel_layer
from channels.testing import ApplicationCommunicator, HttpCommunicator, WebsocketCommunicator
from django.conf import settings
from django.contrib.auth.models import User
from django.db import connections
from django.http import HttpRequest
from django.test import Client, override_settings
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from example_project.customers.models import Domain, Tenant
from pg_tenants import current_schema, schema_context, tenant_context
from pg_tenants.contrib.channels import NOT_ACTIVE, NOT_FOUND, TenantChannelLayer, TenantMiddleware
from pg_tenants.exceptions import ConfigurationError, NoActiveTenant
from tests.conftest import make_tenant, set_status
from tests.fix_redis import Run, free_port, listens, wait_for

LAYERS = {
    "memory": ("channels.layers.InMemoryChannelLayer", False),
    "redis": ("channels_redis.core.RedisChannelLayer", True),
    "pubsub": ("channels_redis.pubsub.RedisPubSubChannelLayer", True),
}
RAW: dict[str, Any] = settings.PG_TENANTS
SEEN: list[Any] = []


def by_path(request: HttpRequest) -> Any:
    """Resolve ``/of/NAME/``."""
    _, of, name, *_ = [*request.path.split("/"), "", ""]
    return Tenant.objects.filter(schema_name=name).first() if of == "of" else None


@pytest.fixture(params=list(LAYERS))
def layer(request: pytest.FixtureRequest, redis_url: str) -> Iterator[None]:
    backend, hosts = LAYERS[request.param]
    config = {"BACKEND": backend, **({"hosts": [redis_url]} if hosts else {})}
    where = {"BACKEND": "pg_tenants.contrib.channels.TenantChannelLayer", "CONFIG": config}
    with override_settings(CHANNEL_LAYERS={"default": where}):
        yield


@pytest.fixture
def memory() -> Iterator[None]:
    where = {"BACKEND": "pg_tenants.contrib.channels.TenantChannelLayer", "CONFIG": {"BACKEND": LAYERS["memory"][0]}}
    with override_settings(CHANNEL_LAYERS={"default": where}):
        yield


def run(main: Callable[[], Awaitable[Any]]) -> Any:
    async def wrapped() -> Any:
        try:
            return await main()
        finally:
            assert current_schema() is None
            await sync_to_async(connections.close_all)()

    return asyncio.run(wrapped())  # type: ignore[arg-type]


def socket(host: str, url: str = "/async/", **headers: str) -> Any:
    from tests.projects.jobs.asgi import application

    pairs = {"host": host, **headers}.items()
    return WebsocketCommunicator(application, url, headers=[(name.encode(), value.encode()) for name, value in pairs])


async def opened(*args: Any, **headers: str) -> Any:
    communicator = socket(*args, **headers)
    assert (await communicator.connect(timeout=10))[0]
    return communicator


async def ask(communicator: Any, content: str) -> Any:
    await communicator.send_json_to(content)
    return await communicator.receive_json_from(timeout=10)


KINDS = pytest.mark.parametrize("url", ["/async/", "/sync/"])


@KINDS
def test_each_host_has_its_tenant(memory: None, acme: Any, globex: Any, url: str) -> None:
    """Consumers and their database calls see the rows of the host's tenant, side by side."""

    async def main() -> None:
        pairs = [(tenant, await opened(f"{tenant.schema_name}.localhost", url)) for tenant in (acme, globex)]
        for tenant, communicator in pairs * 3:
            assert await ask(communicator, "what") == {
                "schema": tenant.schema_name,
                "here": tenant.schema_name,
                "notes": [f"note of {tenant.schema_name}"],
                "tenant": tenant.name,
                "user": "AnonymousUser",
            }
        for _, communicator in pairs:
            await communicator.disconnect()

    run(main)


def test_users_are_the_tenants(memory: None, acme: Any, globex: Any) -> None:
    """Sessions and users are looked for in the tenant, so another's cookie is nobody's."""
    with tenant_context(acme):
        client = Client()
        client.force_login(User.objects.get())
        cookie = f"sessionid={client.cookies['sessionid'].value}"

    async def main() -> list[str]:
        users = []
        for host in ("acme.localhost", "globex.localhost"):
            communicator = await opened(host, cookie=cookie)
            users.append((await ask(communicator, "what"))["user"])
            await communicator.disconnect()
        return users

    assert run(main) == ["ada-acme", "AnonymousUser"]


def test_a_group_is_one_tenants(layer: None, acme: Any, globex: Any) -> None:
    """A message of one tenant reaches its own consumers alone, and is handled in its tenant."""

    async def main() -> None:
        a, b = await opened("acme.localhost"), await opened("acme.localhost", "/sync/")
        other = await opened("globex.localhost")
        told = {"schema": "acme", "notes": ["note of acme"]}
        assert await ask(a, "one") == {"told": "one", **told}
        assert await b.receive_json_from(timeout=10) == {"told": "one", **told}
        assert await ask(b, "two") == {"told": "two", **told}
        assert await a.receive_json_from(timeout=10) == {"told": "two", **told}
        async with tenant_context(acme):
            await get_channel_layer().group_send("room", {"type": "told", "text": "from outside"})
        for communicator in (a, b):
            assert await communicator.receive_json_from(timeout=10) == {"told": "from outside", **told}
        assert await ask(b, "leave") == "left"
        assert (await ask(a, "three"))["told"] == "three"
        assert await b.receive_nothing(0.3)
        assert await other.receive_nothing(0.3)
        assert (await ask(other, "four"))["notes"] == ["note of globex"]
        assert await a.receive_nothing(0.3)
        for communicator in (a, b, other):
            await communicator.disconnect()

    run(main)


def test_a_group_of_a_name_that_is_used_again(layer: None, acme: Any) -> None:
    """A socket that is still open hears nothing of the next tenant of the name; that one is meant by the name alone."""

    async def main() -> None:
        old = await opened("acme.localhost")
        tenant = await Tenant.objects.aget(pk=acme.pk)
        await tenant.arename("acme_old")
        await Domain.objects.filter(tenant=tenant).adelete()
        await sync_to_async(make_tenant)("acme")
        new = await opened("acme.localhost")
        async with schema_context("acme"):
            await get_channel_layer().group_send("room", {"type": "told", "text": "news"})
        assert await new.receive_json_from(timeout=10) == {"told": "news", "schema": "acme", "notes": []}
        assert await old.receive_nothing(0.3)
        for communicator in (old, new):
            await communicator.disconnect()

    run(main)


def test_a_group_of_nobody(memory: None, acme: Any) -> None:
    """With no tenant active a group's name says too little; a fixed schema's groups are a public site's."""

    async def main() -> None:
        layer = get_channel_layer()
        for call in (
            layer.group_send("room", {"type": "told"}),
            layer.group_add("room", "x"),
            layer.group_discard("room", "x"),
        ):
            with pytest.raises(NoActiveTenant, match="group 'room' is meant cannot be told"):
                await call
        with override_settings(PG_TENANTS={**RAW, "PUBLIC_HOSTS": ["www.example"]}):
            communicator = await opened("www.example")
            found = await ask(communicator, "what")
            assert (found["schema"], found["tenant"]) == ("public", "None")
            async with tenant_context(acme):
                await layer.group_send("room", {"type": "told", "text": "acme's"})
            assert await communicator.receive_nothing(0.3)
            async with schema_context("public"):
                await layer.group_send("room", {"type": "told", "text": "public's"})
            assert (await communicator.receive_json_from(timeout=10))["told"] == "public's"
            await communicator.disconnect()

    run(main)


@pytest.mark.parametrize("host", ["nobody.localhost", "acme", "acme.localhost.evil.example", "a b", ""])
def test_an_unknown_host_is_closed(memory: None, acme: Any, host: str) -> None:
    """With 4404, or 404 over HTTP; the consumer never hears of it."""
    assert refusals(host) == (NOT_FOUND, 404)


@pytest.mark.parametrize("status", ["suspended", "provisioning", "deleting", "failed"])
def test_a_tenant_that_is_not_active_is_closed(memory: None, acme: Any, status: str) -> None:
    """With 4503, or 503 over HTTP."""
    set_status(acme, status)
    assert refusals("acme.localhost") == (NOT_ACTIVE, 503)


def refusals(host: str) -> tuple[int, int]:
    """Return the code that a WebSocket is closed with and the status of an HTTP answer; the application is not met."""

    async def application(scope: Any, receive: Any, send: Any) -> None:
        SEEN.append(scope)

    async def main() -> tuple[int, int]:
        wrapped, headers = TenantMiddleware(application), [(b"host", host.encode())]
        accepted, code = await WebsocketCommunicator(wrapped, "/async/", headers=headers).connect(timeout=10)
        assert not accepted
        response = await HttpCommunicator(wrapped, "POST", "/consumer/", b"body", headers=headers).get_response(10)
        assert response["body"] == b""
        return code, response["status"]

    with override_settings(ALLOWED_HOSTS=["*"]):
        found: tuple[int, int] = run(main)
    assert SEEN == []
    return found


def test_hosts_that_are_not_allowed(memory: None, acme: Any) -> None:
    """ALLOWED_HOSTS holds for connections as well."""
    with override_settings(ALLOWED_HOSTS=["globex.localhost"]):

        async def main() -> Any:
            return await socket("acme.localhost").connect(timeout=10)

        assert run(main) == (False, NOT_FOUND)


def test_resolvers_of_the_project(memory: None, acme: Any, globex: Any) -> None:
    """They are asked as for requests: one that reads the path finds the tenant by it."""

    async def main() -> list[Any]:
        found = []
        for name in ("acme", "globex"):
            communicator = await opened("localhost", f"/of/{name}/")
            found.append((await ask(communicator, "what"))["notes"])
            await communicator.disconnect()
        found.append(await socket("localhost", "/of/nobody/").connect(timeout=10))
        return found

    with override_settings(PG_TENANTS={**RAW, "PUBLIC_HOSTS": [], "RESOLVERS": [by_path]}):
        assert run(main) == [["note of acme"], ["note of globex"], (False, NOT_FOUND)]


def test_http_consumers(memory: None, acme: Any, globex: Any) -> None:
    """They run in the tenant of the host, too."""
    from tests.projects.jobs.asgi import application

    async def main() -> list[bytes]:
        bodies = []
        for host in (b"acme.localhost", b"globex.localhost"):
            communicator = HttpCommunicator(application, "GET", "/consumer/", headers=[(b"host", host)])
            bodies.append((await communicator.get_response(10))["body"])
        return bodies

    assert run(main) == [b"['note of acme']", b"['note of globex']"]


def test_after_a_failure_nothing_is_active(memory: None, acme: Any) -> None:
    """In one task, too, where the context would be seen by what comes next."""
    from tests.projects.jobs.asgi import application

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        pass

    async def main() -> None:
        scope = {"type": "websocket", "path": "/fail/", "headers": [(b"host", b"acme.localhost")]}
        with pytest.raises(ZeroDivisionError):
            await application(scope, receive, send)
        assert current_schema() is None

    run(main)


def test_other_scopes_go_through() -> None:
    """Such as lifespan: they have no host, and no tenant is active."""

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "seen", "schema": current_schema(), "tenant": "tenant" in scope})

    async def main() -> Any:
        communicator = ApplicationCommunicator(TenantMiddleware(application), {"type": "lifespan"})
        return await communicator.receive_output(10)

    assert asyncio.run(main()) == {"type": "seen", "schema": None, "tenant": False}


@pytest.mark.parametrize("path", ["", "nowhere", "nowhere.Layer"])
def test_a_layer_that_cannot_be_imported(path: str) -> None:
    """The error names the setting."""
    with pytest.raises(ConfigurationError, match=r"CONFIG\['BACKEND'\] of a TenantChannelLayer"):
        TenantChannelLayer(path)


SERVERS = {"daphne": ("-p", "-b", "127.0.0.1"), "uvicorn": ("--port", "--host", "127.0.0.1")}


@pytest.mark.parametrize("server", list(SERVERS))
def test_a_real_server(run_process: Run, acme: Any, globex: Any, server: str) -> None:
    """Clients of two tenants, through a server process and Redis: groups are apart, unknown hosts never get in."""
    port = free_port()
    flag, *rest = SERVERS[server]
    target = "tests.projects.jobs.asgi:application"

    async def main() -> None:
        def client(host: str, url: str) -> Any:
            return connect(f"ws://{host}:{port}{url}", host="127.0.0.1", port=port)

        async with (
            client("acme.localhost", "/async/") as a,
            client("acme.localhost", "/sync/") as b,
            client("globex.localhost", "/async/") as other,
        ):
            for connection, notes in ((a, ["note of acme"]), (b, ["note of acme"]), (other, ["note of globex"])):
                await connection.send(json.dumps("what"))
                assert json.loads(await connection.recv())["notes"] == notes
            await a.send(json.dumps("hello"))
            for connection in (a, b):
                assert json.loads(await connection.recv())["told"] == "hello"
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(other.recv(), 0.5)
        with pytest.raises(InvalidStatus) as refused:
            async with client("nobody.localhost", "/async/"):
                pass
        assert refused.value.response.status_code == 403

    environ = {"DJANGO_SETTINGS_MODULE": "tests.projects.jobs.channels_settings"}
    with run_process("-m", server, target, flag, str(port), *rest, **environ):
        wait_for(lambda: listens(port), server)
        asyncio.run(main())
