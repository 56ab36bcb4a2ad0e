"""Its ASGI application: Channels' consumers, each in the tenant of its host."""

from __future__ import annotations

import os
from typing import Any

from channels.auth import AuthMiddlewareStack
from channels.db import database_sync_to_async
from channels.generic.http import AsyncHttpConsumer
from channels.generic.websocket import AsyncJsonWebsocketConsumer, JsonWebsocketConsumer
from channels.routing import ProtocolTypeRouter, URLRouter

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.projects.jobs.channels_settings")

import django

django.setup()

from asgiref.sync import async_to_sync  # noqa: E402
from django.core.asgi import get_asgi_application  # noqa: E402
from django.urls import path  # noqa: E402

from example_project.notes.models import Note  # noqa: E402
from pg_tenants import current_schema  # noqa: E402
from pg_tenants.contrib.channels import TenantMiddleware  # noqa: E402


def what() -> dict[str, Any]:
    titles = list(Note.objects.values_list("title", flat=True)) if current_schema() != "public" else []
    return {"schema": current_schema(), "notes": titles}


class AsyncConsumer(AsyncJsonWebsocketConsumer):  # type: ignore[misc]
    async def connect(self) -> None:
        await self.channel_layer.group_add("room", self.channel_name)
        await self.accept()

    async def receive_json(self, content: Any, **kwargs: Any) -> None:
        if content == "what":
            found = await database_sync_to_async(what)()
            await self.send_json({**found, "here": current_schema(), "tenant": str(self.scope["tenant"]),
                                  "user": str(self.scope["user"])})  # fmt: skip
        elif content == "leave":
            await self.channel_layer.group_discard("room", self.channel_name)
            await self.send_json("left")
        else:
            await self.channel_layer.group_send("room", {"type": "told", "text": content})

    async def told(self, event: Any) -> None:
        await self.send_json({"told": event["text"], **await database_sync_to_async(what)()})


class SyncConsumer(JsonWebsocketConsumer):  # type: ignore[misc]
    def connect(self) -> None:
        async_to_sync(self.channel_layer.group_add)("room", self.channel_name)
        self.accept()

    def receive_json(self, content: Any, **kwargs: Any) -> None:
        if content == "what":
            self.send_json({**what(), "here": current_schema(), "tenant": str(self.scope["tenant"]),
                            "user": str(self.scope["user"])})  # fmt: skip
        elif content == "leave":
            async_to_sync(self.channel_layer.group_discard)("room", self.channel_name)
            self.send_json("left")
        else:
            async_to_sync(self.channel_layer.group_send)("room", {"type": "told", "text": content})

    def told(self, event: Any) -> None:
        self.send_json({"told": event["text"], **what()})


class HttpConsumer(AsyncHttpConsumer):  # type: ignore[misc]
    async def handle(self, body: bytes) -> None:
        found = await database_sync_to_async(what)()
        await self.send_response(200, str(found["notes"]).encode())


class Failing(AsyncJsonWebsocketConsumer):  # type: ignore[misc]
    async def connect(self) -> None:
        raise ZeroDivisionError


sockets = URLRouter(
    [
        path("async/", AsyncConsumer.as_asgi()),
        path("sync/", SyncConsumer.as_asgi()),
        path("of/<slug:name>/", AsyncConsumer.as_asgi()),
        path("fail/", Failing.as_asgi()),
    ]
)
application = ProtocolTypeRouter(
    {
        "http": URLRouter(
            [path("consumer/", TenantMiddleware(HttpConsumer.as_asgi())), path("", get_asgi_application())]
        ),
        "websocket": TenantMiddleware(AuthMiddlewareStack(sockets)),
    }
)
