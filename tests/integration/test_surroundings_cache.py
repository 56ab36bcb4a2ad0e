"""The cache serves no tenant another's value, on backends that run here."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from django.conf import settings
from django.core.cache import cache, caches
from django.core.management import call_command
from django.db import connection
from django.http import HttpRequest, HttpResponse
from django.template import Context, Engine
from django.test import Client, override_settings
from django.urls import path
from django.views.decorators.cache import cache_page
from hypothesis import given
from hypothesis import strategies as st

from pg_tenants import schema_context, tenant_context
from pg_tenants.contrib.cache import make_key

KEY_FUNCTION = "pg_tenants.contrib.cache.make_key"
BACKENDS = {
    "locmem": "django.core.cache.backends.locmem.LocMemCache",
    "file": "django.core.cache.backends.filebased.FileBasedCache",
    "database": "django.core.cache.backends.db.DatabaseCache",
    "redis": "django.core.cache.backends.redis.RedisCache",
}
PLACES = ("acme", "globex", "public", None)
CALLS: list[str | None] = []


@contextlib.contextmanager
def at(schema: str | None) -> Iterator[None]:
    with schema_context(schema) if schema else contextlib.nullcontext():
        yield


@pytest.fixture(params=sorted(BACKENDS))
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Make each backend the default cache, with keys of ours, beside an alias that all tenants share."""
    name = str(request.param)
    location = str(tmp_path)
    if name == "redis":
        location = request.getfixturevalue("redis_url")
    elif name == "database":
        request.getfixturevalue("open_db")
        location = "surroundings_cache"
    entry = {"BACKEND": BACKENDS[name], "LOCATION": location}
    entries = {"default": {**entry, "KEY_FUNCTION": KEY_FUNCTION}, "shared": {**entry, "KEY_PREFIX": "shared"}}
    with override_settings(CACHES=entries):
        if name == "database":
            call_command("createcachetable", verbosity=0)
        cache.clear()
        yield name
        cache.clear()
        caches.close_all()
        if name == "database":
            with connection.cursor() as cursor:
                cursor.execute("DROP TABLE surroundings_cache")


def test_each_operation_stays_in_its_schema(backend: str, acme: Any, globex: Any) -> None:
    """Every method of the cache reads and writes the active schema's values alone; nothing active is a place too."""
    for place in PLACES:
        with at(place):
            assert cache.get("who") is None
            assert cache.add("who", place or "nobody")
            assert not cache.add("who", "again")
            cache.set("who", f"{place} of 2", version=2)
            cache.set_many({"one": f"{place} 1", "two": f"{place} 2"})
            cache.set("count", 10)
    for number, place in enumerate(PLACES, start=1):
        with at(place):
            assert cache.get("who") == (place or "nobody")
            assert cache.get("who", version=2) == f"{place} of 2"
            assert cache.get_many(["one", "two", "three"]) == {"one": f"{place} 1", "two": f"{place} 2"}
            assert cache.get_or_set("one", "wrong") == f"{place} 1"
            assert cache.incr("count", number) == 10 + number
            assert "who" in cache
    with at("acme"):
        assert cache.touch("who", 100)
        assert cache.incr_version("one") == 2
        assert cache.decr("count") == 10
        cache.delete_many(["two"])
        assert cache.delete("who")
        assert not cache.touch("who", 100)
        with pytest.raises(ValueError, match="nothing"):
            cache.incr("nothing")
    for number, place in enumerate(PLACES, start=1):
        with at(place):
            if place == "acme":
                assert cache.get_many(["who", "one", "two"]) == {}
                assert cache.get("one", version=2) == "acme 1"
                assert cache.get("count") == 10
            else:
                assert cache.get_many(["who", "one"]) == {"who": place or "nobody", "one": f"{place} 1"}
                assert cache.get("count") == 10 + number


def test_async_methods(backend: str, acme: Any, globex: Any) -> None:
    """Tasks that run in turns each have their own tenant's values."""

    async def work(tenant: Any) -> list[Any]:
        async with tenant_context(tenant):
            await cache.aset("who", tenant.schema_name)
            await asyncio.sleep(0)
            await cache.aset_many({"one": tenant.schema_name})
            return [await cache.aget("who"), await cache.aget_many(["one"]), await cache.aget_or_set("who", "wrong")]

    async def main() -> list[Any]:
        return await asyncio.gather(work(acme), work(globex))

    assert asyncio.run(main()) == [[name, {"one": name}, name] for name in ("acme", "globex")]


