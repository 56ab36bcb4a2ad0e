"""The fixtures for pytest. ``pg_tenants.pytest_plugin`` registers them behind those of pytest-django."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import pytest

from pg_tenants.context import current
from pg_tenants.test import _left
from pg_tenants.test._workers import end_with_parent_process
from pg_tenants.test.isolated import CleanSchema, Isolated

__all__ = ["end_with_parent_process"]

TENANT_FIXTURES = {"tenant", "tenant_client", "async_tenant_client"}
"""The fixtures of tests that run in a tenant."""


# -- what pytest-django has under the same names ----------------------------------------------------------------------


@pytest.fixture(scope="session")
def django_db_modify_db_settings_xdist_suffix(pg_test_worker: str) -> None:
    """Give a worker test databases of its own, but for those where it has schemas of its own."""
    from django.db import connections  # noqa: PLC0415

    from pg_tenants.backends.base import TenantDatabaseWrapperMixin  # noqa: PLC0415

    for alias in connections:
        connection = connections[alias]
        if pg_test_worker == "master" or isinstance(connection, TenantDatabaseWrapperMixin):
            continue
        test = connection.settings_dict["TEST"]
        name = test["NAME"] or ("" if connection.vendor == "sqlite" else f"test_{connection.settings_dict['NAME']}")
        if name and name != ":memory:":
            test["NAME"] = f"{name}_{pg_test_worker}"


@pytest.fixture(scope="session")
def django_db_setup(
    request: pytest.FixtureRequest,
    django_test_environment: None,
    django_db_blocker: Any,
    django_db_use_migrations: bool,
    django_db_keepdb: bool,
    django_db_createdb: bool,
    django_db_modify_db_settings: None,
    pg_test_config: dict[str, Any],
    pg_test_worker: str,
) -> Iterator[None]:
    """Make the worker's schemas in the test database, and what pytest-django makes for other databases."""
    from django.test.utils import setup_databases, teardown_databases  # noqa: PLC0415
    from pytest_django.fixtures import _disable_migrations, _get_databases_for_setup  # noqa: PLC0415

    from pg_tenants.test import creation, server, tenants  # noqa: PLC0415

    if not django_db_use_migrations:
        _disable_migrations()
    aliases, serialized = _get_databases_for_setup(request.session.items)
    config = request.config
    with django_db_blocker.unblock():
        tenants.allow_domains()
        server.find(pg_test_config)
        own = creation.install(
            pg_test_worker,
            wait=config.getoption("tenants_wait"),
            recreate=_run_of(config) if django_db_createdb else "",
            own_database=config.getoption("tenants_isolation") == "database",
        )
        # Fixtures that need no mark, such as pg_isolated, are not among those that pytest-django looks for.
        made = setup_databases(
            verbosity=config.option.verbose,
            interactive=False,
            aliases=dict.fromkeys([*aliases, *own]),
            serialized_aliases=serialized,
            keepdb=django_db_keepdb and not django_db_createdb,
        )
        for module in _modules_wanted(request.session.items):
            tenants.make_ready(module)
    yield
    with django_db_blocker.unblock():
        teardown_databases(made, verbosity=config.option.verbose, keepdb=django_db_keepdb)


def _run_of(config: pytest.Config) -> str:
    worker: dict[str, Any] = getattr(config, "workerinput", {})
    return str(worker.get("testrunuid") or f"{id(config):x}")


def _modules_wanted(items: list[pytest.Item]) -> list[str]:
    """Return the tenant modules that tests want a tenant of."""
    return list(dict.fromkeys(module for item in items if (module := _module_wanted(item)) is not None))


def _module_wanted(item: pytest.Item) -> str | None:
    mark = item.get_closest_marker("tenant")
    names: tuple[str, ...] = getattr(item, "fixturenames", ())
    if mark is None and not TENANT_FIXTURES & set(names):
        return None
    return str(mark.kwargs.get("module", "")) if mark else ""


# -- the worker and its schemas ---------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def pg_test_config() -> dict[str, Any]:
    """Return where the test database is; override it for another place than the settings name.

    The keys are ``url`` (its database is the test database), or ``host``, ``port``, ``user`` and ``password``.
    """
    return {}


@pytest.fixture(scope="session")
def pg_test_worker(request: pytest.FixtureRequest) -> str:
    """Return which worker this is: ``gw0`` and so on under pytest-xdist, else ``master``."""
    return str(getattr(request.config, "workerinput", {}).get("workerid", "master"))


@pytest.fixture(scope="session")
def pg_test_schema(request: pytest.FixtureRequest, pg_test_worker: str) -> str:
    """Return the worker's schema, which stands for ``public``: ``test_gw0``, or ``test_master`` without xdist.

    In a database of the worker's own it is ``public``.
    """
    if request.config.getoption("tenants_isolation") == "database":
        return "public"
    from pg_tenants.test.creation import worker_prefix  # noqa: PLC0415

    return worker_prefix(pg_test_worker)


