"""The tenant of a request is active from before the view until the last byte of the response."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from copy import copy
from types import TracebackType
from typing import Any, TypeVar, cast

from asgiref.sync import iscoroutinefunction, markcoroutinefunction, sync_to_async
from django.core.exceptions import SynchronousOnlyOperation
from django.http import HttpRequest, HttpResponse, HttpResponsePermanentRedirect
from django.http.request import split_domain_port
from django.http.response import HttpResponseBase
from django.middleware.csrf import CsrfViewMiddleware
from django.template import loader
from django.template.exceptions import TemplateDoesNotExist
from django.urls import get_script_prefix, set_script_prefix
from django.utils.cache import patch_vary_headers

from pg_tenants import conf, lookups
from pg_tenants.context import ActiveContext, ActiveSchema, current_tenant, tenant_context
from pg_tenants.exceptions import ConfigurationError, SchemaDoesNotExist, TenantNotFound
from pg_tenants.hosts import answered
from pg_tenants.resolvers import (
    TenantResolver,
    domains_of,
    home_schema,
    is_public_host,
    request_host,
    resolvers,
)

__all__ = ["PrimaryDomainMiddleware", "TenantCsrfMiddleware", "TenantMiddleware", "request_context"]

T = TypeVar("T")

RETRY_AFTER = "120"
"""Seconds that a client is told to wait when the tenant is not active."""


class RequestContext(ActiveContext):
    """What holds while a request is answered: its tenant, its host, and the script prefix of its tenant."""

    def __init__(self, target: ActiveSchema, host: str, script: str = ""):
        super().__init__(target)
        self.host = host
        self.outer = get_script_prefix() if script else ""
        self.inner = f"{self.outer.rstrip('/')}{script}" if script else ""

    def __enter__(self) -> None:
        super().__enter__()
        answered.set(self.host)
        if self.inner:
            set_script_prefix(self.inner)

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        super().__exit__(exc_type, exc, traceback)
        answered.set(None)
        if self.inner:
            set_script_prefix(self.outer)


class _Middleware:
    """What the middleware here has in common: it answers under WSGI and under ASGI."""

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], Any]):
        self.get_response = get_response
        self._is_async = iscoroutinefunction(get_response)
        if self._is_async:
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> HttpResponseBase | Awaitable[HttpResponseBase]:
        """Answer a request."""
        if self._is_async:
            return self._answer_async(request)
        return self._answer(request)

    def _answer(self, request: HttpRequest) -> HttpResponseBase:
        raise NotImplementedError

    async def _answer_async(self, request: HttpRequest) -> HttpResponseBase:
        raise NotImplementedError


class TenantMiddleware(_Middleware):
    """Finds the tenant of each request, sets ``request.tenant``, and makes it active; for WSGI and ASGI.

    An unknown tenant or host is a 404, a tenant that is not active a 503. Where no resolver of ``RESOLVERS`` finds
    anything that names a tenant, a host of ``PUBLIC_HOSTS`` is served with ``PUBLIC_URLCONF`` in the schema of the
    TENANT_MODEL, mostly ``public``, and its ``request.tenant`` is None.
    """

    def _answer(self, request: HttpRequest) -> HttpResponseBase:
        context = request_context(request)
        if context is None:
            return unavailable(request)
        with context:
            response = cast(HttpResponseBase, self.get_response(request))
            return _finish(response, context)

    async def _answer_async(self, request: HttpRequest) -> HttpResponseBase:
        context = await _without_waiting(request_context, request)
        if context is None:
            return await sync_to_async(unavailable)(request)
        async with context:
            response = await self.get_response(request)
            return _finish(response, context)

    def process_exception(self, request: HttpRequest, exception: Exception) -> None:
        """Forget what lookups have kept where a schema is not that of its tenant: another process has changed it."""
        if isinstance(exception, SchemaDoesNotExist):
            lookups.forget()


class PrimaryDomainMiddleware(_Middleware):
    """Redirects a tenant's other domains to its primary one; below ``TenantMiddleware``, for WSGI and ASGI.

    Scheme, port, path and query stay. The answer is a 301, or a 308 for other methods than GET and HEAD.
    """

    def _answer(self, request: HttpRequest) -> HttpResponseBase:
        return _to_primary(request) or cast(HttpResponseBase, self.get_response(request))

    async def _answer_async(self, request: HttpRequest) -> HttpResponseBase:
        return await _without_waiting(_to_primary, request) or await self.get_response(request)


class TenantCsrfMiddleware(CsrfViewMiddleware):
    """Django's CsrfViewMiddleware, which also trusts ``https`` origins of the active tenant's own domains.

    It stands before Django's own in ``MIDDLEWARE``, which then has nothing left to refuse. Other tenants' domains are
    trusted no more than any other site.
    """

    @property
    def allowed_origins_exact(self) -> set[str]:
        """Return the trusted origins: those of ``CSRF_TRUSTED_ORIGINS``, and the tenant's."""
        return {*super().allowed_origins_exact, *(f"https://{host}" for host in _own_domains())}

    @property
    def csrf_trusted_origins_hosts(self) -> list[str]:
        """Return the hosts of trusted referers."""
        return [*super().csrf_trusted_origins_hosts, *_own_domains()]