def test_a_second_alias_is_shared(backend: str, acme: Any, globex: Any) -> None:
    """Without KEY_FUNCTION all tenants have one value, and a schema that is named has its own."""
    with tenant_context(acme):
        caches["shared"].set("rate", 7)
        with schema_context("public"):
            cache.set("rate", 8)
    with tenant_context(globex):
        assert caches["shared"].get("rate") == 7
        assert cache.get("rate") is None
        with schema_context("public"):
            assert cache.get("rate") == 8


def test_fragments_in_templates(backend: str, acme: Any, globex: Any) -> None:
    """The tag `cache` keeps a fragment for each tenant."""
    template = Engine.get_default().from_string("{% load cache %}{% cache 100 head %}{{ name }}{% endcache %}")
    for tenant in (acme, globex):
        with tenant_context(tenant):
            assert template.render(Context({"name": tenant.name})) == tenant.name
            assert template.render(Context({"name": "stale"})) == tenant.name


def view(request: HttpRequest) -> HttpResponse:
    name = request.tenant.name  # type: ignore[attr-defined]
    CALLS.append(name)
    return HttpResponse(name)


def by_header(request: HttpRequest) -> Any:
    from example_project.customers.models import Tenant

    return Tenant.objects.filter(schema_name=request.headers.get("x-customer", "")).first()


@pytest.fixture
def _urls() -> Iterator[None]:
    module: Any = ModuleType("cache_urls")
    module.urlpatterns = [path("plain/", view), path("page/", cache_page(100)(view))]
    sys.modules["cache_urls"] = module
    CALLS.clear()
    with override_settings(
        ROOT_URLCONF="cache_urls", PG_TENANTS={**settings.PG_TENANTS, "RESOLVERS": [by_header], "PUBLIC_HOSTS": []}
    ):
        yield
    del sys.modules["cache_urls"]


@pytest.mark.usefixtures("_urls")
@pytest.mark.parametrize("middleware", [True, False])
def test_pages(backend: str, middleware: bool, acme: Any, globex: Any) -> None:
    """Tenants with equal URLs have pages of their own, by `cache_page` and by the middleware of the whole site."""
    names = ["pg_tenants.middleware.TenantMiddleware"]
    if middleware:
        names += [f"django.middleware.cache.{name}CacheMiddleware" for name in ("Update", "FetchFrom")]
    with override_settings(MIDDLEWARE=names):
        for _ in range(3):
            for tenant in (acme, globex):
                url = "/plain/" if middleware else "/page/"
                response = Client().get(url, headers={"host": "one.example", "x-customer": tenant.schema_name})
                assert response.content.decode() == tenant.name
    assert CALLS == ["Acme", "Globex"]


@given(
    st.lists(st.tuples(st.text("ab:%-", max_size=4), st.text("ab:%-", max_size=6)), min_size=2, max_size=2, unique=True)
)
def test_keys_do_not_collide(pairs: list[tuple[str, str]]) -> None:
    """Whatever the schemas and the keys are called, two of them are two keys."""
    keys = set()
    for schema, key in pairs:
        with at(schema or None):
            keys.add(make_key(key, "", 1))
    assert len(keys) == 2


def test_crafted_keys() -> None:
    """A key cannot pretend to be another tenant's, and the layout is the one that the docs give."""
    with schema_context("a"):
        first = make_key("b:c", "", 1)
        assert first == "a::1:b:c"
    with schema_context("a:b"):
        assert make_key("c", "", 1) != first
    assert make_key("a::1:b:c", "", 1) == "::1:a::1:b:c"


@pytest.mark.parametrize("backend", ["redis"], indirect=True)
def test_one_tenants_keys_can_be_found_in_redis(backend: str, redis_url: str, acme: Any, globex: Any) -> None:
    """The pattern `schema:*` matches them and no others, so they can be deleted."""
    import redis

    for tenant in (acme, globex):
        with tenant_context(tenant):
            cache.set_many({"one": 1, "acme:two": 2})
    with redis.Redis.from_url(redis_url) as client:
        client.unlink(*client.scan_iter("acme:*"))
    with tenant_context(acme):
        assert cache.get_many(["one", "acme:two"]) == {}
    with tenant_context(globex):
        assert cache.get_many(["one", "acme:two"]) == {"one": 1, "acme:two": 2}
