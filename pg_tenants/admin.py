# mypy: disable-error-code="type-arg"
# Django's admin classes take no type argument at run time.
"""Tenants and their domains in Django's admin, on the public hosts."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, ClassVar

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.admin.utils import model_ngettext
from django.core.exceptions import ObjectDoesNotExist, ValidationError
from django.db import DatabaseError, connections, router, transaction
from django.db.models import Field, Model, QuerySet
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.safestring import SafeString

from pg_tenants import schemas
from pg_tenants.context import current_schema, no_schema, schema_context
from pg_tenants.exceptions import PgTenantsError
from pg_tenants.migrations import required_registry
from pg_tenants.models import TenantStatus
from pg_tenants.resolvers import home_schema

__all__ = ["DomainFormSet", "DomainInline", "TenantAdmin", "TenantForm"]

logger = logging.getLogger(__name__)

_FIXED = ("schema_name", "module", "status")
"""What ties a tenant to its schema: never changed by saving a form."""


class TenantForm(forms.ModelForm):
    """A tenant's form, which also refuses the name of a schema that is there and no tenant's."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        field = self.fields.get("schema_name")
        if field is not None and not field.help_text:
            field.help_text = "Letters from a to z, digits and _, beginning with a letter. No form changes it later."

    def _post_clean(self) -> None:
        super()._post_clean()  # type: ignore[misc]
        if self.errors or not self.instance._state.adding:
            return
        name = self.instance.schema_name
        module = required_registry().tenant_module(self.instance.module or None, name)
        if schemas.exists(name, using=module.database):
            self.add_error("schema_name", f"The database has a schema {name!r} already. Choose another name.")


class DomainFormSet(forms.BaseInlineFormSet):
    """A tenant's domains, one of which is the primary one."""

    def get_form_kwargs(self, index: int | None) -> dict[str, Any]:
        """Propose the first domain as the primary one, and no other."""
        kwargs = super().get_form_kwargs(index)
        if index is None or index >= self.initial_form_count():
            first = index == 0 or (index is None and not self.total_form_count())
            kwargs["initial"] = {"is_primary": first, **kwargs.get("initial", {})}
        return kwargs

    def clean(self) -> None:
        """Refuse a domain that is given twice, and anything but one primary domain.

        Raises:
            ValidationError: the message says which.
        """
        super().clean()
        if any(self.errors):
            return
        filled = [form for form in self.forms if form.has_changed() or form.instance.pk]
        kept: list[Any] = [form.instance for form in filled if form not in self.deleted_forms]
        domains = [domain.domain for domain in kept]
        for domain in domains:
            if domains.count(domain) > 1:
                raise ValidationError(f"The domain {domain!r} is given twice. Remove one of the two.")
        primary = [domain.domain for domain in kept if domain.is_primary]
        if kept and len(primary) != 1:
            found = f"{len(primary)} domains are" if primary else "No domain is"
            raise ValidationError(f"{found} marked as primary. Mark one.")


class DomainInline(admin.TabularInline):
    """The domains on a tenant's page. Subclass it and set ``model`` to the DOMAIN_MODEL."""

    formset = DomainFormSet

    def check(self, **kwargs: Any) -> list[Any]:
        """Check the inline, unless the TENANT_MODEL is no model, which is another check's to say."""
        unknown = isinstance(self.model._meta.get_field("tenant").remote_field.model, str)
        return [] if unknown else super().check(**kwargs)

    def get_extra(self, request: HttpRequest, obj: Model | None = None, **kwargs: Any) -> int:
        """Offer one empty row for a new tenant."""
        return 0 if obj else 1


