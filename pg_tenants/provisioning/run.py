"""A tenant's row and schema, together or not at all."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from typing import Any

from django.db import DatabaseError, IntegrityError, models, router, transaction

from pg_tenants import roles, schemas
from pg_tenants.context import current_schema, no_schema
from pg_tenants.exceptions import InvalidSchemaName, SchemaExists, UnsafeStatement, WrongStatus
from pg_tenants.migrations import Options, Target, migrate_target, required_registry
from pg_tenants.modules import Module
from pg_tenants.names import validate_schema_name
from pg_tenants.provisioning import locks, ready
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
    "DELETING",
    "FAILED",
    "PROVISIONING",
    "SUSPENDED",
    "Fill",
    "after_delete",
    "before_delete",
    "before_raw_save",
    "bring_up_to_date",
    "complete",
    "complete_raw",
    "create",
    "lock_row",
    "make_and_migrate",
    "module_of",
    "owns_row",
    "refuse_changes",
    "refuse_status",
    "resume",
    "rows_of",
    "send",
    "suspend",
    "validate_tenant_schema",
    "work",
]

PROVISIONING, ACTIVE, SUSPENDED, FAILED = "provisioning", "active", "suspended", "failed"
DELETING = "deleting"
_KEPT = ("schema_name", "module", "status")

Fill = Callable[[Any, Module], object]
"""Makes the schema of a tenant, with all that is in it, in the transaction of the caller."""


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
        adopt: take over a schema that is there, instead of making one. Otherwise ``tenant._fill`` makes it, where that
            is set, as cloning does.

    Raises:
        InvalidSchemaName: the schema may not be called so.
        SchemaExists: there is a tenant or a schema of this name.
        SchemaDoesNotExist: there is no schema to adopt.
        SchemaDiffers: the schema to adopt is not what the migrations say.
        ConfigurationError: the tenant's module is unknown.
    """
    home = using or router.db_for_write(type(tenant), instance=tenant)
    fill = tenant.__dict__.pop("_fill", None)
    module = module_of(tenant)
    before = tenant.pk, tenant.module, tenant.status
    tenant.module = module.name
    goal = SUSPENDED if tenant.status == SUSPENDED and provision else ACTIVE
    tenant.status = PROVISIONING
    try:
        with _making(tenant, module), work(home, module):
            if provision:
                send(pre_tenant_create, tenant, home)
            _save_row(tenant, save, home)
            if provision:
                _make_schema(tenant, module, home, goal, adopt=adopt, fill=fill)
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
        with _making(tenant, module_of(tenant)), no_schema(), transaction.atomic(using=home):
            if lock_row(tenant, home).status in (ACTIVE, SUSPENDED):
                return False
            refuse_status(tenant, "be given its schema", (PROVISIONING, FAILED))
            module = module_of(tenant)
            with transaction.atomic(using=module.database):
                send(pre_tenant_create, tenant, home)
                _make_schema(tenant, module, home, ACTIVE, adopt=adopt)
    except BaseException as exc:
        tenant.status = known
        # What has failed is worth more than a second error from here. An interrupt leaves the tenant as it was.
        with no_schema(), suppress(DatabaseError):
            if isinstance(exc, Exception) and rows_of(tenant, home).filter(status=PROVISIONING).update(status=FAILED):
                tenant.status = FAILED
        raise
    return True


def _make_schema(tenant: Any, module: Module, home: str, goal: str, *, adopt: bool, fill: Fill | None = None) -> None:
    if adopt:
        take_over(tenant.schema_name, module, tenant.schema_identity)
    else:
        (fill or make_and_migrate)(tenant, module)
    roles.ensure(tenant.schema_name, using=module.database)
    send(post_tenant_create, tenant, home)
    if goal == ACTIVE:
        send(pre_tenant_activate, tenant, home)
    tenant.status = goal
    rows_of(tenant, home).update(status=goal)
    if goal == ACTIVE:
        send(post_tenant_activate, tenant, home)


def make_and_migrate(tenant: Any, module: Module) -> None:
    """Make a tenant's schema, and what the migrations make in it."""
    ready.make(Target(tenant.schema_name, (module,), tenant), using=module.database)


def bring_up_to_date(tenant: Any, module: Module) -> list[str]:
    """Run the migrations that a tenant's schema lacks, and return their names."""
    target = Target(tenant.schema_name, (module,), tenant)
    return migrate_target(target, Options(verbosity=0, run_syncdb=True), using=module.database)


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
    module = module_of(tenant)
    tenant.module = module.name
    if not transaction.get_connection(using).in_atomic_block:
        raise UnsafeStatement(
            f"The tenant {tenant.schema_name!r} is saved raw and outside a transaction, so row and schema could be "
            "parted. Save it inside transaction.atomic()."
        )
    refuse_changes(tenant, using, _KEPT)


