"""``prepare_schemas``: spare schemas that new tenants take."""

from __future__ import annotations

import json
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from pg_tenants import conf
from pg_tenants.migrations import required_registry
from pg_tenants.provisioning import ready


class Command(BaseCommand):
    """Prepare schemas."""

    help = "Makes as many spare schemas as PG_TENANTS['READY_SCHEMAS'] says, and drops those that are stale."

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the options."""
        parser.add_argument("--database", help="Only modules on this alias; all tenant modules if not given.")
        parser.add_argument("--json", action="store_true", help="Print the result as JSON.")

    def handle(self, *args: Any, **options: Any) -> None:
        """Prepare, and say how many there are."""
        wanted = conf.require().ready_schemas
        given = options["database"]
        aliases = [given] if given else dict.fromkeys(module.database for module in required_registry().tenant)
        counts: dict[str, int] = {}
        for alias in aliases:
            counts |= ready.prepare(using=alias)
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
