"""What a project's tenant and domain models inherit from."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any, ClassVar

from django.apps import apps
from django.core.exceptions import ValidationError
from django.db import models
from django.db.models.signals import class_prepared, post_delete, post_migrate, post_save
from django.dispatch import receiver

from pg_tenants import conf, lookups, provisioning
from pg_tenants.exceptions import InvalidSchemaName, UnsafeStatement
from pg_tenants.names import normalize_host
from pg_tenants.provisioning.run import validate_tenant_schema

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
    """Refuses what would make rows without schemas."""

    def bulk_create(self, *args: Any, **kwargs: Any) -> list[Any]:
        """Refuse.

        Raises:
            UnsafeStatement: always.
        """
        raise UnsafeStatement(
            "bulk_create() would make tenants without schemas. Use create() or save() for each of them."
        )

    def update(self, **kwargs: Any) -> int:
        """Update rows, but no schema's name or module.

        Raises:
            UnsafeStatement: one of these is to be changed.
        """
        for field in ("schema_name", "module"):
            if field in kwargs:
                raise UnsafeStatement(
                    f"update({field}=…) would part tenants from their schemas. It cannot be changed in this way."
                )
        return super().update(**kwargs)


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
        """Refuse a name that a schema may not have, as forms and full_clean() do.

        Raises:
            ValidationError: the message says why.
        """
        super().clean()
        try:
            validate_tenant_schema(self.schema_name)
        except InvalidSchemaName as exc:
            raise ValidationError({"schema_name": str(exc)}, code="invalid") from exc

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Save the row; for a new tenant, make its schema too.

        Raises:
            InvalidSchemaName: the schema may not be called so.
            SchemaExists: there is a tenant or a schema of this name.
            UnsafeStatement: the schema's name or the module of an existing tenant was changed.
        """
        if self._state.adding:
            save_row = functools.partial(super().save, *args, **kwargs)
            provisioning.provision(self, save_row, using=kwargs.get("using"))
            return
        self._refuse_moving(kwargs.get("using") or self._state.db, kwargs.get("update_fields"))
        super().save(*args, **kwargs)

    def _refuse_moving(self, using: str | None, update_fields: Iterable[str] | None) -> None:
        fields = ("schema_name", "module")
        written = set(fields) - self.get_deferred_fields()
        if update_fields is not None:
            written &= set(update_fields)
        if not written:
            return
        stored = type(self)._base_manager.using(using).filter(pk=self.pk).values_list(*fields).first()
        for field, value in zip(fields, stored or (), strict=False):
            if field in written and getattr(self, field) != value:
                raise UnsafeStatement(
                    f"The tenant's {field} is {value!r}; saving {getattr(self, field)!r} would part the tenant from "
                    "its schema. It cannot be changed by saving."
                )

    @property
    def is_active(self) -> bool:
        """Whether requests are served for the tenant."""
        return self.status == TenantStatus.ACTIVE


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
    # Tenant models and their proxies alone: a listener to all would make every delete of the project load its rows.
    if issubclass(sender, TenantMixin) and not sender._meta.abstract:
        post_delete.connect(_drop_schema, sender=sender, dispatch_uid="pg_tenants.drop_schema")
    if issubclass(sender, (TenantMixin, DomainMixin)) and not sender._meta.abstract:
        for signal in (post_save, post_delete):
            signal.connect(_row_changed, sender=sender, dispatch_uid="pg_tenants.row_changed")


def _drop_schema(instance: Any, **kwargs: Any) -> None:
    provisioning.deprovision(instance)


def _row_changed(using: str, **kwargs: Any) -> None:
    lookups.changed(using)


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
