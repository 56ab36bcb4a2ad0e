"""What a project's tenant and domain models inherit from."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, ClassVar

from asgiref.sync import sync_to_async
from django.apps import apps
from django.core.exceptions import ValidationError
from django.db import models, router, transaction
from django.db.models.signals import class_prepared, post_delete, post_migrate, post_save, pre_delete, pre_save
from django.dispatch import receiver

from pg_tenants import conf, lookups
from pg_tenants.exceptions import InvalidSchemaName, UnsafeStatement
from pg_tenants.names import normalize_host
from pg_tenants.provisioning import archive as archiving
from pg_tenants.provisioning import clone as cloning
from pg_tenants.provisioning import removal
from pg_tenants.provisioning import rename as renaming
from pg_tenants.provisioning import run as provisioning
from pg_tenants.provisioning.archive import Manifest, Progress
from pg_tenants.provisioning.restore import restore
from pg_tenants.signals import post_tenant_activate

__all__ = [
    "DomainManager",
    "DomainMixin",
    "DomainQuerySet",
    "TenantManager",
    "TenantMixin",
    "TenantQuerySet",
    "TenantStatus",
    "domain_model",
    "normalize_domain",
    "tenant_model",
]


class TenantStatus(models.TextChoices):
    """Where a tenant is in its life; only active ones are served."""

    PROVISIONING = "provisioning"
    ACTIVE = "active"
    SUSPENDED = "suspended"
    DELETING = "deleting"
    FAILED = "failed"


class _NoticedQuerySet(models.QuerySet[Any]):
    def update(self, **kwargs: Any) -> int:
        """Update rows."""
        count = super().update(**kwargs)
        lookups.changed(self.db)
        return count


class TenantQuerySet(_NoticedQuerySet):
    """Refuses what would make rows without schemas, part them, or change a status unnoticed."""

    def active(self) -> TenantQuerySet:
        """Return the tenants that are served."""
        return self.filter(status=TenantStatus.ACTIVE)

    def create_tenant(
        self,
        schema_name: str,
        domain: str | None = None,
        *,
        provision: bool = True,
        adopt: bool = False,
        **fields: Any,
    ) -> Any:
        """Create a tenant and a primary domain that leads to it: both with the schema, or nothing.

        Args:
            schema_name: the schema, which is also the tenant's name in commands.
            domain: a host, such as ``acme.example.com``; None for no domain.
            provision, adopt: as of ``TenantMixin.save``.
            fields: the tenant model's other fields.

        Raises:
            ValidationError: the domain is no host's name.
            IntegrityError: the domain is another tenant's.
            PgTenantsError: as of ``TenantMixin.save``.
        """
        host = None if domain is None else normalize_domain(domain)
        tenant = self.model(schema_name=schema_name, **fields)
        self._for_write = True
        with transaction.atomic(using=self.db):
            tenant.save(using=self.db, provision=provision, adopt=adopt)
            if host is not None:
                domain_model()._default_manager.using(self.db).create(domain=host, tenant=tenant, is_primary=True)
        return tenant

    create_tenant.alters_data = True  # type: ignore[attr-defined]

    async def acreate_tenant(self, *args: Any, **kwargs: Any) -> Any:
        """As ``create_tenant``."""
        return await sync_to_async(self.create_tenant)(*args, **kwargs)

    acreate_tenant.alters_data = True  # type: ignore[attr-defined]

    def restore_tenant(
        self,
        path: str | os.PathLike[str],
        *,
        schema_name: str | None = None,
        domain: str | None = None,
        privileges: bool = True,
        progress: Progress | None = None,
    ) -> Any:
        """Make a tenant from a file of ``archive()``, row, schema, domains and all, or nothing; and return it.

        Migrations that the code has and the file has not are run. Restore no file that strangers can write: it holds
        SQL that is run.

        Args:
            path: the file.
            schema_name: another name than it had; then the file's domains are left out.
            domain: the primary domain, instead of those in the file.
            privileges: grant what was granted to other roles.
            progress: is called with lines that say what is done.

        Raises:
            ArchiveInvalid: the file is damaged, or ahead of the code, or names roles that are not there.
            SchemaExists: there is a tenant or a schema of this name.
            CopyFailed: the database refuses something, such as rows that refer to shared rows that it does not have.
            ProgramUnavailable: there is no pg_restore that reads it.
        """
        self._for_write = True
        return restore(
            self.model,
            Path(path),
            schema_name=schema_name,
            domain=None if domain is None else normalize_domain(domain),
            privileges=privileges,
            using=self.db,
            progress=progress,
        )

    restore_tenant.alters_data = True  # type: ignore[attr-defined]

    async def arestore_tenant(self, *args: Any, **kwargs: Any) -> Any:
        """As ``restore_tenant``."""
        return await sync_to_async(self.restore_tenant)(*args, **kwargs)

    arestore_tenant.alters_data = True  # type: ignore[attr-defined]

    def bulk_create(self, *args: Any, **kwargs: Any) -> list[Any]:
        """Refuse.

        Raises:
            UnsafeStatement: always.
        """
        raise UnsafeStatement(
            "bulk_create() would make tenants without schemas. Use create() or save() for each of them."
        )

    def update(self, **kwargs: Any) -> int:
        """Update rows, but no schema's name, module or status.

        Raises:
            UnsafeStatement: one of these is to be changed.
        """
        for field in ("schema_name", "module"):
            if field in kwargs:
                raise UnsafeStatement(
                    f"update({field}=…) would part tenants from their schemas. Use rename() for a name; a tenant of "
                    "another module is made anew, by create()."
                )
        if "status" in kwargs:
            raise UnsafeStatement(
                "update(status=…) would change tenants unnoticed. Call suspend(), resume() or provision() for each of "
                "them."
            )
        return super().update(**kwargs)

    def _raw_delete(self, using: str | None) -> int:
        raise UnsafeStatement(
            "_raw_delete() would leave the tenants' schemas without rows. Use delete(), which drops them."
        )


class DomainQuerySet(_NoticedQuerySet):
    """Makes changes of many rows known to the middleware."""

    def bulk_create(self, *args: Any, **kwargs: Any) -> list[Any]:
        """Insert rows; domains are written as they are given."""
        made = super().bulk_create(*args, **kwargs)
        lookups.changed(self.db)
        return made


TenantManager = models.Manager.from_queryset(TenantQuerySet)
DomainManager = models.Manager.from_queryset(DomainQuerySet)


class TenantMixin(models.Model):
    """A tenant: a row that has a PostgreSQL schema of its own.

    Saving a new one makes its schema and migrates it; deleting it drops the schema. Row and schema are made and removed
    in one transaction.
    """

    # No help texts and validators on these fields: they would be written into the migrations of every project.
    schema_name = models.CharField(max_length=63, unique=True)
    module = models.CharField(max_length=63, blank=True, default="")
    status = models.CharField(max_length=16, choices=TenantStatus.choices, default=TenantStatus.PROVISIONING)
    created_at = models.DateTimeField(auto_now_add=True)

    objects: ClassVar[models.Manager[Any]] = TenantManager()

    class Meta:
        abstract = True

    def __str__(self) -> str:
        return self.schema_name

    def clean(self) -> None:
        """Refuse a name that a schema may not have, and changes that save() refuses, as forms and full_clean() do.

        Raises:
            ValidationError: the message says why.
        """
        super().clean()
        try:
            provisioning.validate_tenant_schema(self.schema_name)
        except InvalidSchemaName as exc:
            raise ValidationError({"schema_name": str(exc)}, code="invalid") from exc
        if not self._state.adding:
            try:
                self._refuse_changes(self._state.db, None)
            except UnsafeStatement as exc:
                raise ValidationError(str(exc), code="invalid") from exc

    def save(self, *args: Any, provision: bool = True, adopt: bool = False, **kwargs: Any) -> None:
        """Save the row; for a new tenant, make its schema too.

        Args:
            args, kwargs: those of Django's ``save``.
            provision: if not, a new tenant gets its row alone, with the status ``provisioning``; it is not served
                before ``provision()`` has made its schema.
            adopt: a new tenant takes over the schema of its name that is there, if that is what the migrations say.

        Raises:
            InvalidSchemaName: the schema may not be called so.
            SchemaExists: there is a tenant or, without ``adopt``, a schema of this name.
            SchemaDoesNotExist: there is no schema to take over.
            SchemaDiffers: the schema to take over is not what the migrations say; the message lists what differs.
            UnsafeStatement: the schema's name, the module or the status of an existing tenant was changed.
        """
        using = kwargs.get("using")
        # Django does not mark an instance that it has deleted as new, but takes its key.
        if self._state.adding or self.pk is None:
            save_row = functools.partial(super().save, *args, **kwargs)
            provisioning.create(self, save_row, using=using, provision=provision, adopt=adopt)
            return
        home = using or router.db_for_write(type(self), instance=self)
        with transaction.atomic(using=home):
            self._refuse_changes(home, kwargs.get("update_fields"))
            super().save(*args, **kwargs)

    def _refuse_changes(self, using: str | None, update_fields: Iterable[str] | None) -> None:
        written = {"schema_name", "module", "status"} - self.get_deferred_fields()
        if update_fields is not None:
            written &= set(update_fields)
        if written:
            provisioning.refuse_changes(self, using, written)

    def provision(self, *, adopt: bool = False) -> bool:
        """Make the schema of a tenant that was saved without it, and return whether that was still to do.

        It may be called twice at once: the second call waits, and finds it done. Where it fails, the status is
        ``failed``, and it may be called again.

        Args:
            adopt: as of ``save``.

        Raises:
            WrongStatus: the tenant is being deleted.
            DoesNotExist: the tenant was deleted.
            SchemaExists, SchemaDoesNotExist, SchemaDiffers: as of ``save``.
        """
        return provisioning.complete(self, adopt=adopt)

    def suspend(self) -> bool:
        """Take the tenant out of service, and return whether it was in service.

        Raises:
            WrongStatus: it has no schema yet, or is being deleted.
            DoesNotExist: the tenant was deleted.
        """
        return provisioning.suspend(self)

    def resume(self) -> bool:
        """Take the tenant back into service, and return whether it was suspended.

        Raises:
            WrongStatus: it has no schema yet, or is being deleted.
            DoesNotExist: the tenant was deleted.
        """
        return provisioning.resume(self)

    def clone(
        self,
        schema_name: str,
        *,
        data: bool = False,
        domain: str | None = None,
        progress: Progress | None = None,
        **fields: Any,
    ) -> Any:
        """Make a tenant after this one, row, schema and all, or nothing; and return it.

        Args:
            schema_name: the new tenant's schema.
            data: copy the rows as they are at one moment; without it, the tables have what migrations write.
            domain: a host that leads to it; None for no domain.
            progress: is called with lines that say what is done.
            fields: values of the new row; the others are this row's, but for those of unique fields.

        Raises:
            WrongStatus: this tenant has no schema yet, or is being deleted.
            SchemaExists, InvalidSchemaName: the new name is taken, or may not be.
            SchemaDiffers: this tenant lacks migrations, or was changed while it was cloned.
            CopyFailed, ProgramUnavailable: pg_dump is needed, and failed or is missing.
            UnsafeStatement: rows are to be copied inside a transaction, or through a pooler.
        """
        host = None if domain is None else normalize_domain(domain)
        using = self._state.db
        tenant = type(self)(schema_name=schema_name, **cloning.fields_of(self, fields), **fields)
        # Not a transaction around all: for rows, a dump comes first, which sees what is committed.
        cloning.clone(self, tenant, data=data, using=using, progress=progress, after=_adding_domain(host, using))
        return tenant

    async def aclone(self, schema_name: str, **kwargs: Any) -> Any:
        """As ``clone``."""
        return await sync_to_async(self.clone)(schema_name, **kwargs)

    def rename(self, schema_name: str, *, progress: Progress | None = None) -> bool:
        """Give the tenant's row and schema another name, and return whether it had another one.

        It waits for statements and transactions that use the schema. Those that come after it under the old name find
        no schema.

        Args:
            schema_name: the new name.
            progress: is called with warnings about functions whose text names the old schema; without it, the log is.

        Raises:
            WrongStatus: it has no schema yet, or is being deleted.
            SchemaExists, InvalidSchemaName: the new name is taken, or may not be.
            TenantInUse: it is active here.
            DoesNotExist: the tenant was deleted.
        """
        return renaming.rename(self, schema_name, using=self._state.db, progress=progress)

    async def arename(self, schema_name: str, **kwargs: Any) -> bool:
        """As ``rename``."""
        return await sync_to_async(self.rename)(schema_name, **kwargs)

    def archive(
        self,
        path: str | os.PathLike[str],
        *,
        delete: bool = False,
        grace: float = 0,
        terminate: bool = False,
        progress: Progress | None = None,
    ) -> Manifest:
        """Write row, domains and schema into a new file, as they are at one moment, and return what the file says.

        ``restore_tenant()`` of a manager makes the tenant again, in this database or another one.

        Args:
            path: the file. It has this name only when it is complete.
            delete: delete the tenant, after which nothing more can be written to it than is in the file.
            grace, terminate: as of ``delete()``.
            progress: is called with lines that say what is done.

        Raises:
            WrongStatus: it has no schema yet, or is being deleted.
            CopyFailed: the file is there already or cannot be written, or pg_dump failed.
            ProgramUnavailable: there is no pg_dump for this server.
            UnsafeStatement: a transaction is open, or the alias leads through a pooler.
            TenantInUse: it is to be deleted, and is still used.
        """
        using, file = self._state.db, Path(path)
        if not delete:
            return archiving.archive(self, file, using=using, progress=progress)
        return archiving.archive_and_delete(
            self, file, super().delete, grace=grace, terminate=terminate, using=using, progress=progress
        )

    async def aarchive(self, path: str | os.PathLike[str], **kwargs: Any) -> Manifest:
        """As ``archive``."""
        return await sync_to_async(self.archive)(path, **kwargs)

    def delete(
        self,
        using: str | None = None,
        keep_parents: bool = False,
        *,
        grace: float | None = None,
        terminate: bool = False,
        progress: Progress | None = None,
    ) -> tuple[int, dict[str, int]]:
        """Delete the row and drop the schema with all data, in one transaction.

        Without ``grace`` it waits as long as statements and transactions use the schema. With it, the status
        ``deleting`` is committed first, so that no request and no job begins in the tenant any more; if the rest fails
        or is interrupted, the status stays, and it may be called again.

        Args:
            using, keep_parents: those of Django's ``delete``.
            grace: seconds to wait for what runs.
            terminate: end the sessions that use the tenant after that; otherwise they are an error.
            progress: is called with lines that say what is done.

        Raises:
            TenantInUse: it is active here, or is still used when the grace is over; the message says by whom.
            UnsafeStatement: there is a grace, and a transaction is open.
        """
        remove = functools.partial(super().delete, using, keep_parents)
        if grace is None:
            return remove()
        return removal.delete(  # type: ignore[no-any-return]
            self, remove, grace=grace, terminate=terminate, using=using, progress=progress
        )

    async def adelete(self, using: str | None = None, keep_parents: bool = False, **kwargs: Any) -> Any:
        """As ``delete``."""
        return await sync_to_async(self.delete)(using, keep_parents, **kwargs)

    async def aprovision(self, **kwargs: Any) -> bool:
        """As ``provision``."""
        return await sync_to_async(self.provision)(**kwargs)

    async def asuspend(self) -> bool:
        """As ``suspend``."""
        return await sync_to_async(self.suspend)()

    async def aresume(self) -> bool:
        """As ``resume``."""
        return await sync_to_async(self.resume)()

    _changing: tuple[Any, ...] = (
        *(provision, suspend, resume, clone, rename, archive, delete),
        *(aprovision, asuspend, aresume, aclone, arename, aarchive, adelete),
    )
    for _changes in _changing:
        _changes.alters_data = True
    del _changing, _changes

    @property
    def schema_identity(self) -> str | None:
        """What tells the tenant from others that had or will have a schema of the same name: its primary key, as text.

        Each statement in ``tenant_context(tenant)`` proves it. It is None for an instance that was never saved, which
        stands for whichever tenant has the name; one that was deleted keeps what it was.
        """
        field = self._meta.get_field("schema_name").model._meta.pk
        key = getattr(self, field.attname)
        return self.__dict__.get("_identity_before") if key is None else str(field.to_python(key))

    @property
    def is_active(self) -> bool:
        """Whether requests are served for the tenant."""
        return self.status == TenantStatus.ACTIVE


def _adding_domain(host: str | None, using: str | None) -> Callable[[Any], None]:
    def add(tenant: Any) -> None:
        if host is not None:
            domain_model()._default_manager.using(using).create(domain=host, tenant=tenant, is_primary=True)

    return add


def normalize_domain(domain: str) -> str:
    """Return a domain as browsers send it: lower case, without a final dot, letters beyond ASCII in IDNA's form.

    Raises:
        ValidationError: it is no host's name.
    """
    try:
        return normalize_host(domain)
    except ValueError as exc:
        raise ValidationError(str(exc), code="invalid") from exc


class TenantForeignKey(models.ForeignKey[Any, Any]):
    """A foreign key to the TENANT_MODEL, known when a concrete model gets the field; in migrations a plain one."""

    def contribute_to_class(
        self, cls: type[models.Model], name: str, private_only: bool = False, **kwargs: Any
    ) -> None:
        """Point to the TENANT_MODEL."""
        if not cls._meta.abstract:
            remote: Any = self.remote_field
            remote.model = conf.require().tenant_model
        super().contribute_to_class(cls, name, private_only=private_only, **kwargs)

    def deconstruct(self) -> Any:
        """Return Django's own foreign key."""
        name, _, args, kwargs = super().deconstruct()
        return name, "django.db.models.ForeignKey", args, kwargs


