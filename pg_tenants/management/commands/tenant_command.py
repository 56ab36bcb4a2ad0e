"""``tenant_command``: any command in one tenant, in some, or in all."""

from __future__ import annotations

import argparse
from typing import Any

from django.core.management import call_command, get_commands
from django.core.management.base import BaseCommand, CommandError, CommandParser

from pg_tenants import conf
from pg_tenants.context import tenant_context
from pg_tenants.management.tenants import find_tenant
from pg_tenants.models import TenantStatus, tenant_model


class Command(BaseCommand):
    """Run a command inside tenants."""

    help = (
        "Runs a command inside tenants: tenant_command --schema acme createsuperuser --username ada. "
        "Options of tenant_command itself come before the command."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the options."""
        which = parser.add_mutually_exclusive_group(required=True)
        which.add_argument("--schema", action="append", metavar="NAME", help="In this tenant; repeatable.")
        which.add_argument("--all", action="store_true", help="In all active tenants.")
        parser.add_argument("command_name", metavar="command", help="The command to run.")
        parser.add_argument("arguments", nargs=argparse.REMAINDER, help="Its arguments.")

    def handle(self, *args: Any, **options: Any) -> None:
        """Run the command; a tenant where it fails does not keep it from the others."""
        name = options["command_name"]
        if name not in get_commands():
            raise CommandError(f"There is no command {name!r}. {conf.nearest(name, sorted(get_commands()))}")
        tenants = self._tenants(options)
        failed: list[str] = []
        for tenant in tenants:
            if options["verbosity"] and len(tenants) > 1:
                self.stdout.write(self.style.MIGRATE_HEADING(f"{tenant.schema_name}:"))
            try:
                with tenant_context(tenant):
                    call_command(name, *options["arguments"], stdout=self.stdout, stderr=self.stderr)
            except (Exception, SystemExit) as exc:
                # With one tenant the command ends as it would by itself; one of several does not stop the others.
                if len(tenants) == 1:
                    raise
                if not isinstance(exc, SystemExit) or exc.code:
                    what = str(exc) if isinstance(exc, CommandError) else f"{type(exc).__name__}: {exc}"
                    failed.append(f"{tenant.schema_name}: {what}")
        if failed:
            raise CommandError(f"{name} failed in {len(failed)} of {len(tenants)} tenants.\n" + "\n".join(failed))

    def _tenants(self, options: dict[str, Any]) -> list[Any]:
        if options["all"]:
            return list(tenant_model()._default_manager.filter(status=TenantStatus.ACTIVE).order_by("schema_name"))
        return [find_tenant(name) for name in dict.fromkeys(options["schema"])]
