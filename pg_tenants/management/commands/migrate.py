"""``migrate``: every module in every schema where our backend is used, Django's own command elsewhere."""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import Any

from django.core.checks import Tags
from django.core.management.base import CommandError, CommandParser, no_translations
from django.core.management.commands.migrate import Command as DjangoCommand
from django.db import DEFAULT_DB_ALIAS, DatabaseError, connections

from pg_tenants import conf, migrations
from pg_tenants.createdb import create_database, database_exists
from pg_tenants.exceptions import PgTenantsError
from pg_tenants.management.progress import Watch, honour_no_color, watch
from pg_tenants.management.refusals import is_tenant_aware
from pg_tenants.migrations import Choice, Preview, Report, Structures
from pg_tenants.modules import registry
from pg_tenants.provisioning import ready, template
from pg_tenants.schemas import tenant_connection

SHOWN = 10
"""How many failed schemas the summary shows in full."""

NAMED = 3
"""How many schemas of the same script a dry run names."""

INTERRUPTED = 130
"""The exit status of a program that was ended by Ctrl-C."""

NOT_WITH_VERIFY = (
    "app_label",
    "migration_name",
    "back",
    "check_unapplied",
    "dry_run",
    "fake",
    "fake_initial",
    "list",
    "plan",
    "prune",
    "run_syncdb",
)


