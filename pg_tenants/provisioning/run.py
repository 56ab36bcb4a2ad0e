"""A tenant's row and schema, together or not at all."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from django.db import DatabaseError, IntegrityError, models, router, transaction

from pg_tenants import schemas
from pg_tenants.context import no_schema
from pg_tenants.exceptions import InvalidSchemaName, SchemaExists, UnsafeStatement, WrongStatus
from pg_tenants.migrations import Target, required_registry
from pg_tenants.modules import Module
from pg_tenants.names import validate_schema_name
from pg_tenants.provisioning import template
from pg_tenants.provisioning.adopt import take_over
from pg_tenants.signals import (
    post_tenant_activate,
    post_tenant_create,
    post_tenant_delete,
    post_tenant_suspend,
    pre_tenant_activate,
    pre_tenant_create,
    pre_tenant_delete,
    pre_tenant_suspend,
)

__all__ = [
    "ACTIVE",
    "FAILED",
    "PROVISIONING",
    "SUSPENDED",
    "after_delete",
    "before_delete",
    "before_raw_save",
    "complete",
    "complete_raw",
    "create",
    "owns_row",
    "refuse_changes",
    "resume",
    "suspend",
    "validate_tenant_schema",
]

PROVISIONING, ACTIVE, SUSPENDED, FAILED = "provisioning", "active", "suspended", "failed"
_KEPT = ("schema_name", "module", "status")


def owns_row(model: type[models.Model]) -> bool:
    """Return whether the tenants' rows are in the table of ``model`` or its proxy, not in that of a parent."""
    return _owner(model) is model._meta.concrete_model


def _owner(model: type[models.Model]) -> Any:
    return model._meta.get_field("schema_name").model


def validate_tenant_schema(name: object) -> str:
    """Return ``name`` if a tenant's schema may be called so.

    Raises:
        InvalidSchemaName: it may not; the message says why.
    """
    modules = required_registry()
    return validate_schema_name(name, taken={*modules.fixed_schemas, modules.extensions_schema})


# -- create -----------------------------------------------------------------------------------------------------------


def create(
    tenant: Any,
    save: Callable[[], None],
    *,
    using: str | None = None,
    provision: bool = True,
    adopt: bool = False,
) -> None:
    """Save a new tenant's row, make its schema, migrate it, and mark the tenant active; or none of it.

    A tenant that is made with the status ``suspended`` stays so.

    Args:
        tenant: an instance that is not saved yet.
        save: saves the row.
        using: the alias of the tenant's row; None for the router's choice.
        provision: make the schema; if not, only the row is made, with the status ``provisioning``.
        adopt: take over a schema that is there, instead of making one.

    Raises:
        InvalidSchemaName: the schema may not be called so.
        SchemaExists: there is a tenant or a schema of this name.
        SchemaDoesNotExist: there is no schema to adopt.
        SchemaDiffers: the schema to adopt is not what the migrations say.
        ConfigurationError: the tenant's module is unknown.
    """
    home = using or router.db_for_write(type(tenant), instance=tenant)
    module = _module(tenant)
    before = tenant.pk, tenant.module, tenant.status
    tenant.module = module.name
    goal = SUSPENDED if tenant.status == SUSPENDED and provision else ACTIVE
    tenant.status = PROVISIONING
    try:
        with _work(home, module):
            if provision:
                _send(pre_tenant_create, tenant, home)
            _save_row(tenant, save, home)
            if provision:
                _make_schema(tenant, module, home, goal, adopt=adopt)
    except BaseException:
        tenant.pk, tenant.module, tenant.status = before
        tenant._state.adding = True
        raise


