"""``archive_tenant``: a tenant in one file."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandParser
from django.core.serializers.json import DjangoJSONEncoder

from pg_tenants.management.tenants import find_tenant, progress_of


class Command(BaseCommand):
    """Archive a tenant."""

    help = "Writes a tenant's row, domains and schema into one new file, which restore_tenant reads."

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the options."""
        parser.add_argument("schema_name", help="The tenant's schema.")
        parser.add_argument("file", type=Path, help="The file. One that is there is not replaced.")
        parser.add_argument(
            "--delete", action="store_true", help="Delete the tenant, when nothing can be written to it any more."
        )
        parser.add_argument(
            "--grace", type=float, default=0, metavar="SECONDS", help="With --delete: how long to wait for what runs."
        )
        parser.add_argument(
            "--terminate", action="store_true", help="With --delete: then end the sessions that use the tenant."
        )
        parser.add_argument("--json", action="store_true", help="Print what the file says of itself as JSON.")

    def handle(self, *args: Any, **options: Any) -> None:
        """Archive."""
        manifest = find_tenant(options["schema_name"]).archive(
            options["file"],
            delete=options["delete"],
            grace=options["grace"],
            terminate=options["terminate"],
            progress=progress_of(self, options),
        )
        if options["json"]:
            self.stdout.write(json.dumps(asdict(manifest), cls=DjangoJSONEncoder, indent=2))
        elif options["verbosity"]:
            what = "Archived and deleted" if options["delete"] else "Archived"
            self.stdout.write(
                self.style.SUCCESS(f"{what} tenant {manifest.schema_name}: {options['file']}, {manifest.size} bytes.")
            )
