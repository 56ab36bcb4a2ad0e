"""What is active around a call stays active: Django's test client, signals, and a tenant object that tasks share."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from django.db.models.signals import post_save
from django.http import HttpRequest, JsonResponse
from django.test import Client, override_settings
from django.urls import path

from example_project.notes.models import Note, Tag
from pg_tenants import current_schema, schema_context, tenant_context
from tests.integration.test_middleware import HostClient


def what(request: HttpRequest) -> JsonResponse:
    return JsonResponse({"schema": current_schema(), "notes": list(Note.objects.values_list("title", flat=True))})


urlpatterns = [path("what/", what)]
here = override_settings(ROOT_URLCONF=__name__)


@here
def test_a_client_request_leaves_the_callers_tenant(acme: Any, globex: Any) -> None:
    """The request runs in its own tenant, the test goes on in the one it was in."""
    with tenant_context(acme):
        response = Client().get("/what/", headers={"host": "globex.localhost"})
        assert response.json() == {"schema": "globex", "notes": ["note of globex"]}
        assert current_schema() == "acme"
        assert [note.title for note in Note.objects.all()] == ["note of acme"]
    assert current_schema() is None


@here
def test_an_async_client_request_leaves_the_callers_tenant(acme: Any, globex: Any) -> None:
    """The same by the asynchronous client."""

    async def main() -> None:
        async with tenant_context(acme):
            response = await HostClient().get("/what/", headers={"host": "globex.localhost"})
            assert response.json()["schema"] == "globex"
            assert current_schema() == "acme"
            assert [note.title async for note in Note.objects.all()] == ["note of acme"]

    asyncio.run(main())


@pytest.mark.parametrize("own", [False, True])
def test_receivers_run_where_the_sender_does(acme: Any, globex: Any, own: bool) -> None:
    """A receiver sees the sender's tenant, and one that enters another leaves it again."""
    seen = []

    def receiver(instance: Tag, **kwargs: Any) -> None:
        seen.append((current_schema(), Tag.objects.count()))
        if own:
            with tenant_context(globex):
                seen.append((current_schema(), Tag.objects.count()))

    post_save.connect(receiver, sender=Tag)
    try:
        with tenant_context(acme):
            Tag.objects.create(name="new")
            assert current_schema() == "acme"
    finally:
        post_save.disconnect(receiver, sender=Tag)
    assert seen == [("acme", 1), ("globex", 0)][: 1 + own]


def test_an_asgi_receiver_has_the_tasks_tenant(acme: Any, globex: Any) -> None:
    """Asynchronous receivers of one signal, sent by tasks of two tenants at once, never mix them."""
    seen = []

    async def receiver(instance: Tag, **kwargs: Any) -> None:
        await asyncio.sleep(0)
        seen.append((instance.name, current_schema(), await Tag.objects.acount()))

    async def save(schema: str, number: int) -> None:
        async with schema_context(schema):
            await Tag(name=f"{schema} {number}").asave()

    async def main() -> None:
        await asyncio.gather(*(save(schema, number) for number in range(5) for schema in ("acme", "globex")))

    post_save.connect(receiver, sender=Tag)
    try:
        asyncio.run(main())
    finally:
        post_save.disconnect(receiver, sender=Tag)
    assert len(seen) == 10
    assert all(name.split()[0] == schema for name, schema, _ in seen)