def complete(tenant: Any, *, using: str | None = None, adopt: bool = False) -> bool:
    """Make the schema of a tenant that was saved without it, and return whether that was still to do.

    The row is locked meanwhile, so of two that do it at once the second finds it done. Where it fails, the tenant's
    status is ``failed``, and it can be tried again.

    Raises:
        WrongStatus: the tenant is being deleted.
        ObjectDoesNotExist: the row is gone.
        SchemaExists, SchemaDoesNotExist, SchemaDiffers: as of ``create``.
    """
    home = using or tenant._state.db or router.db_for_write(type(tenant), instance=tenant)
    known = tenant.status
    try:
        with no_schema(), transaction.atomic(using=home):
            if _lock(tenant, home).status in (ACTIVE, SUSPENDED):
                return False
            _refuse_status(tenant, "be given its schema", (PROVISIONING, FAILED))
            module = _module(tenant)
            with transaction.atomic(using=module.database):
                _send(pre_tenant_create, tenant, home)
                _make_schema(tenant, module, home, ACTIVE, adopt=adopt)
    except BaseException as exc:
        tenant.status = known
        # What has failed is worth more than a second error from here. An interrupt leaves the tenant as it was.
        with no_schema(), suppress(DatabaseError):
            if isinstance(exc, Exception) and _rows(tenant, home).filter(status=PROVISIONING).update(status=FAILED):
                tenant.status = FAILED
        raise
    return True


def _make_schema(tenant: Any, module: Module, home: str, goal: str, *, adopt: bool) -> None:
    name, using = tenant.schema_name, module.database
    if adopt:
        take_over(name, module)
    else:
        schemas.create(name, using=using)
        template.fill(Target(name, (module,), tenant), using=using)
    _send(post_tenant_create, tenant, home)
    if goal == ACTIVE:
        _send(pre_tenant_activate, tenant, home)
    tenant.status = goal
    _rows(tenant, home).update(status=goal)
    if goal == ACTIVE:
        _send(post_tenant_activate, tenant, home)


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


# -- rows that come past save() ---------------------------------------------------------------------------------------


def before_raw_save(tenant: Any, using: str) -> None:
    """Check a row that is saved as it is, as ``loaddata`` does.

    Raises:
        InvalidSchemaName: the schema may not be called so.
        UnsafeStatement: it would part a tenant from its schema, or is saved outside a transaction.
    """
    module = _module(tenant)
    tenant.module = module.name
    if not transaction.get_connection(using).in_atomic_block:
        raise UnsafeStatement(
            f"The tenant {tenant.schema_name!r} is saved raw and outside a transaction, so row and schema could be "
            "parted. Do it in transaction.atomic()."
        )
    refuse_changes(tenant, using, _KEPT)


def complete_raw(tenant: Any, using: str) -> None:
    """Make the schema of a tenant whose row was just saved as it is; one of status ``provisioning`` has none yet."""
    goal = tenant.status
    if goal not in (ACTIVE, SUSPENDED):
        return
    module = _module(tenant)
    with _work(using, module):
        _send(pre_tenant_create, tenant, using)
        _make_schema(tenant, module, using, goal, adopt=False)


def refuse_changes(tenant: Any, using: str | None, fields: Collection[str]) -> None:
    """Refuse to save over what ties a tenant to its schema, or over its status; in a transaction the row is locked.

    Raises:
        UnsafeStatement: the row has another value.
    """
    rows = _rows(tenant, using).values_list(*_KEPT)
    if transaction.get_connection(using).in_atomic_block:
        rows = rows.select_for_update()
    for field, stored in zip(_KEPT, rows.first() or (), strict=False):
        value = getattr(tenant, field) if field in fields else stored
        if value == stored:
            continue
        if field == "status":
            raise UnsafeStatement(
                f"The status of the tenant {tenant.schema_name!r} is {stored!r}; saving {value!r} would change it "
                "unnoticed. Call suspend(), resume() or provision(), or refresh_from_db() before saving."
            )
        raise UnsafeStatement(
            f"The tenant's {field} is {stored!r}; saving {value!r} would part the tenant from its schema. It cannot be "
            "changed by saving."
        )


# -- suspend, resume --------------------------------------------------------------------------------------------------


