"""The tenant of a job: how it is named in a queue, and found again by the worker."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.core.exceptions import ValidationError

from pg_tenants.context import active, no_schema, tenant_context
from pg_tenants.exceptions import JobRefused
from pg_tenants.models import TenantStatus, tenant_model
from pg_tenants.modules import registry

__all__ = ["KEY", "active_label", "active_tenants", "context_of", "refuse_unlabelled"]

KEY = "pg_tenants_tenant"
"""What a job's label is called in its headers or arguments."""


def active_label() -> str:
    """Return what names the active tenant in a queue: its schema and primary key; "" where no tenant is active.

    The key tells a tenant from a later one of the same name.

    Raises:
        JobRefused: a schema is active that is neither a fixed module's nor a tenant's.
    """
    target = active()
    modules = registry()
    if target is None or (modules is not None and modules.of_schema(target.schema_name)):
        return ""
    tenant = target.tenant
    if tenant is None:
        with no_schema():
            tenant = tenant_model()._default_manager.filter(schema_name=target.schema_name).first()
    if tenant is None or tenant.pk is None:
        raise JobRefused(
            f"The active schema {target.schema_name!r} is no saved tenant's, so no worker could find it. Send the job "
            "inside tenant_context(tenant)."
        )
    return f"{tenant.schema_name} {tenant.pk}"


def context_of(label: str, job: str) -> tenant_context:
    """Return the context of the tenant that a label names.

    Args:
        label: what ``active_label()`` returned; not "".
        job: what the job is called in messages.

    Raises:
        JobRefused: the tenant is gone, has another name, or is not active.
    """
    schema_name, _, key = str(label).partition(" ")
    manager = tenant_model()._default_manager
    with no_schema():
        try:
            tenant = manager.filter(pk=key).first()
        except (ValueError, ValidationError):
            tenant = None
    if tenant is None:
        raise JobRefused(
            f"The job {job!r} is for the tenant {schema_name!r} with the key {key!r}, which does not exist: it was "
            "deleted, or the job is from another project. Nothing was run. Remove the job from the queue."
        )
    if tenant.schema_name != schema_name:
        raise JobRefused(
            f"The job {job!r} is for the tenant {schema_name!r} with the key {key!r}, whose schema is called "
            f"{tenant.schema_name!r} now. Nothing was run. Send it again."
        )
    if not tenant.is_active:
        raise JobRefused(
            f"The job {job!r} is for the tenant {schema_name!r}, whose status is {tenant.status!r}. Nothing was run. "
            "Send it again when the tenant is active."
        )
    return tenant_context(tenant)


def refuse_unlabelled(job: str) -> JobRefused:
    """Return the error of a job that needs a tenant and has none."""
    return JobRefused(
        f"The job {job!r} needs a tenant and has none. Nothing was run. Send it inside tenant_context(tenant), or "
        "declare it with tenant=False if it works for none."
    )


def active_tenants() -> Iterator[Any]:
    """Return all tenants that are served, in parts, so that memory does not grow with their number."""
    with no_schema():
        tenants = tenant_model()._default_manager.filter(status=TenantStatus.ACTIVE).order_by("pk")
    return iter(tenants.iterator(chunk_size=500))