class TenantAdmin(admin.ModelAdmin):
    """Tenants with their status, and actions to suspend, resume and provision them.

    It is for the public hosts: where a tenant is active, nobody has a permission on it. A new tenant's row is saved
    with the status ``provisioning``; once it is committed, ``start_provisioning()`` has the schema made.
    """

    form = TenantForm
    actions = ("suspend", "resume", "provision")
    list_display: Any = ("schema_name", "status_label", "primary_domain", "created_at")
    list_filter: ClassVar[Any] = ("status", "created_at")
    search_fields: ClassVar[Any] = ("schema_name", "domains__domain")

    class Media:
        css = {"all": ("pg_tenants/admin.css",)}

    # -- the list and the form ----------------------------------------------------------------------------------------

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        """Return the tenants with their domains."""
        return super().get_queryset(request).prefetch_related("domains")

    @admin.display(description="status", ordering="status")
    def status_label(self, tenant: Any) -> SafeString:
        """Return the status in its colour."""
        return format_html(
            '<span class="pg-tenants-status" data-status="{}">{}</span>', tenant.status, tenant.get_status_display()
        )

    @admin.display(description="domain")
    def primary_domain(self, tenant: Any) -> str | None:
        """Return the primary domain, or else any."""
        domains = sorted(tenant.domains.all(), key=lambda domain: (not domain.is_primary, domain.domain))
        return domains[0].domain if domains else None

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        """Return what no form changes: the status, and of a tenant that is there its schema and module."""
        fixed = ("status", "created_at") if obj is None else (*_FIXED, "created_at")
        return tuple(dict.fromkeys((*super().get_readonly_fields(request, obj), *fixed)))

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        """Return the fields; those of a new tenant are what somebody can choose."""
        fields = list(super().get_fields(request, obj))
        if obj is None:
            hidden = ("status", "created_at") if len(required_registry().tenant) > 1 else (*_FIXED[1:], "created_at")
            fields = [field for field in fields if field not in hidden]
        return fields

    def formfield_for_dbfield(self, db_field: Field, request: HttpRequest, **kwargs: Any) -> Any:
        """Offer the tenant modules."""
        if db_field.name == "module":
            return forms.ChoiceField(choices=[(module.name, module.name) for module in required_registry().tenant])
        return super().formfield_for_dbfield(db_field, request, **kwargs)

    # -- saving and deleting ------------------------------------------------------------------------------------------

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        """Save a tenant that is there, or the row of a new one, whose schema is made after the commit."""
        if change:
            # The status may have changed since the tenant was read, and stays as it is.
            fields = [field.name for field in obj._meta.concrete_fields if not field.primary_key]
            obj.save(update_fields=[name for name in fields if name not in _FIXED])
            return
        obj.save(provision=False)
        self._provision_after_commit(request, [obj])

    def get_deleted_objects(self, objs: Any, request: HttpRequest) -> Any:
        """Say that the schemas go as well."""
        to_delete, model_count, perms_needed, protected = super().get_deleted_objects(objs, request)
        gone = [f"Schema: {tenant.schema_name}, with all its tables and all their rows" for tenant in objs]
        return [*gone, *to_delete], {"schemas": len(gone), **model_count}, perms_needed, protected

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        """Delete tenants, each in a transaction of its own: a schema takes a lock for each of its tables."""
        for tenant in queryset:
            tenant.delete()

    # -- actions ------------------------------------------------------------------------------------------------------

    @admin.action(description="Suspend selected %(verbose_name_plural)s", permissions=["change"])
    def suspend(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        """Take tenants out of service."""
        self._move(request, queryset, "Suspended", lambda tenant: tenant.suspend())

    @admin.action(description="Resume selected %(verbose_name_plural)s", permissions=["change"])
    def resume(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        """Take tenants back into service."""
        self._move(request, queryset, "Resumed", lambda tenant: tenant.resume())

    @admin.action(
        description="Provision selected %(verbose_name_plural)s that have no schema yet", permissions=["change"]
    )
    def provision(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        """Have the schemas made of tenants that have none, after a failure too."""
        tenants = list(queryset.filter(status__in=(TenantStatus.PROVISIONING, TenantStatus.FAILED)))
        if not tenants:
            self.message_user(request, "None of them lacks its schema.", messages.WARNING)
            return
        for tenant in tenants:
            self.log_change(request, tenant, "Provisioning started.")
        self._provision_after_commit(request, tenants)

    def _move(self, request: HttpRequest, tenants: QuerySet[Any], done: str, move: Callable[[Any], bool]) -> None:
        moved = 0
        for tenant in tenants:
            try:
                with transaction.atomic(using=router.db_for_write(self.model)):
                    if move(tenant):
                        self.log_change(request, tenant, f"{done}.")
                        moved += 1
            except (PgTenantsError, ObjectDoesNotExist) as exc:
                self.message_user(request, str(exc), messages.ERROR)
        if moved:
            self.message_user(request, f"{done} {moved} {model_ngettext(self.opts, moved)}.", messages.SUCCESS)
        else:
            self.message_user(request, "Nothing had to be changed.", messages.WARNING)

    def _provision_after_commit(self, request: HttpRequest, tenants: Sequence[Any]) -> None:
        names = ", ".join(tenant.schema_name for tenant in tenants)
        message = f"Being made: {names}. Load the list again to see when the status is active."
        self.message_user(request, message, messages.INFO)
        using = router.db_for_write(self.model)
        transaction.on_commit(lambda: self.start_provisioning(request, tenants), using=using)

    def start_provisioning(self, request: HttpRequest, tenants: Sequence[Any]) -> None:
        """Have the schemas of tenants made outside the request; called when their rows are committed.

        One thread makes them, one after the other. It is lost with the process, and then the status stays
        ``provisioning``; the action "provision" starts again. Override this method to enqueue a job that calls
        ``tenant.provision()``.

        Args:
            request: the request of whoever asked for it.
            tenants: tenants with the status ``provisioning`` or ``failed``.
        """
        keys = [tenant.pk for tenant in tenants]
        threading.Thread(target=_provision_all, args=(self.model, keys, request.user.pk), name="provisioning").start()

    # -- permissions --------------------------------------------------------------------------------------------------

    def has_module_permission(self, request: HttpRequest) -> bool:
        """Return whether the tenants are listed on the admin's start page."""
        return _is_public() and super().has_module_permission(request)

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return whether tenants may be looked at."""
        return _is_public() and super().has_view_permission(request, obj)

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Return whether tenants may be made."""
        return _is_public() and super().has_add_permission(request)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return whether tenants may be changed, suspended, resumed and provisioned."""
        return _is_public() and super().has_change_permission(request, obj)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return whether tenants may be deleted."""
        return _is_public() and super().has_delete_permission(request, obj)


def _is_public() -> bool:
    return current_schema() in (None, home_schema())


def _provision_all(model: type[Model], keys: Sequence[Any], user: Any) -> None:
    for key in keys:
        try:
            _provision(model, key, user)
        finally:
            connections.close_all()


def _provision(model: type[Model], key: Any, user: Any) -> None:
    with no_schema():
        tenant: Any = model._base_manager.using(router.db_for_write(model)).filter(pk=key).first()
    if tenant is None:
        return
    try:
        tenant.provision()
    except Exception as exc:
        logger.exception("The schema of the tenant %r could not be made.", tenant.schema_name)
        # Told in the tenant's history as well, unless it is the database that fails.
        with suppress(DatabaseError), schema_context(home_schema()):
            LogEntry.objects.log_actions(user, [tenant], CHANGE, f"Provisioning failed: {exc}", single_object=True)