def suspend(tenant: Any, *, using: str | None = None) -> bool:
    """Take an active tenant out of service, and return whether it was in service.

    Raises:
        WrongStatus: it has no schema, or is being deleted.
        ObjectDoesNotExist: the row is gone.
    """
    return _move(tenant, using, "be suspended", (ACTIVE, SUSPENDED), pre_tenant_suspend, post_tenant_suspend)


def resume(tenant: Any, *, using: str | None = None) -> bool:
    """Take a suspended tenant back into service, and return whether it was suspended.

    Raises:
        WrongStatus: it has no schema, or is being deleted.
        ObjectDoesNotExist: the row is gone.
    """
    return _move(tenant, using, "be resumed", (SUSPENDED, ACTIVE), pre_tenant_activate, post_tenant_activate)


def _move(tenant: Any, using: str | None, what: str, way: tuple[str, str], before: Any, after: Any) -> bool:
    home = using or tenant._state.db or router.db_for_write(type(tenant), instance=tenant)
    known = tenant.status
    try:
        with no_schema(), transaction.atomic(using=home):
            status = _lock(tenant, home).status
            _refuse_status(tenant, what, way)
            if status == way[1]:
                return False
            _send(before, tenant, home)
            tenant.status = way[1]
            # Django's own save, so that who listens to it learns of the change as well.
            models.Model.save(tenant, using=home, update_fields=["status"])
            _send(after, tenant, home)
    except BaseException:
        tenant.status = known
        raise
    return True


# -- delete -----------------------------------------------------------------------------------------------------------


def before_delete(tenant: Any, using: str) -> None:
    """Lock the row of a tenant that is about to be deleted, and remember which schema it has."""
    with no_schema():
        # What is stored counts: the instance may have been changed, or be of a tenant that is gone, whose name another
        # one has by now.
        stored = _rows(tenant, using).select_for_update().first()
    tenant._schema_to_drop = stored and (stored.schema_name, stored.module)
    if stored is None:
        return
    modules = required_registry()
    if stored.schema_name in {*modules.fixed_schemas, modules.extensions_schema, "public"}:
        raise InvalidSchemaName(
            f"The tenant {tenant!r} has the schema {stored.schema_name!r}, which is not a tenant's. It is not dropped."
        )
    with no_schema():
        _send(pre_tenant_delete, tenant, using)


def after_delete(tenant: Any, using: str) -> None:
    """Drop a tenant's schema; the transaction of the caller decides whether it is gone."""
    remembered = tenant.__dict__.pop("_schema_to_drop", None)
    if remembered is None:
        return
    name, module = remembered
    schemas.drop(name, using=required_registry().tenant_module(module or None, name).database, if_exists=True)
    with no_schema():
        _send(post_tenant_delete, tenant, using)


# -- what they share --------------------------------------------------------------------------------------------------


@contextmanager
def _work(home: str, module: Module) -> Iterator[None]:
    with no_schema(), transaction.atomic(using=home), transaction.atomic(using=module.database):
        yield


def _module(tenant: Any) -> Module:
    name = validate_tenant_schema(tenant.schema_name)
    return required_registry().tenant_module(tenant.module or None, name)


def _rows(tenant: Any, using: str | None) -> Any:
    return _owner(type(tenant))._base_manager.using(using).filter(pk=tenant.pk)


def _lock(tenant: Any, home: str) -> Any:
    """Lock the tenant's row, and bring what ties it to its schema up to date in the instance."""
    stored = _rows(tenant, home).select_for_update().get()
    for field in _KEPT:
        setattr(tenant, field, getattr(stored, field))
    return stored


def _refuse_status(tenant: Any, what: str, allowed: tuple[str, ...]) -> None:
    if tenant.status in allowed:
        return
    remedy = (
        "Call its provision(), or delete it." if tenant.status in (PROVISIONING, FAILED) else "Let its deletion end."
    )
    raise WrongStatus(
        f"The tenant {tenant.schema_name!r} has the status {tenant.status!r}, so it cannot {what}. {remedy}"
    )


def _send(signal: Any, tenant: Any, using: str) -> None:
    signal.send(sender=_owner(type(tenant)), tenant=tenant, using=using)
