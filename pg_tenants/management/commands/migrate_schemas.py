"""``migrate_schemas``: bring the schemas of all modules and tenants up to date."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandError

from pg_tenants.management.commands.migrate import Command as MigrateCommand


class Command(MigrateCommand):
    """The same as ``migrate``, but it refuses an alias that has no tenants."""

    def migrate_elsewhere(self, alias: str, *args: Any, **options: Any) -> None:
        """Refuse.

        Raises:
            CommandError: always.
        """
        raise CommandError(
            f"DATABASES[{alias!r}] has no schemas to choose from: it has another ENGINE, is bound to one schema, or "
            "PG_TENANTS is missing. Use 'migrate' for it."
        )