class Command(DjangoCommand):
    """Migrate fixed modules' schemas, then tenants'."""

    help = "Brings the schemas of all modules and tenants up to date, or to a given migration."

    def add_arguments(self, parser: CommandParser) -> None:
        """Add Django's options and ours."""
        super().add_arguments(parser)
        parser.set_defaults(database=None)
        for action in parser._actions:
            if action.dest == "database":
                action.help = "Only the schemas on this alias; those on each alias that modules live on if not given."
            if action.dest == "plan":
                action.help = "Show which migrations would run in which schema, and end. See also --dry-run."
            elif action.dest == "prune":
                action.help = "Delete from each schema's record the app's migrations that have no file any more."
        group = parser.add_argument_group("schemas")
        group.add_argument("--schema", action="append", default=[], metavar="NAME", help="Only this one; repeatable.")
        group.add_argument(
            "--module", action="append", default=[], metavar="NAME", help="Only schemas of this module; repeatable."
        )
        group.add_argument(
            "--exclude", action="append", default=[], metavar="PATTERN", help="Not schemas that match; repeatable."
        )
        group.add_argument("--list", action="store_true", help="List the schemas and how many migrations each lacks.")
        group.add_argument(
            "--back",
            type=_count,
            default=0,
            metavar="N",
            help="Unapply the last N migrations of each schema, or of the app there, instead of applying any.",
        )
        group.add_argument(
            "--dry-run",
            action="store_true",
            help="Change nothing, and show all that would be made: as --plan, with extensions, schemas and the SQL.",
        )
        group.add_argument(
            "--verify",
            action="store_true",
            help="Migrate nothing; compare each schema's structure with what its migrations make, and exit with 1 if "
            "any differs.",
        )
        group.add_argument("--jobs", type=_count, default=1, metavar="N", help="Migrate N tenants at the same time.")
        group.add_argument(
            "--canary",
            type=_count,
            default=0,
            metavar="N",
            help="Migrate N tenants first, the others if these succeed.",
        )
        group.add_argument(
            "--create-db", action="store_true", help="First create the alias's database if the server has none."
        )
        group.add_argument(
            "--json",
            action="store_true",
            help="Print the result as one JSON document on stdout, and events as lines of JSON on stderr.",
        )

    def get_check_kwargs(self, options: dict[str, Any]) -> Any:
        """Leave the databases out of what is checked at first: each is when its turn comes, and may be made before."""
        return {}

    @no_translations
    def handle(self, *args: Any, **options: Any) -> None:
        """Migrate, or show what would be."""
        honour_no_color(self, force_color=options["force_color"])
        self.verbosity, self.quiet = options["verbosity"], options["json"]
        self._documents: list[tuple[str, dict[str, Any]]] = []
        self._is_pending = False
        given = options["database"]
        aliases = [given] if given is not None else self.databases()
        ours = [alias for alias in aliases if is_tenant_aware(alias)]
        for alias in aliases:
            if alias not in ours:
                self._check_database(alias, options)
                self.migrate_elsewhere(alias, *args, **{**options, "database": alias})
        if not ours:
            return
        self._refuse_contradictions(options)
        try:
            self._migrate_each(ours, options)
        finally:
            if self._documents:
                self.stdout.write(json.dumps(_merged(self._documents), indent=2))
        if self._is_pending:
            sys.exit(1)

    def databases(self) -> list[str]:
        """Return the aliases to migrate where none is given: those that modules live on, and Django's default."""
        modules = registry()
        owners = list(modules.databases) if modules else []
        default = connections.settings[DEFAULT_DB_ALIAS]["ENGINE"]
        other = default != conf.NO_ENGINE and not is_tenant_aware(DEFAULT_DB_ALIAS)
        return list(dict.fromkeys([*([DEFAULT_DB_ALIAS] if other or not owners else []), *owners]))

    def _migrate_each(self, aliases: list[str], options: dict[str, Any]) -> None:
        """Migrate database after database; one that fails keeps none of the others."""
        asked: Choice = {"names": options["schema"], "modules": options["module"], "exclude": options["exclude"]}
        chosen = {aliases[0]: asked}
        if len(aliases) > 1:
            found = migrations.choices(**asked, app_label=options["app_label"])
            chosen = {alias: choice for alias, choice in found.items() if alias in aliases}
        failed = []
        for self.alias, choice in chosen.items():
            if len(chosen) > 1 and self.verbosity and not self.quiet:
                self.stdout.write(self.style.MIGRATE_HEADING(f"Database {self.alias!r}:"))
            try:
                self._migrate_database(choice, options)
            except (PgTenantsError, DatabaseError, CommandError) as exc:
                if len(chosen) == 1 or getattr(exc, "returncode", 1) == INTERRUPTED:
                    raise
                failed.append(f"Database {self.alias!r}: {exc}")
        if failed:
            raise CommandError("\n".join(failed), returncode=1)

    def _migrate_database(self, choice: Choice, options: dict[str, Any]) -> None:
        wanted = options["create_db"] or tenant_connection(self.alias).tenant_options.create_db
        if wanted and not self._create_database(dry=_changes_nothing(options)):
            self._is_pending = self._is_pending or options["check_unapplied"]
            return
        self._check_database(self.alias, options)
        if options["dry_run"] and not options["prune"]:
            self._show_preview(migrations.preview(self._options(options, plan=True), using=self.alias, **choice))
            return
        seen = watch(self, verbosity=self.verbosity, machine=self.quiet, faked=options["fake"])
        self._tell_of_choice(choice, seen)
        try:
            if options["verify"]:
                found = migrations.verify(using=self.alias, progress=seen, define=template.define, **choice)
                self._end_verify(found, seen)
            else:
                self._migrate(options, choice, seen)
        except KeyboardInterrupt as exc:
            self._interrupted(seen, exc)
        finally:
            seen.close()

    def _check_database(self, alias: str, options: dict[str, Any]) -> None:
        if not options["skip_checks"]:
            self.check(tags=[Tags.database], databases=[alias])

    def _refresh_templates(self, seen: Watch) -> None:
        """Make what new tenants' schemas come from, where these migrations have made it stale."""
        try:
            made = template.refresh(using=self.alias, tell=self._tell_of_template)
            ready.prepare(using=self.alias)
        except (PgTenantsError, DatabaseError) as exc:
            seen.note(f"Templates or ready schemas were not made: {exc}")
            return
        for each in made:
            if isinstance(each, template.Refused):
                seen.note(
                    f"The module {each.key!r} has no template, so its schemas are made by running all migrations: "
                    f"{each.reason}."
                )

    def _tell_of_template(self, module: str) -> None:
        if self.verbosity > 1 and not self.quiet:
            self.stdout.write(f"Making the template of the module {module!r}.")

    def migrate_elsewhere(self, alias: str, *args: Any, **options: Any) -> None:
        """Run Django's command on an alias that has one schema."""
        super().handle(*args, **options)

    # -- what is asked for --------------------------------------------------------------------------------------------

    def _refuse_contradictions(self, options: dict[str, Any]) -> None:
        if options["migration_name"] and not options["app_label"]:
            raise CommandError("Give an app label with a migration's name.")
        if options["prune"] and not options["app_label"]:
            raise CommandError("Give an app label with --prune: only an app's migrations are pruned.")
        if options["back"] and options["migration_name"]:
            raise CommandError("Give --back, or the migration to go back to, not both.")
        if options["verify"] and (wrong := [name for name in NOT_WITH_VERIFY if options[name]]):
            flag = {"check_unapplied": "check"}.get(wrong[0], wrong[0]).replace("_", "-")
            raise CommandError(f"--verify compares whole schemas and migrates nothing; it does not go with {flag!r}.")

    def _options(self, options: dict[str, Any], *, plan: bool) -> migrations.Options:
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
            back=options["back"],
            jobs=options["jobs"],
            canary=options["canary"],
        )

    def _create_database(self, *, dry: bool) -> bool:
        """Create the database, and return whether there is one to go on with."""
        name = connections[self.alias].settings_dict["NAME"]
        if dry:
            if there := database_exists(self.alias):
                return there
            document = {"databases_to_create": [name], "schemas": [], "failed": 0}
            self._write(document, f"It would create the database {name!r}, and run all migrations in it.")
            return False
        if create_database(self.alias) and self.verbosity and not self.quiet:
            self.stdout.write(f"Created the database {name!r}.")
        return True

    def _tell_of_choice(self, choice: Choice, seen: Watch) -> None:
        for pattern in migrations.unmatched(self.alias, choice["exclude"]):
            seen.note(f"The pattern {pattern!r} of --exclude matches no schema.")
        if self.verbosity > 1 and not self.quiet and (waiting := migrations.waiting_tenants()):
            names = ", ".join(f"{name} ({status})" for name, status in waiting.items())
            self.stdout.write(f"  left out, because their schemas are still to be made: {names}")

    # -- migrating ----------------------------------------------------------------------------------------------------

    def _migrate(self, options: dict[str, Any], choice: Choice, seen: Watch) -> None:
        shows = options["plan"] or options["check_unapplied"] or options["list"] or options["dry_run"]
        progress = None if shows else seen
        if options["prune"]:
            report = migrations.prune(options["app_label"], using=self.alias, plan=shows, progress=progress, **choice)
        else:
            report = migrations.apply(self._options(options, plan=shows), using=self.alias, progress=progress, **choice)
        chosen = ("app_label", "schema", "module", "exclude", "fake", "back", "prune")
        if not (shows or report.failed or any(options[key] for key in chosen)):
            self._refresh_templates(seen)
        seen.close()
        if self.quiet:
            self._write(report.as_dict())
        elif shows:
            self._show(report, options)
        else:
            self._summarise(report, "pruned" if options["prune"] else "migrated", time.monotonic() - seen.started)
        if report.failed:
            raise CommandError(self._failures(report, only_shown=shows), returncode=1)
        if options["check_unapplied"] and report.changed:
            self._is_pending = True

    def _show(self, report: Report, options: dict[str, Any]) -> None:
        if options["list"]:
            first = max((len(result.schema) for result in report.results), default=0)
            second = max((len(result.module) for result in report.results), default=0)
            for result in report.results:
                state = f"{len(result.applied)} pending" if result.applied else "up to date"
                self.stdout.write(f"{result.schema:<{first}}  {result.module:<{second}}  {state}")
            behind = len(report.changed)
            same = len(report.results) - behind - len(report.failed)
            self.stdout.write(f"{_schemas(len(report.results))}: {behind} with migrations pending, {same} up to date")
            return
        for result in report.changed:
            self.stdout.write(self.style.MIGRATE_LABEL(f"{result.schema} ({result.module})"))
            for name in result.applied:
                self.stdout.write(f"  {name}")
        if not report.changed:
            self.stdout.write(f"No migration is pending in {_schemas(len(report.results))}.")

    def _summarise(self, report: Report, verb: str, seconds: float) -> None:
        if self.verbosity:
            done = len([result for result in report.changed if result.error is None])
            same = len(report.results) - done - len(report.failed)
            text = f"{_schemas(len(report.results))}: {done} {verb}, {same} up to date"
            if report.roles:
                self.stdout.write(f"{_schemas(len(report.roles))} got a role, or what the role lacked.")
            failed = f", {len(report.failed)} failed" if report.failed else ""
            failed += f", {len(report.held_back)} not touched" if report.held_back else ""
            style = self.style.WARNING if report.failed else self.style.SUCCESS
            self.stdout.write(style(f"{text}{failed}") + f" ({seconds:.1f} s)")

    def _failures(self, report: Report, *, only_shown: bool) -> str:
        failed = _schemas(len(report.failed))
        if only_shown:
            return f"{failed} cannot be migrated.\n{_errors(report.failed)}"
        rest = {
            "": "The others are done.",
            "canary": f"They are canaries, so the other {_schemas(len(report.held_back))} were not touched.",
            "fixed module": "They are of fixed modules, which tenants' tables may refer to, so no tenant was touched.",
        }[report.stopped_by]
        return (
            f"{failed} failed and stayed as before the failing migration, if that is atomic. {rest} Run the command "
            f"again when the cause is gone.\n{_errors(report.failed)}"
        )

    def _interrupted(self, seen: Watch, exc: KeyboardInterrupt) -> None:
        seen.close()
        if self.quiet:
            keys = {"changed": seen.changed, "failed": seen.failed, "interrupted": True}
            self._write({"schemas": seen.ended, **keys})
        where = ", ".join(seen.running)
        begun = f" What ran in {where} was broken off, and rolled back if it is atomic." if where else ""
        raise CommandError(
            f"Interrupted: {seen.far} are done, {seen.changed} of them changed.{begun} Run the command again for the "
            "others.",
            returncode=INTERRUPTED,
        ) from exc

    # -- dry run ------------------------------------------------------------------------------------------------------

    def _show_preview(self, preview: Preview) -> None:
        report = preview.report
        if self.quiet:
            self._write(preview.as_dict())
        elif self.verbosity:
            for kind, names in (("install the extension", preview.extensions), ("make the schema", preview.schemas)):
                for name in names:
                    self.stdout.write(f"It would {kind} {name}.")
            for script in preview.scripts:
                more = f" and {len(script.schemas) - NAMED} more" if len(script.schemas) > NAMED else ""
                label = f"{', '.join(script.schemas[:NAMED])}{more} ({script.module})"
                self.stdout.write(self.style.MIGRATE_LABEL(label))
                for line in script.sql:
                    self.stdout.write(f"  {line}")
            changed = len(report.changed)
            self.stdout.write(
                f"{_schemas(len(report.results))}: {changed} would be migrated, "
                f"{len(report.results) - changed - len(report.failed)} up to date. Nothing was changed."
            )
        if report.failed:
            raise CommandError(f"{_schemas(len(report.failed))} cannot be migrated.\n{_errors(report.failed)}")

    # -- verify -------------------------------------------------------------------------------------------------------

    def _end_verify(self, structures: Structures, seen: Watch) -> None:
        seen.close()
        if self.quiet:
            self._write(structures.as_dict())
        elif self.verbosity:
            self._show_structures(structures)
        if structures.failed:
            raise CommandError(
                f"{_schemas(len(structures.failed))} could not be compared.\n{_errors(structures.failed)}", returncode=1
            )
        if structures.different:
            raise CommandError(
                f"{_schemas(len(structures.different))} of {len(structures.results)} differ from what their migrations "
                "make.",
                returncode=1,
            )

    def _show_structures(self, structures: Structures) -> None:
        for result in structures.results:
            if result.differences:
                self.stdout.write(self.style.MIGRATE_LABEL(f"{result.schema} ({result.module})"))
            for difference in result.differences:
                self.stdout.write(f"  {difference.change}: {difference}")
        behind = [result for result in structures.results if result.pending]
        if behind:
            names = ", ".join(f"{result.schema} ({len(result.pending)})" for result in behind[:SHOWN])
            more = f" and {len(behind) - SHOWN} more" if len(behind) > SHOWN else ""
            self.stdout.write(
                f"Compared with the state that they have recorded, as migrations are pending: {names}{more}"
            )
        same = len(structures.results) - len(structures.different) - len(structures.failed)
        self.stdout.write(f"{_schemas(len(structures.results))}: {same} as their migrations make them")

    def _write(self, document: dict[str, Any], text: str = "") -> None:
        if self.quiet:
            self._documents.append((self.alias, document))
        else:
            self.stdout.write(text)


def _changes_nothing(options: dict[str, Any]) -> bool:
    return any(options[name] for name in ("plan", "check_unapplied", "list", "dry_run", "verify"))


def _merged(documents: list[tuple[str, dict[str, Any]]]) -> dict[str, Any]:
    """Return one document of those of several databases: lists one after the other, numbers added."""
    found: dict[str, Any] = {}
    for alias, document in documents:
        for key, value in document.items():
            if isinstance(value, list):
                entries = [{"database": alias, **each} if isinstance(each, dict) else each for each in value]
                found.setdefault(key, []).extend(entries)
            else:
                found[key] = found.get(key, 0) + value if type(value) is int else value
    return found


def _count(text: str) -> int:
    if not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number; give 1 or more")
    return int(text)


def _errors(failed: Any) -> str:
    lines = [
        f"{result.schema}: {type(result.error).__name__}: {str(result.error).strip()}" for result in failed[:SHOWN]
    ]
    return "\n".join([*lines, *([f"… and {len(failed) - SHOWN} more"] if len(failed) > SHOWN else [])])


def _schemas(count: int) -> str:
    return f"{count} schema{'s' * (count != 1)}"
