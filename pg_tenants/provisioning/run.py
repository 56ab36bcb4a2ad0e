"""A tenant's row and schema, together or not at all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.db import IntegrityError, router, transaction

from pg_tenants import schemas
from pg_tenants.context import no_schema
from pg_tenants.exceptions import InvalidSchemaName, SchemaExists
from pg_tenants.migrations import Options, Target, migrate_target, required_registry
from pg_tenants.names import validate_schema_name

__all__ = ["ACTIVE", "PROVISIONING", "deprovision", "provision", "validate_tenant_schema"]

PROVISIONING, ACTIVE, SUSPENDED = "provisioning", "active", "suspended"


def validate_tenant_schema(name: object) -> str:
    """Return ``name`` if a tenant's schema may be called so.

    Raises:
        InvalidSchemaName: it may not; the message says why.
    """
    modules = required_registry()
    return validate_schema_name(name, taken={*modules.fixed_schemas, modules.extensions_schema})


def provision(tenant: Any, save: Callable[[], None], *, using: str | None = None) -> None:
    """Save a new tenant's row, make its schema, migrate it, and mark the tenant active; or none of it.

    A tenant that is made with the status ``suspended`` stays so.

    Args:
        tenant: an instance that is not saved yet.
        save: saves the row.
        using: the alias of the tenant's row; None for the router's choice.

    Raises:
        InvalidSchemaName: the schema may not be called so.
        SchemaExists: there is a tenant or a schema of this name.
        ConfigurationError: the tenant's module is unknown.
    """
    home = using or router.db_for_write(type(tenant), instance=tenant)
    name = validate_tenant_schema(tenant.schema_name)
    module = required_registry().tenant_module(tenant.module or None, name)
    before = tenant.pk, tenant.module, tenant.status
    tenant.module = module.name
    tenant.status = PROVISIONING
    try:
        with no_schema(), transaction.atomic(using=home), transaction.atomic(using=module.database):
            _save_row(tenant, save, home)
            schemas.create(name, using=module.database)
            target = Target(name, (module,), tenant)
            migrate_target(target, Options(verbosity=0, run_syncdb=True), using=module.database)
            tenant.status = SUSPENDED if before[2] == SUSPENDED else ACTIVE
            type(tenant)._base_manager.using(home).filter(pk=tenant.pk).update(status=tenant.status)
    except BaseException:
        tenant.pk, tenant.module, tenant.status = before
        tenant._state.adding = True
        raise


def _save_row(tenant: Any, save: Callable[[], None], home: str) -> None:
    try:
        with transaction.atomic(using=home):
            save()
    except IntegrityError as exc:
        # Asked for after the insert, which waits for another session that is inserting the same name.
        same = type(tenant)._base_manager.using(home).filter(schema_name=tenant.schema_name).exists()
        if not same:
            raise
        raise SchemaExists(
            f"There is a tenant with the schema {tenant.schema_name!r} already. Choose another schema_name."
        ) from exc


def deprovision(tenant: Any) -> None:
    """Drop a tenant's schema; the transaction of the caller decides whether it is gone."""
    modules = required_registry()
    module = modules.tenant_module(tenant.module or None, tenant.schema_name)
    if tenant.schema_name in {*modules.fixed_schemas, modules.extensions_schema, "public"}:
        raise InvalidSchemaName(
            f"The tenant {tenant!r} has the schema {tenant.schema_name!r}, which is not a tenant's. It is not dropped."
        )
    schemas.drop(tenant.schema_name, using=module.database, if_exists=True)
