"""A plugin for pytest that runs a test suite, which knows nothing of tenants, inside a tenant."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """Have the suite's test cases derive from those for tenants."""
    import django.test

    from pg_tenants import test

    config.stash[_cases] = django.test.TestCase, django.test.TransactionTestCase
    django.test.TestCase = test.TenantTestCase
    django.test.TransactionTestCase = test.TenantTransactionTestCase


_cases = pytest.StashKey[Any]()


@pytest.hookimpl(wrapper=True)
def pytest_collection_finish(session: pytest.Session) -> Any:
    """Give Django's test cases back: pytest-django derives its own from them."""
    import django.test

    yield
    django.test.TestCase, django.test.TransactionTestCase = session.config.stash[_cases]


@pytest.fixture(autouse=True)
def _inside_tenant(request: pytest.FixtureRequest) -> None:
    """Make a tenant active in each test function that uses the database."""
    from django.test import TransactionTestCase

    if request.cls is not None and issubclass(request.cls, TransactionTestCase):
        return
    marked = request.node.get_closest_marker("django_db") is not None
    if marked or {"db", "transactional_db", "live_server"} & set(request.fixturenames):
        request.getfixturevalue("tenant")
