"""What a project's tenant and domain models inherit from."""

from __future__ import annotations

import functools
from typing import Any, ClassVar

from django.apps import apps
from django.core.exceptions import ValidationError
from django.db import models

from pg_tenants import conf, provisioning
from pg_tenants.exceptions import InvalidSchemaName, UnsafeStatement
from pg_tenants.provisioning.run import validate_tenant_schema

__all__ = [
    "DomainMixin",
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


class TenantQuerySet(models.QuerySet[Any]):
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
                    f"update({field}=…) would part tenants from their schemas. Rename a schema with "
                    "pg_tenants.schemas.rename()."
                )
        return super().update(**kwargs)


TenantManager = models.Manager.from_queryset(TenantQuerySet)


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

    @classmethod
    def from_db(cls, db: str | None, field_names: Any, values: Any, **kwargs: Any) -> Any:
        """Remember the schema's name as loaded, to notice a change."""
        instance: Any = super().from_db(db, field_names, values, **kwargs)
        if "schema_name" in field_names:
            instance._loaded_schema_name = instance.schema_name
        return instance

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
            UnsafeStatement: the name of an existing tenant's schema was changed.
        """
        if self._state.adding:
            save_row = functools.partial(super().save, *args, **kwargs)
            provisioning.provision(self, save_row, using=kwargs.get("using"))
            self._loaded_schema_name = self.schema_name
            return
        loaded = getattr(self, "_loaded_schema_name", self.schema_name)
        if loaded != self.schema_name:
            raise UnsafeStatement(
                f"The tenant's schema is {loaded!r}; saving {self.schema_name!r} would part the tenant from it. A "
                "schema's name cannot be changed by saving."
            )
        super().save(*args, **kwargs)

    @property
    def is_active(self) -> bool:
        """Whether requests are served for the tenant."""
        return self.status == TenantStatus.ACTIVE


def normalize_domain(domain: str) -> str:
    """Return a domain as browsers send it: lower case, without a final dot, letters beyond ASCII in IDNA's form.

    Raises:
        ValidationError: it is no host's name.
    """
    host = domain.strip().rstrip(".").lower()
    try:
        host = host.encode("idna").decode("ascii") if host and not host.isascii() else host
    except UnicodeError as exc:
        raise ValidationError(f"{domain!r} is no host's name: {exc}", code="invalid") from exc
    if not host or any(character in host for character in "/:@ ?#"):
        raise ValidationError(
            f"{domain!r} is no host's name. Give it without a scheme, a port or a path, as in shop.example.com.",
            code="invalid",
        )
    return host


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


def tenant_model() -> type[Any]:
    """Return the project's TENANT_MODEL."""
    return apps.get_model(conf.require().tenant_model)


def domain_model() -> type[Any]:
    """Return the project's DOMAIN_MODEL."""
    return apps.get_model(conf.require().domain_model)
