"""Tenants' domains as allowed hosts."""

from __future__ import annotations

from contextvars import ContextVar

__all__ = ["TenantHosts"]

answered: ContextVar[str | None] = ContextVar("pg_tenants_answered_host", default=None)
"""The host of the request that is answered here, which has been looked up."""


class TenantHosts(str):
    """An entry of ``ALLOWED_HOSTS`` that stands for all domains of the DOMAIN_MODEL.

    ``ALLOWED_HOSTS = ["www.example.com", TenantHosts()]``
    """

    __slots__ = ()

    def __new__(cls) -> TenantHosts:
        """Return the entry, as a text that no host has."""
        return super().__new__(cls, "<the tenants' domains>")

    def lower(self) -> str:
        """Return what Django compares hosts with."""
        return _AnyDomain(self)


class _AnyDomain(str):
    """Equals each tenant's domain. Django compares a host with an allowed one by ``allowed.lower() == host``."""

    __slots__ = ()
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, str):
            return NotImplemented
        # Settings import this module, and models cannot be imported before the settings are read.
        from pg_tenants.resolvers import tenant_of_domain  # noqa: PLC0415

        host = other.rstrip(".")
        return bool(host) and (host == answered.get() or tenant_of_domain(host) is not None)

    def __ne__(self, other: object) -> bool:
        return not self == other