@pytest.fixture(scope="session")
def pg_isolated(django_db_setup: None, django_db_blocker: Any, pg_test_schema: str) -> Isolated:
    """Return the test database, bound to the worker's schema, without Django."""
    with django_db_blocker.unblock():
        return Isolated.of_alias(pg_test_schema)


@pytest.fixture
def pg_session_isolated(request: pytest.FixtureRequest, pg_isolated: Isolated) -> Iterator[Any]:
    """Return a psycopg connection in the worker's schema. A test that passes commits, one that fails rolls back."""
    with pg_isolated.connect() as session:
        yield session
        if _has_failed(request.node):
            session.rollback()


@pytest.fixture
def pg_clean_schema(pg_isolated: Isolated) -> Iterator[Isolated]:
    """Return the test database, bound to an empty schema, which is dropped and made anew for each test."""
    with CleanSchema(pg_isolated, f"{pg_isolated.schema}_clean") as clean:
        yield clean


@pytest.fixture(scope="session")
def pg_schema_info(pg_isolated: Isolated, pg_test_worker: str, django_db_blocker: Any) -> dict[str, Any]:
    """Return details: worker, schema, search path, database, server, modules and extensions."""
    with django_db_blocker.unblock():
        return {"worker": pg_test_worker, **pg_isolated.info()}


@pytest.fixture(scope="session")
def pg_migrate_factory(
    pg_isolated: Isolated, django_db_blocker: Any
) -> Callable[..., AbstractContextManager[Isolated]]:
    """Return ``make(module="", extensions=())``: a context with a schema that has all tables of a module.

    The schema is made, migrated and, at the end, dropped. ``extensions`` are installed before.
    """
    from pg_tenants.test.isolated import migrated  # noqa: PLC0415

    numbers = itertools.count(1)

    @contextmanager
    def make(module: str = "", *, extensions: tuple[str, ...] | list[str] = ()) -> Iterator[Isolated]:
        with django_db_blocker.unblock(), migrated(f"migrated_{next(numbers)}", module, extensions) as isolated:
            yield isolated

    return make


# -- a test's database ------------------------------------------------------------------------------------------------


@pytest.fixture
def db_session(db: None) -> Any:
    """Return Django's connection, in a transaction that is rolled back behind the test."""
    from django.db import connection  # noqa: PLC0415

    return connection


@pytest.fixture
def test_db(transactional_db: None) -> Any:
    """Return Django's connection to a clean database: what the test commits is removed behind it."""
    from django.db import connection  # noqa: PLC0415

    return connection


@pytest.fixture(autouse=True)
def _async_in_transaction(request: pytest.FixtureRequest) -> Iterator[None]:
    """Have the ORM of an asynchronous test use the test's connection, and so see and leave its transaction alone.

    Outside of ``async_to_sync()`` the ORM works in a thread of asgiref's, which has connections of its own: what the
    test writes there would be committed, and what its fixtures have written would not be seen.
    """
    if not _is_async(request) or not _uses_database(request.node, request.fixturenames):
        yield
        return
    from pg_tenants.test.threads import shared_with_async  # noqa: PLC0415

    with shared_with_async():
        yield


@pytest.fixture
def tenant_threads() -> Iterator[None]:
    """Have threads that the test starts begin in the tenant that is active where they are started.

    By itself a thread begins without a tenant. ``usefixtures = tenant_threads`` in pytest's configuration, or the mark
    of that name, does it for many tests.
    """
    from pg_tenants.test.threads import threads_inherit  # noqa: PLC0415

    with threads_inherit():
        yield


def _is_async(request: pytest.FixtureRequest) -> bool:
    return inspect.iscoroutinefunction(getattr(request, "function", None))


def _uses_database(item: pytest.Item, names: Sequence[str]) -> bool:
    return item.get_closest_marker("django_db") is not None or "db" in names


# -- tenants ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def tenant_fields() -> dict[str, Any]:
    """Return fields that each tenant of the tests gets; override it where the TENANT_MODEL needs some."""
    return {}


@pytest.fixture
def _tenant_ready(
    request: pytest.FixtureRequest, django_db_setup: None, django_db_blocker: Any, tenant_fields: dict[str, Any]
) -> None:
    """Make the ready schema again where the test before has committed; not inside the transaction of this one."""
    from pg_tenants.test import tenants  # noqa: PLC0415

    module = _module_wanted(request.node) or tenant_fields.get("module", "")
    with django_db_blocker.unblock():
        tenants.make_ready(module)


@pytest.fixture
def tenant_factory(_tenant_ready: None, db: None, tenant_fields: dict[str, Any]) -> Callable[..., Any]:
    """Return ``make(schema_name=None, *, module="", domain=None, **fields)``, which returns a new tenant.

    Its schema and its rows are gone behind the test.
    """
    from pg_tenants.test.tenants import make_tenant  # noqa: PLC0415

    def make(schema_name: str | None = None, **fields: Any) -> Any:
        return make_tenant(schema_name, **{**tenant_fields, **fields})

    return make


