"""``flush``: empty the active tenant's tables, or without one the fixed modules'."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandError
from django.core.management.commands.flush import Command as DjangoCommand
from django.core.management.sql import emit_post_migrate_signal
from django.db import connections, router

from pg_tenants import schemas
from pg_tenants.context import ActiveContext, active
from pg_tenants.management.refusals import is_tenant_aware, targets_here
from pg_tenants.models import tenant_model
from pg_tenants.test.creation import creation_of

__all__ = ["Command"]


class Command(DjangoCommand):
    """Empty the tables of one tenant, and say so; never the table of tenants while there are some."""

    help = "Removes all rows of the active tenant's tables, or without a tenant those of the fixed modules."

    def handle(self, **options: Any) -> None:
        """Empty the tables."""
        alias = options["database"]
        # Django's test cases give this option. The schemas of the tenants whose rows they remove would be left, and
        # PostgreSQL empties no table that another one refers to.
        if not is_tenant_aware(alias) or "inhibit_post_migrate" in options:
            if creation := creation_of(alias):
                creation.recover()
                creation.drop_made_by_test()
            self._empty(alias, options)
            return
        names = ", ".join(target.schema for target in targets_here(alias))
        what = f"fixed modules ({names})" if active() is None else f"schema {names!r}"
        self._refuse_tenants(alias)
        if options["interactive"]:
            answer = input(
                f"This removes ALL ROWS from the tables of the {what}, for good. Other schemas are left alone.\n"
                "Type 'yes' to continue: "
            )
            if answer != "yes":
                self.stdout.write("Flush cancelled.")
                return
        self._empty(alias, {**options, "interactive": False})
        if options["verbosity"]:
            self.stdout.write(f"Emptied the tables of the {what}; other schemas were left alone.")

    def _empty(self, alias: str, options: dict[str, Any]) -> None:
        """Do as Django, which then tells apps to write what they need; those of fixed modules each in its schema."""
        inhibited = options.get("inhibit_post_migrate", False)
        if inhibited or active() is not None or not is_tenant_aware(alias):
            super().handle(**options)
            return
        super().handle(**{**options, "inhibit_post_migrate": True})
        for target in targets_here(alias):
            if schemas.is_ready(target.schema, using=alias):
                with ActiveContext(target.active):
                    emit_post_migrate_signal(options["verbosity"], options["interactive"], alias)

    def _refuse_tenants(self, alias: str) -> None:
        model = tenant_model()
        there = model._meta.db_table in connections[alias].introspection.table_names()
        if there and router.allow_migrate_model(alias, model) and model._base_manager.using(alias).exists():
            raise CommandError(
                "There are tenants. Emptying their table would leave their schemas without rows. Delete them first, by "
                "delete_tenant, or empty a tenant: 'manage.py tenant_command --schema NAME flush'."
            )
