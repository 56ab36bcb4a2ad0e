"""The tenant of a request is active from before the view until the last byte of the response."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, cast

from asgiref.sync import iscoroutinefunction, markcoroutinefunction, sync_to_async
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.template import loader
from django.template.exceptions import TemplateDoesNotExist

from pg_tenants import conf
from pg_tenants.context import ActiveContext, schema_context, tenant_context
from pg_tenants.exceptions import TenantNotFound
from pg_tenants.resolvers import home_schema, is_public_host, request_host, resolvers

__all__ = ["TenantMiddleware"]

RETRY_AFTER = "120"
"""Seconds that a client is told to wait when the tenant is not active."""


class TenantMiddleware:
    """Finds the tenant of each request, sets ``request.tenant``, and makes it active; for WSGI and ASGI.

    An unknown host is a 404, a tenant that is not active a 503. A host of ``PUBLIC_HOSTS`` is served with
    ``PUBLIC_URLCONF`` in the schema of the TENANT_MODEL, mostly ``public``, and its ``request.tenant`` is None.
    """

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], Any]):
        self.get_response = get_response
        self._is_async = iscoroutinefunction(get_response)
        if self._is_async:
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> HttpResponseBase | Awaitable[HttpResponseBase]:
        """Answer a request inside its tenant."""
        if self._is_async:
            return self._answer_async(request)
        context = self._enter(request)
        if context is None:
            return unavailable(request)
        with context:
            response = cast(HttpResponseBase, self.get_response(request))
            return _bind_stream(response, context)

    async def _answer_async(self, request: HttpRequest) -> HttpResponseBase:
        context = await sync_to_async(self._enter)(request)
        if context is None:
            return await sync_to_async(unavailable)(request)
        async with context:
            response = await self.get_response(request)
            return _bind_stream(response, context)

    def _enter(self, request: HttpRequest) -> ActiveContext | None:
        """Set the request's tenant, and return its context; None where the tenant cannot be served now.

        Raises:
            TenantNotFound: no tenant answers to the request.
        """
        host = request_host(request)
        if is_public_host(host):
            urlconf = conf.require().public_urlconf
            if urlconf:
                request.urlconf = urlconf
            request.tenant = None  # type: ignore[attr-defined]
            return schema_context(home_schema())
        for resolve in resolvers():
            tenant = resolve(request)
            if tenant is not None:
                request.tenant = tenant  # type: ignore[attr-defined]
                return tenant_context(tenant) if tenant.is_active else None
        raise TenantNotFound(f"No tenant answers to the host {host!r}.")


def unavailable(request: HttpRequest) -> HttpResponse:
    """Return the answer for a tenant that is not active: the template ``503.html`` where there is one."""
    try:
        text: str = loader.render_to_string("503.html", request=request)
        content_type = "text/html; charset=utf-8"
    except TemplateDoesNotExist:
        text, content_type = "This site is not available at the moment.\n", "text/plain; charset=utf-8"
    return HttpResponse(text, status=503, content_type=content_type, headers={"Retry-After": RETRY_AFTER})


def _bind_stream(response: HttpResponseBase, context: ActiveContext) -> HttpResponseBase:
    """Make a streaming response produce each part inside the context, which the middleware will have left by then."""
    # A file is sent as it is: reading it needs no database, and servers have faster ways for files.
    if not getattr(response, "streaming", False) or getattr(response, "file_to_stream", None) is not None:
        return response
    streaming = cast(Any, response)
    again = ActiveContext(context.target)
    # What the view gave, not Django's wrapper around it, which would not pass a closing on.
    source = streaming._iterator
    streaming.streaming_content = _parts_async(source, again) if streaming.is_async else _parts(source, again)
    # The server closes what the view gave, too, when the client goes away.
    streaming.close = again(streaming.close)
    return response


def _parts(source: Iterator[Any], context: ActiveContext) -> Iterator[Any]:
    @context
    def parts() -> Iterator[Any]:
        yield from source

    return parts()


def _parts_async(source: AsyncIterator[Any], context: ActiveContext) -> AsyncIterator[Any]:
    @context
    async def parts() -> AsyncIterator[Any]:
        try:
            async for part in source:
                yield part
        finally:
            if hasattr(source, "aclose"):
                await source.aclose()

    return parts()
