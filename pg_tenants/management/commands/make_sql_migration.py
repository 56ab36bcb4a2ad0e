"""``make_sql_migration``: a file for the next SQL migration of a module."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from pg_tenants.exceptions import PgTenantsError
from pg_tenants.migrations import make_sql_files


class Command(BaseCommand):
    """Write the files of the next number, and print their paths."""

    help = "Makes an SQL file with the next number in a module's folder of SQL migrations."
    # The folder may be missing, which a check would stop at.
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the module, the name and the options."""
        parser.add_argument("module", help="The module, as in PG_TENANTS['MODULES'].")
        parser.add_argument("name", help="What the file does, in a few words.")
        parser.add_argument("--down", action="store_true", help="Make the file that takes it back, too.")

    def handle(self, *args: Any, **options: Any) -> None:
        """Make the files."""
        try:
            paths = make_sql_files(options["module"], options["name"], down=options["down"])
        except PgTenantsError as exc:
            raise CommandError(str(exc)) from exc
        for path in paths:
            self.stdout.write(str(path))
