"""Another name for a tenant: of its row and its schema, together."""

from __future__ import annotations

from typing import Any

from django.db import IntegrityError, models, router

from pg_tenants import schemas
from pg_tenants.context import current_schema, no_schema
from pg_tenants.exceptions import InvalidSchemaName, SchemaExists, TenantInUse
from pg_tenants.modules import Module
from pg_tenants.provisioning import run
from pg_tenants.provisioning._dump import Progress
from pg_tenants.provisioning._names import follow
from pg_tenants.signals import post_tenant_rename, pre_tenant_rename

__all__ = ["rename"]


def rename(tenant: Any, schema_name: str, *, using: str | None = None, progress: Progress | None = None) -> bool:
    """Give a tenant's row and schema another name, and return whether it had another one.

    It waits for the statements and transactions that use the schema. Those that come after it under the old name find
    no schema.

    Args:
        tenant: the tenant.
        schema_name: the new name.
        using: the alias of its row.
        progress: takes warnings about texts that name the old schema; without it, the log does.

    Raises:
        WrongStatus: it has no schema yet, or is being deleted.
        InvalidSchemaName, SchemaExists: the new name may not be, or is taken.
        TenantInUse: the tenant is active here.
        ObjectDoesNotExist: the row is gone.
    """
    home = using or tenant._state.db or router.db_for_write(type(tenant), instance=tenant)
    known = tenant.schema_name
    new = run.validate_tenant_schema(schema_name)
    with no_schema():
        module = run.module_of(run.rows_of(tenant, home).get())
    here = current_schema()
    try:
        with run.work(home, module):
            old = run.lock_row(tenant, home).schema_name
            if old == new:
                return False
            run.refuse_status(tenant, "be renamed", (run.ACTIVE, run.SUSPENDED))
            if here == old:
                raise TenantInUse(f"The tenant {old!r} is active here, so it cannot be renamed. Leave its context.")
            run.send(pre_tenant_rename, tenant, home, schema_name=new)
            tenant.schema_name = new
            _move(tenant, old, module, home)
            connection = schemas.tenant_connection(module.database)
            new_name, old_name = connection.physical_schema(new), connection.physical_schema(old)
            follow(new_name, old_name, using=module.database, progress=progress)
            run.send(post_tenant_rename, tenant, home, schema_name=old)
    except BaseException:
        tenant.schema_name = known
        raise
    return True


def _move(tenant: Any, old: str, module: Module, home: str) -> None:
    new = tenant.schema_name
    taken = f"There is a tenant or a schema {new!r} already. Choose another schema_name."
    if type(tenant)._base_manager.using(home).filter(schema_name=new).exists():
        raise SchemaExists(taken)
    connection = schemas.tenant_connection(module.database)
    with connection.without_prefix() as execute:
        if execute("SELECT current_user").fetchone()[0] == connection.physical_schema(new):
            raise InvalidSchemaName(
                f"{new!r} is the database role that the project connects as, whose schema is on every connection's "
                "path. Choose another name."
            )
    try:
        schemas.rename(old, new, using=module.database)
        # Django's own save, so that who listens to it learns of the change as well.
        models.Model.save(tenant, using=home, update_fields=["schema_name"])
    except IntegrityError as exc:
        # Another session was faster by a moment.
        raise exc if isinstance(exc, SchemaExists) else SchemaExists(taken) from exc
