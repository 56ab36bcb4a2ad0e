"""``delete_tenant``: drop a tenant's schema with its data, and its row."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from pg_tenants.management.tenants import find_tenant, progress_of


class Command(BaseCommand):
    """Delete a tenant."""

    help = "Deletes a tenant: its schema with all data, its domains and its row. This cannot be undone."

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the options."""
        parser.add_argument("schema_name", help="The tenant's schema.")
        parser.add_argument(
            "--noinput", "--no-input", action="store_false", dest="interactive", help="Do not ask for confirmation."
        )

        parser.add_argument(
            "--grace",
            type=float,
            metavar="SECONDS",
            help="Take the tenant out of service first, and wait so long at most for what runs.",
        )
        parser.add_argument(
            "--terminate", action="store_true", help="With --grace: then end the sessions that use the tenant."
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Ask, and delete."""
        tenant = find_tenant(options["schema_name"])
        if options["interactive"] and not self._confirmed(tenant):
            raise CommandError("Nothing was deleted.")
        if options["terminate"] and options["grace"] is None:
            raise CommandError("--terminate needs --grace SECONDS, after which sessions are ended.")
        tenant.delete(grace=options["grace"], terminate=options["terminate"], progress=progress_of(self, options))
        if options["verbosity"]:
            self.stdout.write(self.style.SUCCESS(f"Deleted tenant {options['schema_name']}."))

    def _confirmed(self, tenant: Any) -> bool:
        self.stdout.write(
            self.style.WARNING(f"This deletes the tenant {tenant} and all data in the schema {tenant.schema_name}.")
        )
        try:
            return input(f"Type {tenant.schema_name} to go on: ").strip() == str(tenant.schema_name)
        except EOFError:
            return False
