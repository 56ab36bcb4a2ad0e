"""``restore_tenant``: a tenant from a file of ``archive_tenant``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import IntegrityError, router

from pg_tenants.management.tenants import progress_of
from pg_tenants.models import tenant_model


class Command(BaseCommand):
    """Restore a tenant."""

    help = "Makes a tenant from a file of archive_tenant: its row, its domains and its schema with all rows."

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the options."""
        parser.add_argument("file", type=Path, help="The file. It holds SQL that is run: use none from strangers.")
        parser.add_argument("--as", dest="schema_name", metavar="NAME", help="Another name than it had.")
        parser.add_argument("--domain", help="The host that leads to it, instead of those in the file.")
        parser.add_argument(
            "--no-privileges",
            action="store_false",
            dest="privileges",
            help="Do not grant what was granted to other roles, which may not be on this server.",
        )
        parser.add_argument("--database", help="The alias of the tenants' rows; the router's choice if not given.")
        parser.add_argument("--json", action="store_true", help="Print the result as JSON.")

    def handle(self, *args: Any, **options: Any) -> None:
        """Restore."""
        model = tenant_model()
        using = options["database"] or router.db_for_write(model)
        try:
            tenant = model._default_manager.db_manager(using).restore_tenant(
                options["file"],
                schema_name=options["schema_name"],
                domain=options["domain"],
                privileges=options["privileges"],
                progress=progress_of(self, options),
            )
        except ValidationError as exc:
            raise CommandError("\n".join(exc.messages)) from exc
        except IntegrityError as exc:
            raise CommandError(str(exc).strip()) from exc
        if options["json"]:
            self.stdout.write(json.dumps({"schema_name": tenant.schema_name, "status": tenant.status}))
        elif options["verbosity"]:
            self.stdout.write(self.style.SUCCESS(f"Restored tenant {tenant.schema_name}."))
