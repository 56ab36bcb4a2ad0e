"""The tenant on OpenTelemetry's spans; it needs ``pip install 'pg_tenants[opentelemetry]'``.

Add the processor to the provider that the instrumentation uses, and the middleware behind ``TenantMiddleware``, because
a request's own span begins before its tenant is known::

    provider.add_span_processor(TenantSpanProcessor())
    MIDDLEWARE = ["pg_tenants.middleware.TenantMiddleware", "pg_tenants.contrib.opentelemetry.span_middleware", ...]
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from asgiref.sync import iscoroutinefunction
from django.utils.decorators import sync_and_async_middleware
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import Span, SpanProcessor

from pg_tenants.context import active

__all__ = ["MODULE", "SCHEMA", "TenantSpanProcessor", "span_middleware"]

SCHEMA, MODULE = "pg_tenants.schema", "pg_tenants.module"
"""The attributes: the active schema's name, and the module it belongs to."""


class TenantSpanProcessor(SpanProcessor):
    """Sets the attributes of the active schema on each span that starts."""

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Name the tenant."""
        _mark(span)


@sync_and_async_middleware
def span_middleware(get_response: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Set the attributes on the span of the request."""
    if iscoroutinefunction(get_response):

        async def call(request: Any) -> Any:
            _mark(trace.get_current_span())
            return await get_response(request)

        return call

    def respond(request: Any) -> Any:
        _mark(trace.get_current_span())
        return get_response(request)

    return respond


def _mark(span: trace.Span) -> None:
    target = active()
    if target is None:
        return
    span.set_attribute(SCHEMA, target.schema_name)
    if target.module is not None:
        span.set_attribute(MODULE, target.module)
