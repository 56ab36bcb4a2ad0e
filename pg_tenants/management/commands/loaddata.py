"""``loaddata``: fixtures, into the active tenant or without one into the fixed modules' tables."""

from __future__ import annotations

from typing import Any

from django.core.management.commands.loaddata import Command as DjangoCommand

from pg_tenants.management.refusals import is_tenant_aware, refuse_absent

__all__ = ["Command"]


class Command(DjangoCommand):
    """Refuse objects whose tables are elsewhere; Django's passes over them without a word."""

    def save_obj(self, obj: Any) -> bool:
        """Save an object.

        Raises:
            CommandError: its app has no tables here; nothing of the fixtures is kept.
        """
        excluded = obj.object._meta.app_config in self.excluded_apps or type(obj.object) in self.excluded_models
        if not excluded and is_tenant_aware(self.using):
            refuse_absent([obj.object._meta.app_label], self.using, "loaddata")
        return super().save_obj(obj)
