"""``list_tenants``: all tenants with their status and domains."""

from __future__ import annotations

import json
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from pg_tenants.models import TenantStatus, domain_model, tenant_model


class Command(BaseCommand):
    """List the tenants."""

    help = "Lists the tenants with their status and domains."

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the options."""
        parser.add_argument("--status", choices=TenantStatus.values, help="Only tenants of this status.")
        parser.add_argument("--json", action="store_true", help="Print JSON.")

    def handle(self, *args: Any, **options: Any) -> None:
        """List."""
        tenants = tenant_model()._default_manager.order_by("schema_name")
        if options["status"]:
            tenants = tenants.filter(status=options["status"])
        domains: dict[Any, list[str]] = {}
        for tenant_id, domain in (
            domain_model()._default_manager.order_by("-is_primary", "domain").values_list("tenant_id", "domain")
        ):
            domains.setdefault(tenant_id, []).append(domain)
        rows = [
            {
                "schema_name": tenant.schema_name,
                "module": tenant.module,
                "status": tenant.status,
                "created_at": tenant.created_at.isoformat(),
                "domains": domains.get(tenant.pk, []),
            }
            for tenant in tenants
        ]
        if options["json"]:
            self.stdout.write(json.dumps(rows, indent=2))
            return
        width = max((len(row["schema_name"]) for row in rows), default=0)
        for row in rows:
            self.stdout.write(f"{row['schema_name']:<{width}}  {row['status']:<12}  {', '.join(row['domains']) or '-'}")
        if not rows:
            self.stdout.write("There is no tenant. Create one with 'manage.py create_tenant NAME --domain HOST'.")
