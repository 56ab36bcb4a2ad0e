"""``resume_tenant``: takes suspended tenants back into service."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from pg_tenants.management.tenants import find_tenant, say_who_knows


class Command(BaseCommand):
    """Resume tenants."""

    help = "Takes suspended tenants back into service. May be called again."

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the options."""
        parser.add_argument("schema_name", nargs="+", help="The tenants' schemas.")

    def handle(self, *args: Any, **options: Any) -> None:
        """Resume, after all names were found."""
        changed = False
        for tenant in [find_tenant(name) for name in dict.fromkeys(options["schema_name"])]:
            done = tenant.resume()
            changed |= done
            if options["verbosity"]:
                name = tenant.schema_name
                text = f"Resumed tenant {name}." if done else f"Tenant {name} was in service already."
                self.stdout.write(self.style.SUCCESS(text))
        if changed and options["verbosity"]:
            say_who_knows(self)
