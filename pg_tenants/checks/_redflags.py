"""Red flags: SQL that names its schema, or that changes what all schemas share, and a second pool.

Read are the SQL files of modules and the ``RunSQL`` and ``TenantSQL`` of the project's migrations; what Python code
sends is not. Of apps that are not the project's own, only what is sure to be wrong is told.
"""

from __future__ import annotations

import os
import re
import sys
import sysconfig
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from django.apps import apps
from django.core.checks import CheckMessage, Warning  # noqa: A004  # Django's own name
from django.db import DatabaseError, connections, router
from django.db.migrations import RunSQL, SeparateDatabaseAndState
from django.db.migrations.loader import MigrationLoader

from pg_tenants import conf
from pg_tenants.checks._common import options_of
from pg_tenants.checks._reading import Name, Statement, read
from pg_tenants.context import no_schema
from pg_tenants.exceptions import MigrationFailed, PgTenantsError
from pg_tenants.migrations import has_sql_files, sql_steps
from pg_tenants.modules import Module, Registry, registry
from pg_tenants.operations import TenantSQL
from pg_tenants.sqltemplates import homes_of_tables

__all__ = ["check_deployed_migrations", "check_migrations", "check_pools", "check_sql_files"]

FOLDER = "sql_migrations"
"""What an app's folder of SQL files may be called where no module names one."""
_SYSTEM = ("information_schema", "pg_catalog", "pg_toast", "pg_temp")


@dataclass(frozen=True, slots=True)
class _Source:
    """SQL of the project.

    Attributes:
        where: its name in messages.
        text: the SQL.
        module: a module in whose schemas it runs.
        has_templates: templates in it are rendered.
        is_foreign: it is of an app that is not the project's own.
    """

    where: str
    text: str
    module: Module
    has_templates: bool
    is_foreign: bool = False


def check_sql_files(app_configs: Sequence[Any] | None = None, **kwargs: Any) -> list[CheckMessage]:
    """Find SQL files that name schemas or change what all share, and folders of SQL files in no module."""
    modules = registry()
    if modules is None:
        return []
    return [*_flags(_files(modules), modules), *_unclaimed_folders(modules)]


def check_migrations(
    app_configs: Sequence[Any] | None = None, databases: Sequence[str] | None = None, **kwargs: Any
) -> list[CheckMessage]:
    """Find the same in migrations of apps, and SQL that names a tenant's schema.

    It imports all migrations and asks for tenants, so it runs where a database is named: before ``migrate`` and with
    ``check --database``.
    """
    modules = registry()
    if modules is None or not databases:
        return []
    sources = list(_operations(modules))
    return [*_flags(sources, modules), *_tenants_by_name([*_files(modules), *sources], modules)]


def check_deployed_migrations(
    app_configs: Sequence[Any] | None = None, databases: Sequence[str] | None = None, **kwargs: Any
) -> list[CheckMessage]:
    """Find it in migrations of apps with ``check --deploy`` as well, where no database is named."""
    modules = registry()
    return [] if modules is None or databases else list(_flags(_operations(modules), modules))


# -- what is read -----------------------------------------------------------------------------------------------------


def _files(modules: Registry) -> Iterator[_Source]:
    for module in modules:
        try:
            steps = sql_steps(module) if module.sql_migrations else []
        except MigrationFailed:
            continue  # E042 to E047 say why.
        for step in steps:
            for file in (step.up, step.down):
                if file is not None:
                    yield _Source(f"The file {file.path}", file.text, module, has_templates=True)


def _operations(modules: Registry) -> Iterator[_Source]:
    loader = MigrationLoader(None, load=False)
    loader.load_disk()
    for (label, name), migration in sorted(loader.disk_migrations.items()):
        homes = modules.of_app(label)
        for operation in _raw(migration.operations) if homes else ():
            where = f"The {type(operation).__name__} in the migration {label}.{name}"
            is_foreign = _is_library(sys.modules[type(migration).__module__].__file__ or "")
            for sql in (operation.sql, operation.reverse_sql):
                for module in homes:
                    templates = isinstance(operation, TenantSQL)
                    yield _Source(where, _text(sql), module, templates, is_foreign)


def _raw(operations: Iterable[Any]) -> Iterator[RunSQL]:
    for operation in operations:
        if isinstance(operation, RunSQL):
            yield operation
        elif isinstance(operation, SeparateDatabaseAndState):
            yield from _raw(operation.database_operations)


def _text(sql: Any) -> str:
    """Return what RunSQL was given, which may be a list of statements or of pairs with their parameters, as text."""
    if isinstance(sql, str):
        return sql
    entries = (entry[0] if isinstance(entry, (list, tuple)) and entry else entry for entry in sql or ())
    return ";\n".join(entry for entry in entries if isinstance(entry, str))


