"""``clone_tenant``: a tenant made after another one."""

from __future__ import annotations

import json
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import IntegrityError

from pg_tenants.management.tenants import add_fields, find_tenant, parse_fields, progress_of, refusal_of


class Command(BaseCommand):
    """Clone a tenant."""

    help = "Makes a tenant after another one: its row, its schema, and with --data its rows."

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the options."""
        parser.add_argument("source", help="The schema of the tenant to clone.")
        parser.add_argument("schema_name", help="The new tenant's schema.")
        parser.add_argument(
            "--data", action="store_true", help="Copy the rows; without it, the tables have what migrations write."
        )
        parser.add_argument("--domain", help="The host that leads to the new tenant, such as acme.example.com.")
        add_fields(parser, more=" The others are the source's.")
        parser.add_argument("--json", action="store_true", help="Print the result as JSON.")

    def handle(self, *args: Any, **options: Any) -> None:
        """Clone."""
        source, fields = find_tenant(options["source"]), parse_fields(options["fields"])
        try:
            tenant = source.clone(
                options["schema_name"],
                data=options["data"],
                domain=options["domain"],
                progress=progress_of(self, options),
                **fields,
            )
        except ValidationError as exc:
            raise refusal_of(exc) from exc
        except IntegrityError as exc:
            raise CommandError(f"{str(exc).strip()}\nGive a value of its own by --set or --domain.") from exc
        if options["json"]:
            self.stdout.write(json.dumps({"schema_name": tenant.schema_name, "source": source.schema_name}))
        elif options["verbosity"]:
            self.stdout.write(self.style.SUCCESS(f"Cloned {source.schema_name} to {tenant.schema_name}."))
