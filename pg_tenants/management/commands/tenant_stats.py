"""``tenant_stats``: what the database knows of each tenant's schema."""

from __future__ import annotations

import json
from typing import Any

from django.core.management.base import BaseCommand, CommandParser
from django.db import DEFAULT_DB_ALIAS
from django.template.defaultfilters import filesizeformat

from pg_tenants import monitoring

COLUMNS = ("schema", "size", "rows", "dead", "seq scans", "index scans", "writes", "cache hits", "active", "idle in tx")


class Command(BaseCommand):
    """Show sizes, rows, scans and sessions of each schema."""

    help = "Shows what the database knows of each schema: size, rows, scans, writes, cache hits and sessions."

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the options."""
        parser.add_argument("--database", default=DEFAULT_DB_ALIAS, help="The database alias; 'default' if not given.")
        parser.add_argument("--json", action="store_true", help="Print the result as JSON.")

    def handle(self, *args: Any, **options: Any) -> None:
        """Print a line for each schema."""
        stats = monitoring.tenant_stats(options["database"])
        if options["json"]:
            self.stdout.write(json.dumps({"schemas": [entry.as_dict() for entry in stats]}, indent=2))
            return
        rows = [COLUMNS, *(_row(entry) for entry in stats)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            cells = [
                row[0].ljust(widths[0]),
                *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)),
            ]
            self.stdout.write("  ".join(cells).rstrip())


def _row(entry: monitoring.TenantStats) -> tuple[str, ...]:
    hits = "" if entry.cache_hits is None else f"{entry.cache_hits:.1%}"
    counts = (entry.rows, entry.dead_rows, entry.seq_scans, entry.index_scans, entry.writes)
    size = filesizeformat(entry.size).replace("\xa0", " ")
    return (entry.schema, size, *map(str, counts), hits, str(entry.active), str(entry.idle_in_transaction))