def _own_domains() -> list[str]:
    tenant = current_tenant()
    return [] if tenant is None else [host for host, _ in domains_of(tenant)]


def request_context(request: HttpRequest) -> RequestContext | None:
    """Set the request's tenant, and return its context; None where the tenant cannot be served now.

    Raises:
        TenantNotFound: no tenant answers to the request.
    """
    host = request_host(request)
    for resolve in resolvers():
        tenant = resolve(request)
        if tenant is not None:
            target = tenant_context(tenant).target
            request.tenant = tenant  # type: ignore[attr-defined]
            if not tenant.is_active:
                return None
            script = resolve.script(request) if isinstance(resolve, TenantResolver) else ""
            context = RequestContext(cast(ActiveSchema, target), host, script)
            if script:
                _move_to_script(request, script)
            return context
    if not is_public_host(host):
        raise TenantNotFound(
            f"No tenant answers to the host {host!r}. Give one this domain, or add the host to "
            "PG_TENANTS['PUBLIC_HOSTS']."
        )
    urlconf = conf.require().public_urlconf
    if urlconf:
        request.urlconf = urlconf
    request.tenant = None  # type: ignore[attr-defined]
    return RequestContext(ActiveSchema(home_schema()), host)


def _move_to_script(request: HttpRequest, script: str) -> None:
    """Move the tenant's part of the path to the script name; ``request.path`` has both and stays."""
    conf.settle_media_urls()
    request.path_info = request.path_info.removeprefix(script) or "/"
    request.META["PATH_INFO"] = request.path_info
    request.META["SCRIPT_NAME"] = f"{request.META.get('SCRIPT_NAME', '').rstrip('/')}{script}"


async def _without_waiting(function: Callable[[HttpRequest], T], request: HttpRequest) -> T:
    """Call a function that asks resolvers: on the event loop where all is at hand, else in a thread."""
    if all(isinstance(resolve, TenantResolver) for resolve in resolvers()):
        with suppress(SynchronousOnlyOperation):
            return function(request)
    return await sync_to_async(function)(request)


def _to_primary(request: HttpRequest) -> HttpResponseBase | None:
    try:
        tenant = request.tenant  # type: ignore[attr-defined]
    except AttributeError:
        raise ConfigurationError(
            "PrimaryDomainMiddleware needs request.tenant. Put it below TenantMiddleware in MIDDLEWARE."
        ) from None
    domains = domains_of(tenant) if tenant is not None else ()
    if not domains or not domains[0][1] or (request_host(request), False) not in domains:
        return None
    port = split_domain_port(request.get_host())[1]
    where = f"{request.scheme}://{domains[0][0]}{port and f':{port}'}{request.get_full_path()}"
    return HttpResponsePermanentRedirect(where, preserve_request=request.method not in ("GET", "HEAD"))


def _finish(response: HttpResponseBase, context: RequestContext) -> HttpResponseBase:
    for resolve in resolvers():
        if isinstance(resolve, TenantResolver) and resolve.vary:
            patch_vary_headers(response, resolve.vary)
    return _bind_stream(response, context)


def unavailable(request: HttpRequest) -> HttpResponse:
    """Return the answer for a tenant that is not active: the template ``503.html`` where there is one."""
    try:
        text: str = loader.render_to_string("503.html", request=request)
        content_type = "text/html; charset=utf-8"
    except TemplateDoesNotExist:
        text, content_type = "This site is not available at the moment.\n", "text/plain; charset=utf-8"
    return HttpResponse(text, status=503, content_type=content_type, headers={"Retry-After": RETRY_AFTER})


def _bind_stream(response: HttpResponseBase, context: RequestContext) -> HttpResponseBase:
    """Make a streaming response produce each part inside the context, which the middleware will have left by then."""
    # A file is sent as it is: reading it needs no database, and servers have faster ways for files.
    if not getattr(response, "streaming", False) or getattr(response, "file_to_stream", None) is not None:
        return response
    streaming = cast(Any, response)
    again = copy(context)
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
