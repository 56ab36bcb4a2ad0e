"""Start, stop and describe the development server of ``PG_TENANTS["PGSERVER"]``."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from pg_tenants import conf
from pg_tenants.server import ServerError, cli


class Command(BaseCommand):
    """Parse the command line, hand it to ``pg_tenants.server``, print what that says."""

    help = cli.DESCRIPTION
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the arguments that ``python -m pg_tenants.server`` has as well."""
        cli.add_arguments(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        """Do it."""
        try:
            status = cli.run(argparse.Namespace(**options), conf.pgserver(), self._write)
        except ServerError as exc:
            raise CommandError(str(exc)) from exc
        if status:
            # What there is to say has been printed; only the status is left to tell.
            sys.exit(status)

    def _write(self, line: str) -> None:
        self.stdout.write(line)
        self.stdout.flush()
