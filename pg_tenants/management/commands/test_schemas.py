"""``test_schemas``: what test runs have left in the test database."""

from __future__ import annotations

import json
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DEFAULT_DB_ALIAS

from pg_tenants.exceptions import PgTenantsError
from pg_tenants.test import leftovers


class Command(BaseCommand):
    """List or drop the schemas of test runs."""

    help = "Lists the schemas in the test database, or drops those that no test run uses."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the options."""
        parser.add_argument("action", nargs="?", choices=("list", "clean"), default="list", help="What to do.")
        parser.add_argument("--database", default=DEFAULT_DB_ALIAS, help="The database alias; the default one if none.")
        parser.add_argument("--kept", action="store_true", help="With clean: also what --keep-failed has kept.")
        parser.add_argument(
            "--drop-database", action="store_true", help="With clean: the whole test database, with its templates."
        )
        parser.add_argument("--json", action="store_true", help="Print the result as JSON.")

    def handle(self, *args: Any, **options: Any) -> None:
        """List, or clean."""
        using, cleans = options["database"], options["action"] == "clean"
        if not cleans and (options["kept"] or options["drop_database"]):
            raise CommandError("--kept and --drop-database are options of 'test_schemas clean'.")
        try:
            if options["drop_database"]:
                self._tell_of_database(leftovers.drop_database(using), options)
                return
            found = leftovers.clean(using, kept=options["kept"]) if cleans else leftovers.find(using)
        except PgTenantsError as exc:
            raise CommandError(str(exc)) from exc
        if options["json"]:
            self.stdout.write(json.dumps([item.as_dict() for item in found or []], indent=2))
        elif found is None:
            self.stdout.write("There is no test database.")
        elif not found:
            self.stdout.write("Nothing to drop." if cleans else "No schemas of test runs.")
        else:
            for item in found:
                self.stdout.write(self._line(item, "dropped" if cleans else ""))

    def _line(self, item: leftovers.Leftover, done: str) -> str:
        state = done or (f"in use by {item.used_by}" if item.used_by else "left over")
        if item.test:
            state = f"{done or 'kept'}, rows of {item.test}"
        count = len(item.schemas)
        return f"{item.prefix}  {count} schema{'' if count == 1 else 's'}  {state}"

    def _tell_of_database(self, dropped: bool, options: dict[str, Any]) -> None:
        if options["json"]:
            self.stdout.write(json.dumps({"dropped": dropped}))
        else:
            self.stdout.write("Dropped the test database." if dropped else "There is no test database.")