@cache
def _is_library(path: str) -> bool:
    """Return whether a file or folder is among the installed libraries of Python, not the project's own."""
    places = {Path(sysconfig.get_path(kind)).resolve() for kind in ("purelib", "platlib")}
    return any(Path(path).resolve().is_relative_to(place) for place in places)


# -- what is found ----------------------------------------------------------------------------------------------------


def _flags(sources: Iterable[_Source], modules: Registry) -> Iterator[CheckMessage]:
    told, suspect = set(), _suspect(modules)
    for source in sources:
        for found in read(source.text) if suspect.search(source.text) else ():
            message = _of_name(found, source, modules) if isinstance(found, Name) else _of_statement(found, source)
            # One text may run in several modules, and name a table on each line.
            if message is not None and (key := (message.id, source.where, _subject(found))) not in told:
                told.add(key)
                yield message


def _suspect(modules: Registry) -> re.Pattern[str]:
    """Return what text has in which anything can be found, so that most of it need not be read word by word."""
    schemas = "|".join(map(re.escape, modules.fixed_schemas))
    several = [table for table, homes in homes_of_tables(modules).items() if len(homes) > 1]
    statements = r"search_path|\bschema\b(?!\s*[.}])|\bextension\b"
    names = "".join(rf"|\b{re.escape(table)}\b" for table in several)
    return re.compile(rf'\b({schemas})"?\s*\.|{statements}{names}', re.IGNORECASE)


def _subject(found: Name | Statement) -> str:
    return f"{found.schema}.{found.table}" if isinstance(found, Name) else found.words.lower()


def _of_statement(found: Statement, source: _Source) -> CheckMessage | None:
    where, in_tenants = f"{source.where}, line {found.line},", not source.module.is_fixed
    if found.kind == "path":
        return Warning(
            f"{where} has {found.words!r}, which changes the search_path: what comes behind it runs in another schema.",
            hint=_theirs("Leave it out: the path is that of the schema that is migrated. ", source)
            + "Name another module's table as in {{tables.module.name}}, with TenantSQL.",
            id="pg_tenants.W102",
        )
    certain = found.kind == "schema" and not found.words.lower().endswith(" if")
    if not in_tenants or (source.is_foreign and not certain):
        return None
    if found.kind == "schema":
        return Warning(
            f"{where} has {found.words!r}, and it runs for each tenant of the module {source.module.name!r}: all of "
            "them would make, change or drop the same schema.",
            hint=_theirs(
                "Give the schema to a fixed module in PG_TENANTS['MODULES'], which makes it; tenants' schemas are made "
                "by create_tenant and dropped by delete_tenant.",
                source,
            ),
            id="pg_tenants.W104",
        )
    return Warning(
        f"{where} has {found.words!r}, and it runs for each tenant of the module {source.module.name!r}: an extension "
        "is there once for the whole database.",
        hint=f"Name it in PG_TENANTS['MODULES'][{source.module.name!r}]['extensions'], which installs it once.",
        id="pg_tenants.W105",
    )


def _of_name(found: Name, source: _Source, modules: Registry) -> CheckMessage | None:
    homes = tuple(m for m in homes_of_tables(modules).get(found.table, ()) if m.database == source.module.database)
    is_own = any(home == source.module or (home.schema and home.schema == source.module.schema) for home in homes)
    is_ambiguous = not is_own and len({home.schema or home.name for home in homes}) > 1
    where = f"{source.where}, line {found.line},"
    if found.schema is None:
        if not is_ambiguous or found.in_body or source.is_foreign:
            return None
        names = ", ".join(repr(home.name) for home in homes)
        return Warning(
            f"{where} names the table {found.table!r}, which several modules have: {names}. Which one it reaches is "
            "left to the search_path.",
            hint=_with_templates(
                " or ".join(f"{{{{tables.{home.name}.{found.table}}}}}" for home in homes if home.is_fixed), source
            ),
            id="pg_tenants.W103",
        )
    fixed = [module for module in modules.of_schema(found.schema) if module.database == source.module.database]
    if source.module.is_fixed or not fixed or (source.is_foreign and not is_own):
        return None
    # What extensions have made is there under the same name; and a body has no other way to say which one is meant.
    if (found.schema == modules.extensions_schema and not homes) or (found.in_body and is_ambiguous):
        return None
    name = f"{found.schema}.{found.table}"
    kept = found.table if is_own else f"{fixed[0].name}.{found.table}"
    return Warning(
        f"{where} names {name!r} with its schema, and it runs for each tenant of the module {source.module.name!r}: "
        + (
            "it reaches the shared table instead of the tenant's."
            if is_own
            else "it breaks where the schema is called otherwise, as in test runs."
        ),
        hint="Write the bare name: it is looked up on the path of whoever calls the function."
        if found.in_body
        else _with_templates(f"{{{{tables.{kept}}}}}", source),
        id="pg_tenants.W100",
    )


