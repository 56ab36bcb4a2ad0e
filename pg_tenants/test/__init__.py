"""Tests in isolated schemas: Django's test runner, test cases and clients for tenants.

The fixtures for pytest are in ``pg_tenants.pytest_plugin``. What is here is imported when it is asked for: a worker of
``--parallel`` that begins from nothing imports this package before the apps are loaded.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pg_tenants.test.cases import TenantLiveServerTestCase, TenantTestCase, TenantTransactionTestCase
    from pg_tenants.test.client import AsyncTenantClient, AsyncTenantRequestFactory, TenantClient, TenantRequestFactory
    from pg_tenants.test.runner import TenantDiscoverRunner

__all__ = [
    "AsyncTenantClient",
    "AsyncTenantRequestFactory",
    "TenantClient",
    "TenantDiscoverRunner",
    "TenantLiveServerTestCase",
    "TenantRequestFactory",
    "TenantTestCase",
    "TenantTransactionTestCase",
]

_PLACES = {"Case": "cases", "Client": "client", "Factory": "client", "Runner": "runner"}


def __getattr__(name: str) -> Any:
    place = next((module for end, module in _PLACES.items() if name in __all__ and name.endswith(end)), None)
    if place is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{place}"), name)
