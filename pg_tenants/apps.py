"""The Django app."""

from __future__ import annotations

from typing import Any

from django.apps import AppConfig
from django.db.models.signals import post_delete

from pg_tenants import conf

__all__ = ["PgTenantsConfig"]


class PgTenantsConfig(AppConfig):
    """Registers the checks, marks tables that several modules have, and ties tenants' schemas to their rows."""

    name = "pg_tenants"
    verbose_name = "Tenants"

    def ready(self) -> None:
        """Connect what has to be connected once."""
        # Models can be imported only after the apps are loaded.
        from pg_tenants import checks  # noqa: PLC0415
        from pg_tenants.management.notice import replace_notice  # noqa: PLC0415
        from pg_tenants.models import tenant_model  # noqa: PLC0415
        from pg_tenants.modules import mark_ambiguous_tables  # noqa: PLC0415

        checks.register()
        if conf.get() is None:
            return
        mark_ambiguous_tables()
        replace_notice()
        try:
            model = tenant_model()
        except (LookupError, ValueError):
            return  # A system check says what is wrong with TENANT_MODEL.
        # For this model alone: a listener to all would make every delete of the project load its rows first.
        post_delete.connect(_drop_schema, sender=model, dispatch_uid="pg_tenants.drop_schema")


def _drop_schema(instance: Any, **kwargs: Any) -> None:
    from pg_tenants.provisioning import deprovision  # noqa: PLC0415

    deprovision(instance)
