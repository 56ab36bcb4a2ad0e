"""``tenant_command``: any command in one tenant, in some, or in all."""

from __future__ import annotations

import argparse
from typing import Any

from django.core.management import call_command, get_commands
from django.core.management.base import BaseCommand, CommandError, CommandParser

from pg_tenants import conf
from pg_tenants.context import ActiveContext, schema_context, tenant_context
from pg_tenants.management.tenants import find_tenant
from pg_tenants.migrations import required_registry
from pg_tenants.models import TenantStatus, tenant_model

FLEET = ("migrate", "migrate_schemas")
"""Commands that work on all schemas, whatever is active, and choose by options of their own."""


class Command(BaseCommand):
    """Run a command inside tenants."""

    help = (
        "Runs a command inside tenants: tenant_command --schema acme createsuperuser --username ada. "
        "Options of tenant_command itself come before the command."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the options."""
        which = parser.add_mutually_exclusive_group(required=True)
        which.add_argument(
            "--schema",
            action="append",
            metavar="NAME",
            help="In this tenant, or this fixed module's schema; repeatable.",
        )
        which.add_argument("--all", action="store_true", help="In all active tenants.")
        # One positional: of two, argparse would give a "--" behind the command's name to the first, and drop it.
        parser.add_argument(
            "arguments", nargs=argparse.PARSER, metavar="command", help="The command to run, and its arguments."
        )

    def run_from_argv(self, argv: list[str]) -> None:
        """Run from the command line; ``--traceback`` behind the command means this one too, which prints the error."""
        super().run_from_argv([*argv[:2], "--traceback", *argv[2:]] if "--traceback" in argv[2:] else argv)

    def handle(self, *args: Any, **options: Any) -> None:
        """Run the command; a tenant where it fails does not keep it from the others."""
        name, *own = options["arguments"]
        if name not in get_commands():
            raise CommandError(f"There is no command {name!r}. {conf.nearest(name, sorted(get_commands()))}")
        if name in FLEET:
            raise CommandError(f"{name!r} is not for a tenant's inside. Use 'manage.py {name} --schema NAME'.")
        contexts = self._contexts(options)
        arguments = [*_common(options), *own]
        failed: list[str] = []
        for schema, context in contexts.items():
            if options["verbosity"] and len(contexts) > 1:
                self.stdout.write(self.style.MIGRATE_HEADING(f"{schema}:"))
            try:
                with context:
                    # The streams themselves: this command's wrappers would end each piece of output with a newline.
                    call_command(name, *arguments, stdout=self.stdout._out, stderr=self.stderr._out)
            except (Exception, SystemExit) as exc:
                # With one tenant the command ends as it would by itself; one of several does not stop the others.
                if len(contexts) == 1:
                    raise
                if not isinstance(exc, SystemExit) or exc.code:
                    what = str(exc) if isinstance(exc, CommandError) else f"{type(exc).__name__}: {exc}"
                    failed.append(f"{schema}: {what}")
        if failed:
            raise CommandError(f"{name} failed in {len(failed)} of {len(contexts)} tenants.\n" + "\n".join(failed))

    def _contexts(self, options: dict[str, Any]) -> dict[str, ActiveContext]:
        if options["all"]:
            tenants = tenant_model()._default_manager.filter(status=TenantStatus.ACTIVE).order_by("schema_name")
            return {tenant.schema_name: tenant_context(tenant) for tenant in tenants}
        fixed = required_registry().fixed_schemas
        return {
            name: schema_context(name) if name in fixed else tenant_context(find_tenant(name))
            for name in options["schema"]
        }


def _common(options: dict[str, Any]) -> list[str]:
    """Return the options that all commands have, as they were given before the command; those after it count more."""
    flags = [f"--{name.replace('_', '-')}" for name in ("traceback", "no_color", "force_color") if options.get(name)]
    return [f"--verbosity={options['verbosity']}", *flags]
