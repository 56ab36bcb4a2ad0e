"""``adopt_tables``: the tables of a project that had no tenants become those of its first one."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import router, transaction

from pg_tenants.exceptions import PgTenantsError
from pg_tenants.management.tenants import add_new_tenant, parse_fields, refusal_of
from pg_tenants.models import domain_model, normalize_domain, tenant_model
from pg_tenants.provisioning.move_in import move_in


class Command(BaseCommand):
    """Move the tables of a tenant module's apps out of ``public``, into a new tenant's schema."""

    help = "Makes the tables that the project has in the schema public those of a new tenant, without copying rows."

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the options of create_tenant, but --adopt, and ours."""
        add_new_tenant(parser)
        parser.add_argument("--dry-run", action="store_true", help="Do all of it, take it back, and show what it was.")
        parser.add_argument("--json", action="store_true", help="Print the result as JSON.")

    def handle(self, *args: Any, **options: Any) -> None:
        """Move."""
        model = tenant_model()
        fields = parse_fields(options["fields"])
        tenant = model(schema_name=options["schema_name"], module=options["module"], **fields)
        using = router.db_for_write(model, instance=tenant)
        try:
            tenant.full_clean(exclude=["status"])
            with transaction.atomic(using=using):
                report = move_in(tenant, dry_run=options["dry_run"])
                if options["domain"]:
                    domain = normalize_domain(options["domain"])
                    if not options["dry_run"]:
                        domain_model()._default_manager.using(using).create(
                            domain=domain, tenant=tenant, is_primary=True
                        )
        except ValidationError as exc:
            raise refusal_of(exc) from exc
        except PgTenantsError as exc:
            raise CommandError(str(exc)) from exc
        if options["json"]:
            self.stdout.write(json.dumps({"schema_name": tenant.schema_name, **asdict(report)}, indent=2))
            return
        if options["verbosity"] > 1 or options["dry_run"]:
            for name in report.moved:
                self.stdout.write(f"  {name}")
        for name in report.left:
            self.stdout.write(f"  left in public: {name}")
        verb = "Would move" if options["dry_run"] else "Moved"
        self.stdout.write(
            self.style.SUCCESS(
                f"{verb} {len(report.moved)} objects and {report.migrations} rows of django_migrations to the schema "
                f"{tenant.schema_name}."
            )
        )
