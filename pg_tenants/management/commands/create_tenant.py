"""``create_tenant``: a tenant's row, schema and domain."""

from __future__ import annotations

import json
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import router, transaction

from pg_tenants.exceptions import PgTenantsError
from pg_tenants.management.tenants import add_new_tenant, parse_fields, refusal_of
from pg_tenants.models import domain_model, normalize_domain, tenant_model


class Command(BaseCommand):
    """Create a tenant."""

    help = "Creates a tenant: its row, its schema with all tables, and a domain if one is given."

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the options."""
        add_new_tenant(parser)
        parser.add_argument(
            "--adopt",
            action="store_true",
            help="Take over the schema of this name that is there, if it is what the migrations make.",
        )
        parser.add_argument("--json", action="store_true", help="Print the result as JSON.")

    def handle(self, *args: Any, **options: Any) -> None:
        """Create the tenant."""
        model = tenant_model()
        fields = parse_fields(options["fields"])
        tenant = model(schema_name=options["schema_name"], module=options["module"], **fields)
        using = router.db_for_write(model, instance=tenant)
        domain = None
        try:
            tenant.full_clean(exclude=["status"])
            with transaction.atomic(using=using):
                tenant.save(using=using, adopt=options["adopt"])
                if options["domain"]:
                    domain = normalize_domain(options["domain"])
                    row = domain_model()(domain=domain, tenant=tenant, is_primary=True)
                    row.full_clean()
                    row.save(using=using)
        except ValidationError as exc:
            raise refusal_of(exc) from exc
        except PgTenantsError as exc:
            raise CommandError(str(exc)) from exc
        if options["json"]:
            self.stdout.write(json.dumps({"schema_name": tenant.schema_name, "domain": domain}))
        elif options["verbosity"]:
            where = f" at {domain}" if domain else ""
            self.stdout.write(self.style.SUCCESS(f"Created tenant {tenant.schema_name}{where}."))