def complete_raw(tenant: Any, using: str) -> None:
    """Make the schema of a tenant whose row was just saved as it is; one of status ``provisioning`` has none yet."""
    goal = tenant.status
    if goal not in (ACTIVE, SUSPENDED):
        return
    module = module_of(tenant)
    with _making(tenant, module), work(using, module):
        send(pre_tenant_create, tenant, using)
        _make_schema(tenant, module, using, goal, adopt=False)


def refuse_changes(tenant: Any, using: str | None, fields: Collection[str]) -> None:
    """Refuse to save over what ties a tenant to its schema, or over its status; in a transaction the row is locked.

    Raises:
        UnsafeStatement: the row has another value.
    """
    rows = rows_of(tenant, using).values_list(*_KEPT)
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
            f"The tenant's {field} is {stored!r}; saving {value!r} would part the tenant from its schema. Use rename() "
            "for a name; a tenant of another module is made anew, by create()."
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
            status = lock_row(tenant, home).status
            refuse_status(tenant, what, way)
            if status == way[1]:
                return False
            send(before, tenant, home)
            tenant.status = way[1]
            # Django's own save, so that who listens to it learns of the change as well.
            models.Model.save(tenant, using=home, update_fields=["status"])
            send(after, tenant, home)
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
        stored = rows_of(tenant, using).select_for_update().first()
    tenant._schema_to_drop = stored and (stored.schema_name, stored.module)
    # Django takes the key from an instance that it has deleted, which is no reason to take another tenant for it.
    tenant._identity_before = tenant.schema_identity
    if stored is None:
        return
    modules = required_registry()
    if stored.schema_name in {*modules.fixed_schemas, modules.extensions_schema, "public"}:
        raise InvalidSchemaName(
            f"The tenant {tenant!r} has the schema {stored.schema_name!r}, which is not a tenant's, so it is not "
            "dropped. Correct schema_name in the row by SQL, then delete it."
        )
    with no_schema():
        # What the transaction has written to the schema before: its tables are not emptied or dropped while a check of
        # them waits.
        transaction.get_connection(using).check_constraints()
        send(pre_tenant_delete, tenant, using)


def after_delete(tenant: Any, using: str) -> None:
    """Drop a tenant's schema; the transaction of the caller decides whether it is gone.

    Where that is open on another database than the schema's, the schema is dropped after its commit: a rollback must
    not leave a row without its schema.
    """
    remembered = tenant.__dict__.pop("_schema_to_drop", None)
    if remembered is None:
        return
    name, module = remembered
    alias = required_registry().tenant_module(module or None, name).database
    is_apart = alias != using and not transaction.get_connection(alias).in_atomic_block
    # One that is active is refused at once.
    if is_apart and current_schema() != name:
        transaction.on_commit(partial(_drop, name, alias), using=using)
    else:
        _drop(name, alias)
    with no_schema():
        send(post_tenant_delete, tenant, using)


def _drop(name: str, alias: str) -> None:
    with locks.explained(f"The tenant {name!r} cannot be deleted", using=alias):
        schemas.drop(name, using=alias, if_exists=True)


# -- what they share --------------------------------------------------------------------------------------------------


def _making(tenant: Any, module: Module) -> AbstractContextManager[None]:
    return locks.explained(f"The schema {tenant.schema_name!r} cannot be made", using=module.database)


@contextmanager
def work(home: str, module: Module) -> Iterator[None]:
    """Open a transaction where the row is, and one where the schema is."""
    with no_schema(), transaction.atomic(using=home), transaction.atomic(using=module.database):
        yield


def module_of(tenant: Any) -> Module:
    """Return a tenant's module; a name that no schema may have is an error."""
    name = validate_tenant_schema(tenant.schema_name)
    return required_registry().tenant_module(tenant.module or None, name)


def rows_of(tenant: Any, using: str | None) -> Any:
    """Return a queryset of the tenant's row, in the table that owns the schemas' names."""
    return _owner(type(tenant))._base_manager.using(using).filter(pk=tenant.pk)


def lock_row(tenant: Any, home: str) -> Any:
    """Lock the tenant's row, and bring what ties it to its schema up to date in the instance."""
    stored = rows_of(tenant, home).select_for_update().get()
    for field in _KEPT:
        setattr(tenant, field, getattr(stored, field))
    return stored


def refuse_status(tenant: Any, what: str, allowed: tuple[str, ...]) -> None:
    """Raise WrongStatus where the status is none of these."""
    if tenant.status in allowed:
        return
    remedy = (
        "Call its provision(), or delete it." if tenant.status in (PROVISIONING, FAILED) else "Let its deletion end."
    )
    raise WrongStatus(
        f"The tenant {tenant.schema_name!r} has the status {tenant.status!r}, so it cannot {what}. {remedy}"
    )


def send(signal: Any, tenant: Any, using: str, **more: Any) -> None:
    """Send a signal of a tenant's life."""
    signal.send(sender=_owner(type(tenant)), tenant=tenant, using=using, **more)
