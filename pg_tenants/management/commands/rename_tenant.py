"""``rename_tenant``: another name for a tenant's schema."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from pg_tenants.management.tenants import find_tenant, progress_of


class Command(BaseCommand):
    """Rename a tenant."""

    help = "Gives a tenant's row and schema another name. It waits for what uses the schema."

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the options."""
        parser.add_argument("schema_name", help="The tenant's schema.")
        parser.add_argument("new_name", help="What it is to be called.")

    def handle(self, *args: Any, **options: Any) -> None:
        """Rename."""
        name, new = options["schema_name"], options["new_name"]
        done = find_tenant(name).rename(new, progress=progress_of(self, options))
        if options["verbosity"]:
            text = f"Renamed tenant {name} to {new}." if done else f"Nothing to do: the tenant is called {name}."
            self.stdout.write(self.style.SUCCESS(text))