class DomainMixin(models.Model):
    """A host name that leads to a tenant."""

    domain = models.CharField(max_length=253, unique=True)
    tenant = TenantForeignKey("TENANT_MODEL", on_delete=models.CASCADE, related_name="domains")  # type: ignore[misc]
    is_primary = models.BooleanField(default=True)

    objects: ClassVar[models.Manager[Any]] = DomainManager()

    class Meta:
        abstract = True

    def __str__(self) -> str:
        return self.domain

    def clean(self) -> None:
        """Bring the domain into the form that browsers send."""
        super().clean()
        self.domain = normalize_domain(self.domain)

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Save the row, with the domain in the form that browsers send.

        Raises:
            ValidationError: it is no host's name.
        """
        self.domain = normalize_domain(self.domain)
        super().save(*args, **kwargs)


@receiver(class_prepared)
def _tie_schema_to_row(sender: type[models.Model], **kwargs: Any) -> None:
    # The tenants' own model and its proxies alone: a listener to all would make every delete of the project load rows.
    if issubclass(sender, TenantMixin) and not sender._meta.abstract and provisioning.owns_row(sender):
        for signal, function in (
            (pre_delete, _before_delete),
            (post_delete, _after_delete),
            (pre_save, _before_save),
            (post_save, _after_save),
        ):
            signal.connect(function, sender=sender, dispatch_uid="pg_tenants.models")
    if issubclass(sender, (TenantMixin, DomainMixin)) and not sender._meta.abstract:
        for signal in (post_save, post_delete):
            signal.connect(_row_changed, sender=sender, dispatch_uid="pg_tenants.row_changed")


def _before_delete(instance: Any, using: str, **kwargs: Any) -> None:
    provisioning.before_delete(instance, using)


def _after_delete(instance: Any, using: str, **kwargs: Any) -> None:
    provisioning.after_delete(instance, using)


def _before_save(instance: Any, raw: bool, using: str, **kwargs: Any) -> None:
    if raw:
        provisioning.before_raw_save(instance, using)


def _after_save(instance: Any, raw: bool, created: bool, using: str, **kwargs: Any) -> None:
    if raw and created:
        provisioning.complete_raw(instance, using)


def _row_changed(using: str, **kwargs: Any) -> None:
    lookups.changed(using)


# A tenant whose schema is made after its row gets its status by a statement that no model's signal tells of.
post_tenant_activate.connect(_row_changed, dispatch_uid="pg_tenants.row_changed")


@receiver(post_migrate, dispatch_uid="pg_tenants.rows_migrated")
def _rows_migrated(app_config: Any, using: str, **kwargs: Any) -> None:
    # Migrations write by other classes than the models, and flush writes by none.
    config = conf.get()
    if config is not None and app_config.label in {
        name.partition(".")[0] for name in (config.tenant_model, config.domain_model)
    }:
        lookups.changed(using)


def tenant_model() -> type[Any]:
    """Return the project's TENANT_MODEL."""
    return apps.get_model(conf.require().tenant_model)


def domain_model() -> type[Any]:
    """Return the project's DOMAIN_MODEL."""
    return apps.get_model(conf.require().domain_model)