def _with_templates(template: str, source: _Source) -> str:
    if source.has_templates:
        return f"Write {template}."
    return _theirs(f"Use pg_tenants.operations.TenantSQL instead of RunSQL, and write {template}.", source)


def _theirs(hint: str, source: _Source) -> str:
    if not source.is_foreign:
        return hint
    return "Replace the app's migrations by your own in MIGRATION_MODULES, or leave it out of tenant modules. "


def _tenants_by_name(sources: Iterable[_Source], modules: Registry) -> Iterator[CheckMessage]:
    """Find the schemas of tenants, as the table of tenants has them now."""
    named: dict[tuple[str, str], int] = {}
    for source in sources:
        for found in read(source.text):
            if isinstance(found, Name) and found.schema and found.schema not in (*_SYSTEM, *modules.fixed_schemas):
                named.setdefault((source.where, found.schema), found.line)
    tenants = _existing({schema for _, schema in named}) if named else set()
    for (where, schema), line in named.items():
        if schema in tenants:
            yield Warning(
                f"{where}, line {line}, names the schema {schema!r}, which is a tenant's: wherever else it runs, it "
                "reaches that tenant's rows.",
                hint="Write {{tables.name}}, in an SQL file or a TenantSQL: the table of the tenant that it runs for.",
                id="pg_tenants.W101",
            )


def _existing(names: set[str]) -> set[str]:
    try:
        model = apps.get_model(conf.require().tenant_model)
        with no_schema():
            rows = model._base_manager.using(router.db_for_read(model)).filter(schema_name__in=names)
            return set(rows.values_list("schema_name", flat=True))
    except (LookupError, ValueError, DatabaseError, PgTenantsError):
        return set()  # E007 or E020 says why, or the table is not made yet.


def _unclaimed_folders(modules: Registry) -> Iterator[CheckMessage]:
    """Find folders that look like a module's folder of SQL files: beside those of two modules, or in an app."""
    claimed = {module.sql_migrations.resolve() for module in modules if module.sql_migrations}
    called = {FOLDER, *(path.name for path in claimed)}
    own = (config for config in apps.get_app_configs() if not _is_library(config.path))
    candidates = {Path(config.path).resolve() / name: None for config in own for name in sorted(called)}
    for parent, count in Counter(path.parent for path in claimed).items():
        if count > 1 and parent.is_dir():
            candidates.update(dict.fromkeys(sorted(parent.iterdir())))
    for folder in candidates:
        if folder not in claimed and has_sql_files(folder):
            yield Warning(
                f"The folder {folder} has SQL files and is in no module, so nothing runs them.",
                hint=f"Name it in PG_TENANTS['MODULES'][…]['sql_migrations'] of {_names(modules)}, or remove it.",
                id="pg_tenants.W106",
            )


def _names(modules: Registry) -> str:
    return " or ".join(repr(module.name) for module in modules)


def check_pools(app_configs: Sequence[Any] | None = None, **kwargs: Any) -> list[CheckMessage]:
    """Find pools that take each other's connections: of two aliases for everything on one database."""
    by_place: dict[tuple[str, ...], list[str]] = {}
    for alias in connections.settings:
        options = options_of(alias)
        if options is None or options.readonly or options.schema is not None:
            continue
        if connections.settings[alias]["OPTIONS"].get("pool"):
            by_place.setdefault(_place_of(alias, options), []).append(alias)
    return [
        Warning(
            f"DATABASES[{first!r}] and DATABASES[{alias!r}] have a pool of connections each, on the same database.",
            hint="Use one of them for all schemas. A second one is of use where it is read-only, or bound to one "
            "schema.",
            id="pg_tenants.W107",
        )
        for first, *others in by_place.values()
        for alias in others
    ]


def _place_of(alias: str, options: conf.AliasOptions) -> tuple[str, ...]:
    """Return the server and the database of an alias, the same for what means the same."""
    entry = connections.settings[alias]
    service = str(entry["OPTIONS"].get("service") or "")
    if options.pgserver:
        return "pgserver", str(entry["NAME"])
    host = str(entry["HOST"] or os.environ.get("PGHOST") or "").lower().rstrip(".")
    here = "localhost" if host in ("127.0.0.1", "::1") else host
    return service, here, str(entry["PORT"] or os.environ.get("PGPORT") or 5432), str(entry["NAME"])
