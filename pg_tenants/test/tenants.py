"""Tenants for tests: made in the test's transaction, and gone with it.

Each worker keeps one schema of each tenant module ready, committed and filled as the migrations fill it. The tenant
that a test gets takes it: its row is new, and everything is rolled back with the test. Where a test commits, what it
has made is dropped behind it, and the ready schema is made anew for the next one.
"""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.db import connections, models, router, transaction
from django.test.utils import override_settings

from pg_tenants import schemas
from pg_tenants.context import no_schema
from pg_tenants.exceptions import ConfigurationError
from pg_tenants.migrations import Target, required_registry
from pg_tenants.models import domain_model, tenant_model
from pg_tenants.provisioning.run import ACTIVE
from pg_tenants.signals import (
    post_tenant_activate,
    post_tenant_create,
    pre_tenant_activate,
    pre_tenant_create,
)
from pg_tenants.test import _build
from pg_tenants.test.creation import creation_of, ready_name

__all__ = ["domain_of", "make_ready", "make_tenant"]

DOMAIN = ".localhost"
"""What the domains of tests' tenants end with; names under it lead to the machine itself."""


def make_ready(module: str = "") -> None:
    """Make the ready schema of a tenant module, unless it is there or a transaction is open.

    Args:
        module: the module's name; empty for the only one. Where there are several, nothing is made then: which one is
            meant is for the test to say, as ``make_tenant`` tells it.
    """
    modules = required_registry()
    if not module and len(modules.tenant) > 1:
        return
    found = modules.tenant_module(module or None)
    creation, connection = creation_of(found.database), connections[found.database]
    if creation is None or creation.claim is None:
        return
    creation.recover()
    if found.name in creation.ready or connection.in_atomic_block:
        return
    name = ready_name(found)
    # What a test overrides for itself is not for the tests behind it.
    with no_schema(), override_settings(MIGRATION_MODULES=creation.migration_modules):
        _build.make_tenant_schema(Target(name, (found,)), using=found.database)
        creation.mark([Target(name, (found,))])
    creation.ready[found.name] = name


def make_tenant(schema_name: str | None = None, *, module: str = "", domain: str | None = None, **fields: Any) -> Any:
    """Return a new tenant with a schema and a primary domain.

    Args:
        schema_name: the schema; None for the one that is ready, ``tenant`` or with several modules ``tenant_<module>``.
        module: the tenant module; empty for the only one.
        domain: the domain; None for the schema's name under ``localhost``.
        fields: other fields of the TENANT_MODEL; texts that need a value get the schema's name.

    Raises:
        ConfigurationError: the project has several tenant modules, and none is named.
        PgTenantsError: those of creating a tenant.
    """
    model, several = tenant_model(), required_registry().tenant
    if not module and len(several) > 1:
        names = ", ".join(repr(each.name) for each in several)
        raise ConfigurationError(
            f"A tenant for a test needs its module, as PG_TENANTS['MODULES'] has several with tenants: {names}. Name "
            f"one: @pytest.mark.tenant(module={several[0].name!r}), tenant_factory(module=...), tenant_module of a "
            "test case, or 'module' in the fixture tenant_fields for all tests."
        )
    if schema_name is None:
        schema_name = ready_name(required_registry().tenant_module(module or None))
    tenant = model(schema_name=schema_name, module=module, **{**_needed_texts(model, schema_name), **fields})
    with no_schema(), transaction.atomic(using=router.db_for_write(model, instance=tenant)):
        if not _take_ready(tenant):
            tenant.save()
        domain_model()._default_manager.create(
            domain=domain or f"{schema_name.replace('_', '-')}{DOMAIN}", tenant=tenant, is_primary=True
        )
    return tenant


def domain_of(tenant: Any) -> str:
    """Return a tenant's domain for requests in tests: its primary one, else any, else one that leads nowhere.

    Raises:
        ConfigurationError: it has none.
    """
    with no_schema():
        found = domain_model()._default_manager.filter(tenant=tenant.pk).order_by("-is_primary", "pk").first()
    if found is None:
        raise ConfigurationError(f"The tenant {tenant} has no domain, so no request leads to it. Create one for it.")
    return str(found.domain)


def allow_domains() -> None:
    """Let requests to the domains of tests' tenants pass ALLOWED_HOSTS, as Django does it for ``testserver``."""
    if DOMAIN not in settings.ALLOWED_HOSTS:
        settings.ALLOWED_HOSTS = [*settings.ALLOWED_HOSTS, DOMAIN]


def _take_ready(tenant: Any) -> bool:
    """Save a tenant whose schema is ready, and return whether there was such a one."""
    module = required_registry().tenant_module(tenant.module or None, tenant.schema_name)
    creation = creation_of(module.database)
    if creation is None or creation.ready.get(module.name) != tenant.schema_name:
        return False
    home = router.db_for_write(type(tenant), instance=tenant)
    if type(tenant)._base_manager.using(home).filter(schema_name=tenant.schema_name).exists():
        return False
    # What provisioning does, with a schema that is there.
    tenant.module, tenant.status = module.name, ACTIVE
    _send(pre_tenant_create, tenant, home)
    models.Model.save(tenant, using=home, force_insert=True)
    schemas.assign(tenant.schema_name, tenant.schema_identity, using=module.database)
    for signal in (post_tenant_create, pre_tenant_activate, post_tenant_activate):
        _send(signal, tenant, home)
    return True


def _send(signal: Any, tenant: Any, using: str) -> None:
    signal.send(sender=tenant._meta.get_field("schema_name").model, tenant=tenant, using=using)


def _needed_texts(model: Any, text: str) -> dict[str, str]:
    return {
        field.name: text[: field.max_length]
        for field in model._meta.concrete_fields
        if isinstance(field, models.CharField)
        and not (field.has_default() or field.blank or field.null or field.choices or field.primary_key)
        and field.name not in ("schema_name", "module", "status")
    }
