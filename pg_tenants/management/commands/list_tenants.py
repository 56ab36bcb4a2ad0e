"""``list_tenants``: all tenants with their status and domains."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

from django.core.management.base import BaseCommand, CommandParser
from django.template.defaultfilters import filesizeformat
from django.utils import timezone

from pg_tenants.exceptions import ConfigurationError
from pg_tenants.migrations import required_registry
from pg_tenants.models import TenantStatus, domain_model, tenant_model
from pg_tenants.provisioning.stats import sizes


class Command(BaseCommand):
    """List the tenants."""

    help = "Lists the tenants with their status and domains."

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the options."""
        parser.add_argument("--status", choices=TenantStatus.values, help="Only tenants of this status.")
        parser.add_argument(
            "--sizes",
            action="store_true",
            help="With bytes on disk, and about how many rows there are; slow for many tenants.",
        )
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
        tenants = list(tenants)
        found = self._sizes(tenants) if options["sizes"] else {}
        now = timezone.now()
        rows = [
            {
                "schema_name": tenant.schema_name,
                "module": tenant.module,
                "status": tenant.status,
                "created_at": tenant.created_at.isoformat(),
                "age_days": (now - tenant.created_at).days,
                **(found.get(tenant.schema_name, _UNKNOWN) if options["sizes"] else {}),
                "domains": domains.get(tenant.pk, []),
            }
            for tenant in tenants
        ]
        if options["json"]:
            self.stdout.write(json.dumps(rows, indent=2))
            return
        width = max((len(row["schema_name"]) for row in rows), default=0)
        for row in rows:
            size = f"{_size(row['bytes'])}  {_rows(row['rows_estimate'])}  " if options["sizes"] else ""
            self.stdout.write(
                f"{row['schema_name']:<{width}}  {row['status']:<12}  {size}{', '.join(row['domains']) or '-'}"
            )
        if not rows:
            self.stdout.write("There is no tenant. Create one with 'manage.py create_tenant NAME --domain HOST'.")

    def _sizes(self, tenants: list[Any]) -> dict[str, dict[str, int]]:
        by_alias: dict[str, list[str]] = {}
        modules = required_registry()
        for tenant in tenants:
            with suppress(ConfigurationError):  # a module that the settings do not have any more
                module = modules.tenant_module(tenant.module or None, tenant.schema_name)
                by_alias.setdefault(module.database, []).append(tenant.schema_name)
        return {
            name: {"bytes": size.bytes, "rows_estimate": size.rows}
            for alias, names in by_alias.items()
            for name, size in sizes(names, using=alias).items()
        }


_UNKNOWN: dict[str, int | None] = {"bytes": None, "rows_estimate": None}


def _size(value: int | None) -> str:
    return f"{'-' if value is None else filesizeformat(value).replace(chr(160), ' '):>10}"


def _rows(value: int | None) -> str:
    return f"{'-' if value is None else f'~{value}':>9} rows"
