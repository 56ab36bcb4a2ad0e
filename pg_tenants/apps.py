"""The Django app."""

from __future__ import annotations

from django.apps import AppConfig

from pg_tenants import conf

__all__ = ["PgTenantsConfig"]


class PgTenantsConfig(AppConfig):
    """Registers the checks, marks tables that several modules have, and keeps instances and caches in their tenants."""

    name = "pg_tenants"
    verbose_name = "Tenants"

    def ready(self) -> None:
        """Connect what has to be connected once."""
        # Models can be imported only after the apps are loaded.
        from pg_tenants import caches, checks, instances  # noqa: PLC0415
        from pg_tenants.management.notice import replace_notice  # noqa: PLC0415
        from pg_tenants.management.refusals import replace_methods  # noqa: PLC0415
        from pg_tenants.modules import mark_ambiguous_tables  # noqa: PLC0415

        checks.register()
        if conf.get() is not None:
            mark_ambiguous_tables()
            instances.install()
            caches.install()
            replace_notice()
            replace_methods()
