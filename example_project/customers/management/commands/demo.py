"""``demo``: the whole example in one command, from an empty machine to pages in a browser."""

from __future__ import annotations

import signal
import time
from types import FrameType
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from example_project.customers.models import Tenant
from example_project.demo.check import CheckFailed, check
from example_project.demo.database import Database
from example_project.demo.site import Site, listen
from example_project.loading import STAFF_PASSWORD, demo_password
from pg_tenants.exceptions import PgTenantsError


class Command(BaseCommand):
    """Start PostgreSQL, migrate, load the companies, and serve them."""

    help = "Starts PostgreSQL, migrates, creates the companies of the data file, and serves them on 127.0.0.1."
    requires_system_checks = []

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the options."""
        parser.add_argument(
            "--check", action="store_true", help="Ask every page over HTTP, say what was seen, and end."
        )
        parser.add_argument("--reset", action="store_true", help="Start over: remove what earlier runs have made.")
        parser.add_argument("--port", type=int, help="Port of the site; 8000 by default, any free one with --check.")

    def handle(self, *args: Any, **options: Any) -> None:
        """Run the demo."""
        started = time.monotonic()
        for name in ("SIGTERM", "SIGHUP"):
            if hasattr(signal, name):
                signal.signal(getattr(signal, name), _interrupt)
        port = options["port"] if options["port"] is not None else (0 if options["check"] else 8000)
        try:
            with listen(port) as server, Database(self.say, reset=options["reset"]) as database:
                tenants = database.fill()
                with Site(server) as site:
                    self.say(f"Ready after {time.monotonic() - started:.1f} s.")
                    if options["check"]:
                        check(site, tenants, self.say)
                        self.stdout.write(self.style.SUCCESS("All is well: each company saw its own data alone."))
                    else:
                        self._introduce(site, tenants, database)
                        site.wait()
        except KeyboardInterrupt:
            self.stdout.write("")
        except (CheckFailed, PgTenantsError, OSError) as exc:
            raise CommandError(str(exc)) from exc

    def say(self, text: str) -> None:
        """Print a line of progress at once."""
        self.stdout.write(text)
        self.stdout.flush()

    def _introduce(self, site: Site, tenants: list[Tenant], database: Database) -> None:
        self.say("")
        for tenant in tenants:
            address = site.address(f"{tenant.schema_name}.localhost")
            self.say(self.style.MIGRATE_HEADING(f"  {address}") + f"  {tenant.name}")
            self.say(f"      admin: {address}admin/  user admin, password {demo_password(tenant)}")
        self.say("")
        address = site.address("localhost")
        self.say(f"Start at {address}, which lists them. What to try next:")
        self.say(f"  · sign up a company: {address}new/")
        self.say(f"  · suspend one: {address}admin/  user admin, password {STAFF_PASSWORD}")
        self.say("  · search the same word at two companies; sign in at one and look at the other")
        self.say("In a second terminal, in this folder and virtual environment:")
        self.say("  · python manage.py create_tenant umbrella --domain umbrella.localhost --set name=Umbrella")
        self.say("  · python manage.py tenant_command --schema umbrella createsuperuser")
        self.say("  · python manage.py tenant_command --schema acme shell")
        self.say("  · python manage.py migrate_schemas --list")
        if not settings.DEBUG:
            self.say("DEBUG is off, so the pages come without their style sheet.")
        self.say(f"Press Ctrl-C to stop the site{' and the database server' if database.started else ''}.")


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