@pytest.fixture
def tenant(request: pytest.FixtureRequest, tenant_factory: Callable[..., Any]) -> Iterator[Any]:
    """Return a fresh tenant, which is active in the test, and gone behind it.

    ``@pytest.mark.tenant("acme", module="retail", domain="acme.test", name="Acme")`` says which.
    """
    from pg_tenants import tenant_context  # noqa: PLC0415

    mark = request.node.get_closest_marker("tenant")
    made = tenant_factory(*mark.args, **mark.kwargs) if mark else tenant_factory()
    with tenant_context(made):
        yield made


@pytest.fixture
def tenant_client(tenant: Any) -> Any:
    """Return Django's test client on the tenant's domain."""
    from pg_tenants.test.client import TenantClient  # noqa: PLC0415

    return TenantClient(tenant)


@pytest.fixture
def async_tenant_client(tenant: Any) -> Any:
    """Return Django's asynchronous test client on the tenant's domain."""
    from pg_tenants.test.client import AsyncTenantClient  # noqa: PLC0415

    return AsyncTenantClient(tenant)


@pytest.fixture(autouse=True)
def _tenant_marker(request: pytest.FixtureRequest) -> None:
    """Make the tenant of a test that has the mark, also where it does not ask for the fixture."""
    if request.node.get_closest_marker("tenant") is None:
        return
    from django.test import SimpleTestCase  # noqa: PLC0415

    if request.cls is not None and issubclass(request.cls, SimpleTestCase):
        raise pytest.UsageError(
            f"@pytest.mark.tenant does nothing for {request.node.nodeid}: its class is one of Django's test cases, "
            "which have transactions of their own. Derive it from pg_tenants.test.TenantTestCase."
        )
    request.getfixturevalue("tenant")


def allow_databases(items: list[pytest.Item]) -> None:
    """Mark the tests in a tenant that say nothing of databases: they may use those that modules live on."""
    from django.db import DEFAULT_DB_ALIAS  # noqa: PLC0415

    from pg_tenants.migrations import required_registry  # noqa: PLC0415

    aliases = list(dict.fromkeys([DEFAULT_DB_ALIAS, *required_registry().databases]))
    for item in items if len(aliases) > 1 else ():
        wants = {"tenant_factory", *TENANT_FIXTURES} & set(getattr(item, "fixturenames", ()))
        if (wants or item.get_closest_marker("tenant")) and item.get_closest_marker("django_db") is None:
            item.add_marker(pytest.mark.django_db(databases=aliases))


def find_server(config: pytest.Config) -> Any:
    """Return the development server if the tests are to run on it, else None."""
    from pytest_django.plugin import blocking_manager_key  # noqa: PLC0415

    from pg_tenants.test import server  # noqa: PLC0415

    with config.stash[blocking_manager_key].unblock():
        return server.find()


def make_early(config: pytest.Config) -> Any:
    """Begin to make the test database that workers of pytest-xdist will want; return what ends that, or None."""
    from pytest_django.plugin import blocking_manager_key  # noqa: PLC0415

    from pg_tenants.test import _early  # noqa: PLC0415

    return _early.begin(config, config.stash[blocking_manager_key])


def keep_rows(item: pytest.Item) -> None:
    """Keep the rows that a failed test sees, and say in its report where they are; once a test."""
    from pytest_django.plugin import blocking_manager_key  # noqa: PLC0415

    from pg_tenants.test._kept import keep  # noqa: PLC0415

    if item.stash.get(kept_key, False):
        return
    item.stash[kept_key] = True
    with item.config.stash[blocking_manager_key].unblock():
        item.add_report_section("call", "rows", "\n".join(keep(item.nodeid)))


def keep_when_reported(item: Any) -> None:
    """Keep the rows of a test of unittest when it tells that it has failed: its own call ends after the rollback."""
    for name in ("addError", "addFailure"):
        tell = getattr(item, name, None)
        if tell is None:
            return

        def told(test: Any, error: Any, tell: Callable[..., None] = tell) -> None:
            keep_rows(item)
            tell(test, error)

        setattr(item, name, told)


def restored_context(item: Any) -> AbstractContextManager[None]:
    """Return a context that ends what a test leaves active.

    For one of unittest that is when its own part ends, before that of Django's test case, which may leave a tenant that
    it has entered before.
    """
    if not hasattr(item, "stopTest"):
        return _left.restored_context()
    before: list[Any] = []

    def start(test: Any, begin: Callable[[Any], None] = item.startTest) -> None:
        before.append(current.get())
        begin(test)

    def stop(test: Any, end: Callable[[Any], None] = item.stopTest) -> None:
        current.set(before.pop())
        end(test)

    item.startTest, item.stopTest = start, stop
    return nullcontext()


failed_key, kept_key = pytest.StashKey[bool](), pytest.StashKey[bool]()


def _has_failed(node: pytest.Item) -> bool:
    return node.stash.get(failed_key, False)
