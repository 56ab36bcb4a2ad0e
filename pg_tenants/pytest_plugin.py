"""The plugin for pytest: with pytest-django, a test worker's own schemas in one test database.

It is on by being installed, and does nothing in a project without ``PG_TENANTS``. Its fixtures are in
``pg_tenants.test.fixtures``; nothing of Django is imported before pytest-django has set it up.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import pytest

__all__: list[str] = []

MARK = (
    "tenant(schema_name=None, *, module='', domain=None, **fields): run the test in a fresh tenant, "
    "which is rolled back behind it."
)
_server, _early = pytest.StashKey[Any](), pytest.StashKey[Any]()


def pytest_addoption(parser: pytest.Parser, pluginmanager: Any) -> None:
    """Add the options, and spare the package pytest's rewriting of assertions.

    Pytest does so with all of a package that has a plugin: where compiled files are not kept, as with
    PYTHONDONTWRITEBYTECODE, in each process of each run.
    """
    marked = getattr(pluginmanager.rewrite_hook, "_must_rewrite", None)
    if isinstance(marked, set):
        marked.discard(__name__.partition(".")[0])
    group = parser.getgroup("pg_tenants")
    group.addoption(
        "--tenants-wait",
        type=float,
        default=float(os.environ.get("TEST_DB_WAIT") or 10),
        metavar="SECONDS",
        help="Wait so long for another test run that uses the same schemas.",
    )
    group.addoption(
        "--tenants-isolation",
        choices=("schema", "database"),
        default=os.environ.get("TEST_DB_ISOLATION") or "schema",
        help="What a worker has of its own: schemas in the one test database, or a database that is a clone.",
    )
    group.addoption(
        "--keep-failed",
        action="store_true",
        default=False,
        help="Copy the rows that a failed test saw to schemas that stay; see 'manage.py test_schemas'.",
    )


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """Register the fixtures behind those of pytest-django, which are replaced by some."""
    config.addinivalue_line("markers", MARK)
    if _applies(config):
        from pg_tenants.test import fixtures  # noqa: PLC0415

        config.pluginmanager.register(fixtures, "pg_tenants.test.fixtures")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Let tests in a tenant use each database that modules live on, where they do not say which."""
    fixtures = config.pluginmanager.get_plugin("pg_tenants.test.fixtures")
    if fixtures is not None:
        fixtures.allow_databases(items)


@pytest.hookimpl(trylast=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    """Find out, in the process that pytest was started as, whether the development server is this run's to stop.

    Begin there, too, to make the test database that workers will want.
    """
    config = session.config
    fixtures = config.pluginmanager.get_plugin("pg_tenants.test.fixtures")
    if fixtures is None:
        return
    if hasattr(config, "workerinput"):
        fixtures.end_with_parent_process()
    else:
        config.stash[_server] = fixtures.find_server(config)
        config.stash[_early] = fixtures.make_early(config)


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """Stop the development server, if this run has started it."""
    early = config.stash.get(_early, None)
    if early is not None:
        early.stop()
    server = config.stash.get(_server, None)
    if server is not None:
        server.stop()


def _applies(config: pytest.Config) -> bool:
    """Return whether the project is one of ours, and tested with pytest-django."""
    if not config.pluginmanager.hasplugin("django") or "django" not in sys.modules:
        return False
    from django.apps import apps  # noqa: PLC0415
    from django.conf import settings  # noqa: PLC0415

    return bool(settings.configured and apps.ready and getattr(settings, "PG_TENANTS", None) is not None)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Any:
    """End what a test leaves active. Keep the rows of one that fails, if that is asked for, before the rollback."""
    fixtures = item.config.pluginmanager.get_plugin("pg_tenants.test.fixtures")
    if fixtures is None:
        return (yield)
    keeps = item.config.getoption("keep_failed")
    if keeps:
        fixtures.keep_when_reported(item)
    with fixtures.restored_context(item):
        try:
            return (yield)
        except Exception:
            if keeps:
                fixtures.keep_rows(item)
            raise


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Any:
    """Note whether a test has failed, for fixtures that do one thing or another then."""
    report = yield
    fixtures = item.config.pluginmanager.get_plugin("pg_tenants.test.fixtures")
    if fixtures is not None and report.failed:
        item.stash[fixtures.failed_key] = True
    return report
