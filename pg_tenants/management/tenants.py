"""What the commands about tenants share."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandError

from pg_tenants import conf
from pg_tenants.models import tenant_model

__all__ = ["find_tenant"]


def find_tenant(schema_name: str) -> Any:
    """Return the tenant of a schema.

    Raises:
        CommandError: there is none; the message names the nearest.
    """
    manager = tenant_model()._default_manager
    tenant = manager.filter(schema_name=schema_name).first()
    if tenant is None:
        names = list(manager.order_by("schema_name").values_list("schema_name", flat=True))
        hint = conf.nearest(schema_name, names) if names else "There is no tenant yet."
        raise CommandError(f"There is no tenant {schema_name!r}. {hint}")
    return tenant
