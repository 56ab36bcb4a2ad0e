"""Clients and request factories that ask on a tenant's domain."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest
from django.test import AsyncClient, AsyncRequestFactory, Client, RequestFactory

from pg_tenants.context import tenant_context
from pg_tenants.test.tenants import domain_of

__all__ = ["AsyncTenantClient", "AsyncTenantRequestFactory", "TenantClient", "TenantRequestFactory"]


class TenantClient(Client):
    """Django's test client on a tenant's domain; users and sessions are the tenant's.

    Args:
        tenant: the tenant.
        args, kwargs: those of Django's client; ``headers={"host": …}`` asks on another domain.
    """

    def __init__(self, tenant: Any, *args: Any, **kwargs: Any):
        self.tenant = tenant
        super().__init__(*args, **{"SERVER_NAME": domain_of(tenant), **kwargs})

    @property
    def session(self) -> Any:
        """Return the session, which is the tenant's."""
        with tenant_context(self.tenant):
            return super().session

    def login(self, **credentials: Any) -> bool:
        """Log a user of the tenant in, and return whether the credentials were right."""
        with tenant_context(self.tenant):
            return super().login(**credentials)

    def force_login(self, user: Any, backend: str | None = None) -> None:
        """Log a user of the tenant in without a password."""
        with tenant_context(self.tenant):
            super().force_login(user, backend)

    def logout(self) -> None:
        """Log the user out."""
        with tenant_context(self.tenant):
            super().logout()


class AsyncTenantClient(AsyncClient):
    """Django's asynchronous test client on a tenant's domain; users and sessions are the tenant's.

    Args:
        tenant: the tenant.
        args, kwargs: those of Django's client.
    """

    def __init__(self, tenant: Any, *args: Any, **kwargs: Any):
        self.tenant = tenant
        super().__init__(*args, **kwargs)
        self._host = domain_of(tenant).encode()

    def _base_scope(self, **request: Any) -> Any:
        return _on_host(self._host, super()._base_scope(**request))  # type: ignore[misc]

    async def asession(self) -> Any:
        """Return the session, which is the tenant's."""
        async with tenant_context(self.tenant):
            return await super().asession()

    async def alogin(self, **credentials: Any) -> bool:
        """Log a user of the tenant in, and return whether the credentials were right."""
        async with tenant_context(self.tenant):
            return await super().alogin(**credentials)

    async def aforce_login(self, user: Any, backend: str | None = None) -> None:
        """Log a user of the tenant in without a password."""
        async with tenant_context(self.tenant):
            await super().aforce_login(user, backend)

    async def alogout(self) -> None:
        """Log the user out."""
        async with tenant_context(self.tenant):
            await super().alogout()


class TenantRequestFactory(RequestFactory):
    """Django's request factory on a tenant's domain; its requests have ``request.tenant``.

    A view that is called with one runs in the tenant that is active, as no middleware makes one so.

    Args:
        tenant: the tenant.
        args, kwargs: those of Django's factory.
    """

    def __init__(self, tenant: Any, *args: Any, **kwargs: Any):
        self.tenant = tenant
        super().__init__(*args, **{"SERVER_NAME": domain_of(tenant), **kwargs})

    def request(self, **request: Any) -> Any:
        """Return a request."""
        return _of(self.tenant, super().request(**request))


class AsyncTenantRequestFactory(AsyncRequestFactory):
    """As ``TenantRequestFactory``, for asynchronous views."""

    def __init__(self, tenant: Any, *args: Any, **kwargs: Any):
        self.tenant = tenant
        super().__init__(*args, **kwargs)
        self._host = domain_of(tenant).encode()

    def _base_scope(self, **request: Any) -> Any:
        return _on_host(self._host, super()._base_scope(**request))  # type: ignore[misc]

    def request(self, **request: Any) -> Any:
        """Return a request."""
        return _of(self.tenant, super().request(**request))


def _of(tenant: Any, request: HttpRequest) -> HttpRequest:
    request.tenant = tenant  # type: ignore[attr-defined]
    return request


def _on_host(host: bytes, scope: Any) -> Any:
    """Put a host in the place of the one that Django writes into each request; one that the test gave stays."""
    given = [(name, value) for name, value in scope["headers"] if (name, value) != (b"host", b"testserver")]
    if not any(name == b"host" for name, _ in given):
        given.append((b"host", host))
    return {**scope, "headers": given}
