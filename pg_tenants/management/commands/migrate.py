"""``migrate``: every module in every schema where our backend is used, Django's own command elsewhere."""

from __future__ import annotations

import json
import sys
from typing import Any

from django.core.management.base import CommandError, CommandParser, no_translations
from django.core.management.commands.migrate import Command as DjangoCommand
from django.db import connections

from pg_tenants import migrations
from pg_tenants.backends.base import TenantDatabaseWrapperMixin
from pg_tenants.exceptions import PgTenantsError
from pg_tenants.migrations import Event, Report

SHOWN = 10
"""How many failed schemas the summary shows in full."""


class Command(DjangoCommand):
    """Migrate fixed modules' schemas, then tenants'."""

    help = "Brings the schemas of all modules and tenants up to date, or to a given migration."

    def add_arguments(self, parser: CommandParser) -> None:
        """Add Django's options and ours."""
        super().add_arguments(parser)
        group = parser.add_argument_group("schemas")
        group.add_argument("--schema", action="append", default=[], metavar="NAME", help="Only this one; repeatable.")
        group.add_argument(
            "--module", action="append", default=[], metavar="NAME", help="Only schemas of this module; repeatable."
        )
        group.add_argument(
            "--exclude", action="append", default=[], metavar="PATTERN", help="Not schemas that match; repeatable."
        )
        group.add_argument("--list", action="store_true", help="List the schemas and how many migrations each lacks.")
        group.add_argument("--jobs", type=_count, default=1, metavar="N", help="Migrate N tenants at the same time.")
        group.add_argument(
            "--canary",
            type=_count,
            default=0,
            metavar="N",
            help="Migrate N tenants first, the others if these succeed.",
        )
        group.add_argument("--json", action="store_true", help="Print the result as JSON.")

    @no_translations
    def handle(self, *args: Any, **options: Any) -> None:
        """Migrate, or show what would be."""
        alias = options["database"]
        connection = connections[alias]
        if not isinstance(connection, TenantDatabaseWrapperMixin) or not connection.is_tenant_aware:
            self.migrate_elsewhere(alias, *args, **options)
            return
        if options["prune"]:
            raise CommandError("--prune is not supported for schemas. Delete the rows of django_migrations in SQL.")
        if not options["skip_checks"]:
            self.check(databases=[alias])
        self.verbosity = options["verbosity"]
        self.quiet = options["json"]
        shows = options["plan"] or options["check_unapplied"] or options["list"]
        try:
            report = migrations.apply(
                self._options(options, plan=shows),
                using=alias,
                names=options["schema"],
                modules=options["module"],
                exclude=options["exclude"],
                progress=None if shows or self.quiet or not self.verbosity else self._progress,
            )
        except PgTenantsError as exc:
            raise CommandError(str(exc)) from exc
        if self.quiet:
            self.stdout.write(json.dumps(report.as_dict(), indent=2))
        elif shows:
            self._show(report, options)
        else:
            self._summarise(report)
        if report.failed:
            raise CommandError(self._failures(report), returncode=1)
        if options["check_unapplied"] and report.changed:
            sys.exit(1)

    def migrate_elsewhere(self, alias: str, *args: Any, **options: Any) -> None:
        """Run Django's command on an alias that has one schema."""
        super().handle(*args, **options)

    def _options(self, options: dict[str, Any], *, plan: bool) -> migrations.Options:
        if options["migration_name"] and not options["app_label"]:
            raise CommandError("Give an app label with a migration's name.")
        return migrations.Options(
            app_label=options["app_label"],
            migration_name=options["migration_name"],
            fake=options["fake"],
            fake_initial=options["fake_initial"],
            plan=plan,
            run_syncdb=options["run_syncdb"],
            verbosity=max(0, self.verbosity - 1),
            interactive=options["interactive"],
            stdout=self.stdout,  # type: ignore[arg-type]
            jobs=options["jobs"],
            canary=options["canary"],
        )

    def _progress(self, event: Event) -> None:
        if event.target is None:
            return
        name = event.target.schema
        if event.kind == "migration":
            self.stdout.write(f"  {name}: {event.detail}")
        elif event.kind == "failed":
            self.stderr.write(self.style.ERROR(f"  {name}: failed: {event.detail}"))
        elif event.kind == "done" and self.verbosity > 1:
            self.stdout.write(f"  {name}: up to date")

    def _show(self, report: Report, options: dict[str, Any]) -> None:
        if options["list"]:
            first = max((len(result.schema) for result in report.results), default=0)
            second = max((len(result.module) for result in report.results), default=0)
            for result in report.results:
                state = f"{len(result.applied)} pending" if result.applied else "up to date"
                self.stdout.write(f"{result.schema:<{first}}  {result.module:<{second}}  {state}")
            return
        for result in report.changed:
            self.stdout.write(self.style.MIGRATE_LABEL(f"{result.schema} ({result.module})"))
            for name in result.applied:
                self.stdout.write(f"  {name}")
        if not report.changed:
            self.stdout.write(f"No migration is pending in {_schemas(len(report.results))}.")

    def _summarise(self, report: Report) -> None:
        if self.verbosity:
            done = len([result for result in report.changed if result.error is None])
            same = len(report.results) - done - len(report.failed)
            text = f"{_schemas(len(report.results))}: {done} migrated, {same} up to date"
            failed = len(report.failed)
            self.stdout.write(
                self.style.SUCCESS(text) if not failed else self.style.WARNING(f"{text}, {failed} failed")
            )

    def _failures(self, report: Report) -> str:
        lines = [
            f"{result.schema}: {type(result.error).__name__}: {str(result.error).strip()}"
            for result in report.failed[:SHOWN]
        ]
        if len(report.failed) > SHOWN:
            lines.append(f"… and {len(report.failed) - SHOWN} more")
        return (
            f"{_schemas(len(report.failed))} failed and stayed as before the failing migration; the others are done. "
            "Run the command again when the cause is gone.\n" + "\n".join(lines)
        )


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def _schemas(count: int) -> str:
    return f"{count} schema{'s' * (count != 1)}"
