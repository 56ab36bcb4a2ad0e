"""``prepare_schemas``: spare schemas that new tenants take."""

from __future__ import annotations

import json
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DEFAULT_DB_ALIAS

from pg_tenants import conf
from pg_tenants.provisioning import ready


class Command(BaseCommand):
    """Prepare schemas."""

    help = "Makes as many spare schemas as PG_TENANTS['READY_SCHEMAS'] says, and drops those that are stale."

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the options."""
        parser.add_argument("--database", default=DEFAULT_DB_ALIAS, help="The database alias; default: default.")
        parser.add_argument("--json", action="store_true", help="Print the result as JSON.")

    def handle(self, *args: Any, **options: Any) -> None:
        """Prepare, and say how many there are."""
        wanted = conf.require().ready_schemas
        counts = ready.prepare(using=options["database"])
        if options["json"]:
            self.stdout.write(json.dumps(counts))
        elif options["verbosity"]:
            for module, count in counts.items():
                self.stdout.write(f"{module}: {count} ready")
        lacking = [module for module, count in counts.items() if count < wanted]
        if lacking:
            raise CommandError(
                f"There is no template of {', '.join(map(repr, lacking))}, so no schema can be prepared. Run "
                "migrate_schemas, which makes the templates or says why it cannot."
            )
