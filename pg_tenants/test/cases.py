"""Django's test cases in a tenant of their own."""

from __future__ import annotations

from typing import Any, ClassVar

from django.core.management import call_command
from django.db import DEFAULT_DB_ALIAS
from django.test import testcases
from django.utils.functional import classproperty

from pg_tenants.context import current, no_schema, tenant_context
from pg_tenants.migrations import required_registry
from pg_tenants.test.client import AsyncTenantClient, TenantClient
from pg_tenants.test.tenants import allow_domains, domain_of, make_ready, make_tenant

__all__ = ["TenantLiveServerTestCase", "TenantTestCase", "TenantTransactionTestCase"]

# The hooks that are overridden here are not in the stubs.
_django: Any = testcases


class _InTenant:
    """What the test cases share.

    Attributes:
        tenant: the tenant, which is active in the tests.
        tenant_client: a client on its domain.
        async_tenant_client: an asynchronous one.
        tenant_schema_name: its schema; None for the one that is kept ready, which saves making one.
        tenant_module: its module, where the project has several tenant modules.
        tenant_domain: its domain; None for its schema's name under ``localhost``.
        tenant_fields: other fields of the TENANT_MODEL.
        databases: Django's: the aliases that tests may use. By default those that modules live on.
    """

    tenant: ClassVar[Any]
    tenant_client: TenantClient
    async_tenant_client: AsyncTenantClient
    tenant_schema_name: ClassVar[str | None] = None
    tenant_module: ClassVar[str] = ""
    tenant_domain: ClassVar[str | None] = None
    tenant_fields: ClassVar[dict[str, Any]] = {}

    @classproperty
    def databases(cls) -> frozenset[str]:  # noqa: N805  # as Django's
        """Return the aliases that the tests may use."""
        return frozenset({DEFAULT_DB_ALIAS, *required_registry().databases})

    @classmethod
    def create_tenant(cls, schema_name: str | None = None, **fields: Any) -> Any:
        """Return a new tenant with schema and domain, for tests with several; it goes with the test that made it.

        Args:
            schema_name: the schema.
            fields: ``module``, ``domain``, and fields of the TENANT_MODEL.
        """
        return make_tenant(schema_name, **fields)

    @classmethod
    def _make_own_tenant(cls) -> Any:
        allow_domains()
        return cls.create_tenant(
            cls.tenant_schema_name, module=cls.tenant_module, domain=cls.tenant_domain, **cls.tenant_fields
        )

    @classmethod
    def _make_ready(cls) -> None:
        if cls.tenant_schema_name is None:
            make_ready(cls.tenant_module)

    def _callSetUp(self) -> None:  # noqa: N802  # as unittest has it
        self.tenant_client = TenantClient(self.tenant)
        self.async_tenant_client = AsyncTenantClient(self.tenant)
        super()._callSetUp()  # type: ignore[misc]


class TenantTestCase(_InTenant, _django.TestCase):  # type: ignore[misc]
    """``TestCase`` in a tenant: one for the class, made in its transaction; each test is a savepoint in it.

    ``fixtures`` are loaded into the tenant, and ``setUpTestData()`` is called in it.
    """

    @classmethod
    def setUpClass(cls) -> None:
        """Make the tenant, then do as Django."""
        cls.__tenant_entered = False
        # What setUpTestData() and others of the class leave active is for the class.
        cls.addClassCleanup(current.set, current.get())
        super().setUpClass()

    @classmethod
    def _enter_atomics(cls) -> Any:
        """Open Django's transactions; in those of the class, before anything else, the tenant is made."""
        if cls.__tenant_entered:
            return super()._enter_atomics()
        cls._make_ready()
        atomics = super()._enter_atomics()
        try:
            tenant = cls._make_own_tenant()
        except BaseException:
            cls._rollback_atomics(atomics)
            raise
        cls.__tenant_entered = True
        cls.enterClassContext(tenant_context(tenant))
        # Each test gets a copy, as of what setUpTestData() makes.
        cls.tenant = _django.TestData("tenant", tenant)
        return atomics

    def _fixture_teardown(self) -> None:
        # The test may have deleted the tenant that is active.
        with no_schema():
            super()._fixture_teardown()


class TenantTransactionTestCase(_InTenant, _django.TransactionTestCase):  # type: ignore[misc]
    """``TransactionTestCase`` in a tenant, a new one for each test. What a test commits is dropped behind it.

    ``fixtures`` are loaded into the tenant. Its schema has what the migrations write, with or without
    ``serialized_rollback``, which is about the fixed modules' tables.
    """

    __entered: ClassVar[Any] = None

    @classmethod
    def _fixture_setup(cls) -> None:
        fixtures = cls.fixtures
        # Django would load them without a tenant.
        cls.fixtures = None
        try:
            super()._fixture_setup()
        finally:
            cls.fixtures = fixtures
        cls._make_ready()
        cls.tenant = cls._make_own_tenant()
        cls.__entered = tenant_context(cls.tenant)
        cls.__entered.__enter__()
        for alias in cls._databases_names(include_mirrors=False):
            if fixtures:
                call_command("loaddata", *fixtures, verbosity=0, database=alias)

    def _fixture_teardown(self) -> None:
        entered, type(self).__entered = self.__entered, None
        if entered is not None:
            entered.__exit__(None, None, None)
        super()._fixture_teardown()


class TenantLiveServerTestCase(TenantTransactionTestCase, _django.LiveServerTestCase):  # type: ignore[misc]
    """``LiveServerTestCase`` in a tenant: ``live_server_url`` is on the tenant's domain."""

    @classproperty
    def live_server_url(cls) -> str:  # noqa: N805  # as Django's
        """Return where the server answers for the tenant."""
        return f"http://{domain_of(cls.tenant)}:{cls.server_thread.port}"
