"""``tenant_roles``: the PostgreSQL roles of tenants' schemas."""

from __future__ import annotations

import json
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DEFAULT_DB_ALIAS

from pg_tenants import roles
from pg_tenants.exceptions import PgTenantsError
from pg_tenants.migrations import tenant_targets
from pg_tenants.schemas import tenant_connection


class Command(BaseCommand):
    """Show the roles, or bring them in line with the setting."""

    help = "Shows the roles of tenants' schemas and what they lack; with --sync, makes and removes them."

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the options."""
        parser.add_argument(
            "--sync",
            action="store_true",
            help="Bring the roles in line with PG_TENANTS['ROLES']: make what is missing, remove what nothing needs.",
        )
        parser.add_argument("--json", action="store_true", help="Print JSON.")
        parser.add_argument("--database", default=DEFAULT_DB_ALIAS, help="The alias whose tenants are meant.")

    def handle(self, *args: Any, **options: Any) -> None:
        """Show or change."""
        using = options["database"]
        connection = tenant_connection(using)
        names = {
            connection.physical_schema(target.schema): target.schema
            for target in tenant_targets(using)
            if not target.problem
        }
        if options["sync"]:
            self._sync(list(names.values()), using, options)
        found = [
            {"schema": names[state.schema], "role": state.role, "lacking": list(state.lacking)}
            for state in roles.states(list(names.values()), using=using)
        ]
        unneeded = roles.leftovers(using=using)
        if options["json"]:
            report = {"in_use": connection.uses_roles, "schemas": found, "unneeded": unneeded}
            self.stdout.write(json.dumps(report, indent=2))
            return
        if connection.uses_roles:
            for row in found:
                self.stdout.write(f"{row['schema']}  {row['role']}  {', '.join(row['lacking']) or 'complete'}")
        for role in unneeded:
            self.stdout.write(f"-  {role}  not needed")
        if not connection.uses_roles and not unneeded:
            self.stdout.write("There are no roles: PG_TENANTS['ROLES'] is off.")

    def _sync(self, schemas: list[str], using: str, options: dict[str, Any]) -> None:
        failed = []
        made = removed = 0
        unneeded = roles.leftovers(using=using)
        try:
            roles.ensure_shared(using=using)
        except PgTenantsError as exc:
            raise CommandError(str(exc)) from exc
        for schema in schemas:
            try:
                made += roles.ensure(schema, using=using)
            except PgTenantsError as exc:
                failed.append(f"{schema}: {exc}")
        for role in unneeded:
            try:
                roles.remove(role, using=using)
                removed += 1
            except PgTenantsError as exc:
                failed.append(f"{role}: {exc}")
        if options["verbosity"] and not options["json"]:
            self.stdout.write(self.style.SUCCESS(f"Roles: {made} made or completed, {removed} removed."))
        if failed:
            raise CommandError("\n".join(failed))
