"""Channels: connections run in their tenant, and groups belong to one tenant."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Awaitable, Callable
from io import BytesIO
from typing import Any

from asgiref.sync import sync_to_async
from django.core.exceptions import DisallowedHost
from django.core.handlers.asgi import ASGIRequest
from django.utils.module_loading import import_string

from pg_tenants.context import active
from pg_tenants.exceptions import ConfigurationError, NoActiveTenant, TenantNotFound
from pg_tenants.middleware import request_context
from pg_tenants.modules import registry
from pg_tenants.resolvers import tenant_by

__all__ = ["NOT_ACTIVE", "NOT_FOUND", "TenantChannelLayer", "TenantMiddleware"]

NOT_FOUND = 4404
"""The code that a WebSocket is closed with where no tenant answers to its host."""
NOT_ACTIVE = 4503
"""The code that a WebSocket is closed with where its tenant is not active."""

_FITS = re.compile(r"[A-Za-z0-9_-]{1,16}")
Application = Callable[[Any, Any, Any], Awaitable[Any]]


class TenantMiddleware:
    """Runs each connection in the tenant of its host, found by the resolvers of ``PG_TENANTS``, as requests are.

    ``scope["tenant"]`` is the tenant, or None on a public host. A WebSocket without a tenant that can be served is
    closed with 4404 or 4503, and an HTTP request answered with 404 or 503, before the application hears of it. Other
    scopes, such as lifespan, go through with no tenant.
    """

    def __init__(self, application: Application):
        self.application = application

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> Any:
        """Serve one connection."""
        if scope["type"] not in ("http", "websocket"):
            return await self.application(scope, receive, send)
        # A handshake is a GET request, which is what the resolvers know.
        request = ASGIRequest({"method": "GET", **scope}, BytesIO())
        try:
            context = await sync_to_async(request_context)(request)
        except (TenantNotFound, DisallowedHost):
            return await _refuse(scope, receive, send, NOT_FOUND)
        if context is None:
            return await _refuse(scope, receive, send, NOT_ACTIVE)
        async with context:
            return await self.application({**scope, "tenant": request.tenant}, receive, send)  # type: ignore[attr-defined]


async def _refuse(scope: dict[str, Any], receive: Any, send: Any, code: int) -> None:
    await receive()
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": code})
        return
    await send({"type": "http.response.start", "status": code - 4000, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


class TenantChannelLayer:
    """A channel layer whose groups belong to the active tenant, around the layer that carries the messages.

    Args:
        BACKEND: the layer's class, such as ``"channels_redis.core.RedisChannelLayer"``.
        config: the rest of ``CONFIG``, which goes to that layer.

    Raises:
        ConfigurationError: no layer is named, or it cannot be imported.
    """

    def __init__(self, BACKEND: str = "", **config: Any):  # noqa: N803  # as settings write it
        try:
            backend = import_string(BACKEND)
        except ImportError as exc:
            raise ConfigurationError(
                f"CONFIG['BACKEND'] of a TenantChannelLayer in CHANNEL_LAYERS is {BACKEND!r}, which cannot be "
                "imported. Name the layer that carries the messages, such as 'channels_redis.core.RedisChannelLayer'."
            ) from exc
        self._layer = backend(**config)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._layer, name)

    async def group_add(self, group: str, channel: str) -> None:
        """Add a channel to a group of the active tenant.

        Raises:
            NoActiveTenant: no tenant is active.
        """
        await self._layer.group_add(await _own(group), channel)

    async def group_discard(self, group: str, channel: str) -> None:
        """Take a channel out of a group of the active tenant.

        Raises:
            NoActiveTenant: no tenant is active.
        """
        await self._layer.group_discard(await _own(group), channel)

    async def group_send(self, group: str, message: dict[str, Any]) -> None:
        """Send a message to a group of the active tenant.

        Raises:
            NoActiveTenant: no tenant is active.
        """
        await self._layer.group_send(await _own(group), message)


async def _own(group: str) -> str:
    target, modules = active(), registry()
    if target is None:
        raise NoActiveTenant(
            f"Which tenant's group {group!r} is meant cannot be told: none is active. Use tenant_context(tenant), or "
            "schema_context('public') for a group of no tenant."
        )
    identity = target.identity
    if identity is None and not (modules and modules.of_schema(target.schema_name)):
        tenant = await sync_to_async(tenant_by)("schema_name", target.schema_name)
        identity = None if tenant is None else tenant.schema_identity
    # No schema's name has a full stop, so no group of one is a group of another. A socket that is still open stays in
    # the groups of its tenant, when the name is another one's.
    return f"{target.schema_name}.{group}" if identity is None else f"{target.schema_name}.{_short(identity)}.{group}"


def _short(identity: str) -> str:
    """Return what stands for a key in a group's name, whose characters and length are limited."""
    return identity if _FITS.fullmatch(identity) else hashlib.sha256(identity.encode()).hexdigest()[:16]
