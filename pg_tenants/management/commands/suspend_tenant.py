"""``suspend_tenant``: takes tenants out of service."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from pg_tenants.management.tenants import find_tenant, say_who_knows


class Command(BaseCommand):
    """Suspend tenants."""

    help = "Takes tenants out of service. May be called again."

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the options."""
        parser.add_argument("schema_name", nargs="+", help="The tenants' schemas.")

    def handle(self, *args: Any, **options: Any) -> None:
        """Suspend, after all names were found."""
        changed = False
        for tenant in [find_tenant(name) for name in dict.fromkeys(options["schema_name"])]:
            done = tenant.suspend()
            changed |= done
            if options["verbosity"]:
                name = tenant.schema_name
                text = f"Suspended tenant {name}." if done else f"Tenant {name} was suspended already."
                self.stdout.write(self.style.SUCCESS(text))
        if changed and options["verbosity"]:
            say_who_knows(self)
