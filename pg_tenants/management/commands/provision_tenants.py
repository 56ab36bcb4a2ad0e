"""``provision_tenants``: schemas for the tenants that were saved without one."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import connections

from pg_tenants.management.tenants import find_tenant
from pg_tenants.models import TenantStatus, tenant_model

AT_MOST = 50
"""Schemas that are made by one connection.

PostgreSQL keeps a plan for each foreign key that a connection has had checked, and looks through all of them for each
table that is made: the five-hundredth tenant of a large application would take ten times as long as the first.
"""


class Command(BaseCommand):
    """Provision tenants."""

    help = "Makes the schemas of tenants that were saved without one, or where making it has failed."

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the options."""
        parser.add_argument("schema_name", nargs="*", help="Only these tenants; none means all that wait.")
        parser.add_argument(
            "--adopt",
            action="store_true",
            help="Take over the schemas of these names that are there, if they are what the migrations make.",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Provision one after the other; one that fails stops no other."""
        failed = []
        for number, tenant in enumerate(self._tenants(options["schema_name"]), 1):
            if number % AT_MOST == 0:
                _connect_anew()
            try:
                done = tenant.provision(adopt=options["adopt"])
            except Exception as exc:  # noqa: BLE001  # whatever a migration raises is this tenant's result
                failed.append(f"{tenant.schema_name}: {type(exc).__name__}: {exc}")
                continue
            if options["verbosity"]:
                text = "Provisioned" if done else "Nothing to do for"
                self.stdout.write(self.style.SUCCESS(f"{text} tenant {tenant.schema_name}."))
        if failed:
            raise CommandError("\n".join(failed))

    def _tenants(self, names: list[str]) -> list[Any]:
        if names:
            return [find_tenant(name) for name in dict.fromkeys(names)]
        waiting = (TenantStatus.PROVISIONING, TenantStatus.FAILED)
        return list(tenant_model()._default_manager.filter(status__in=waiting).order_by("schema_name"))


def _connect_anew() -> None:
    for connection in connections.all(initialized_only=True):
        if not connection.in_atomic_block and connection.connection is not None:
            # A pool would give the same one again, unless it is closed.
            connection.connection.close()
            connection.close()
