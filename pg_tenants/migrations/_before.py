"""What is made sure of before a run changes anything."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any, TypeVar, cast

from django.apps import apps
from django.contrib.postgres.operations import NotInTransactionMixin
from django.db import DEFAULT_DB_ALIAS
from django.db.migrations.migration import Migration
from django.db.migrations.operations import CreateModel, RunSQL

from pg_tenants import conf
from pg_tenants.exceptions import ConfigurationError, MigrationFailed
from pg_tenants.migrations._direct import direct
from pg_tenants.migrations._events import Progress
from pg_tenants.migrations._executor import ModuleLoader
from pg_tenants.migrations._plan import DEFAULTS, Options
from pg_tenants.migrations._report import Report
from pg_tenants.migrations._targets import check_choice, tenant_targets
from pg_tenants.schemas import tenant_connection
from pg_tenants.sqltext import split

__all__ = ["made_sure"]

F = TypeVar("F", bound=Callable[..., Report])

_SHOWN = 5
_ALONE = frozenset({b"vacuum", b"reindex", b"cluster"})


def made_sure(apply: F) -> F:
    """Wrap ``apply``: refuse what cannot end well before anything is changed, and take the direct way to the server."""

    @functools.wraps(apply)
    def run(
        options: Options = DEFAULTS,
        *,
        using: str = DEFAULT_DB_ALIAS,
        names: Iterable[str] = (),
        modules: Iterable[str] = (),
        exclude: Iterable[str] = (),
        progress: Progress | None = None,
    ) -> Report:
        choice = {"names": list(names), "modules": list(modules), "exclude": list(exclude)}
        check_choice(using, **choice, app_label=options.app_label)
        if options.back < 0 or (options.back and options.migration_name):
            raise ConfigurationError(
                f"back is {options.back}, with the migration {options.migration_name!r}. Give how many migrations are "
                "to be unapplied, 1 or more, or the one to go back to, not both."
            )
        if options.plan:
            return apply(options, using=using, **choice, progress=progress)
        with direct(using) as has_direct_alias:
            pooled = not has_direct_alias and not options.fake and tenant_connection(using).is_pooled()
            backwards = bool(options.back or options.migration_name)
            if pooled or backwards:
                planned = _Planned(apply(replace(options, plan=True), using=using, **choice))
                if not options.fake:
                    planned.refuse_irreversible()
                    planned.refuse_to_drop_tenants(using)
                if pooled:
                    planned.refuse_unpoolable(using)
            return apply(options, using=using, **choice, progress=progress)

    return cast(F, run)


class _Planned:
    """The migrations that a run would run, and in which schemas."""

    def __init__(self, report: Report):
        loader = ModuleLoader(None, ())
        self.steps: dict[str, tuple[Migration, bool, list[str]]] = {}
        for result in report.results:
            for name in result.applied:
                label, _, own = name.removeprefix("-").partition(".")
                migration = loader.disk_migrations.get((label, own)) or loader.graph.nodes.get((label, own))
                if migration is not None:
                    self.steps.setdefault(name, (migration, name.startswith("-"), []))[2].append(result.schema)

    def refuse_irreversible(self) -> None:
        """Refuse to go back over an operation that cannot be reversed.

        Raises:
            MigrationFailed: there is one.
        """
        for name, (migration, backwards, schemas) in self.steps.items():
            for operation in migration.operations if backwards else ():
                if not operation.reversible:
                    raise MigrationFailed(
                        f"The migration {name[1:]} cannot be unapplied: its operation {operation.describe()!r} is "
                        f"irreversible. It is applied in {_some(schemas)}. Nothing was changed. Give the operation a "
                        "way back, or take back the record alone with --fake."
                    )

    def refuse_to_drop_tenants(self, using: str) -> None:
        """Refuse to go back over the migration that made the tenants' table, while there are tenants.

        Raises:
            MigrationFailed: it would part them from their schemas.
        """
        model = apps.get_model(conf.require().tenant_model)._meta
        for name, (migration, backwards, _) in self.steps.items():
            made = [op.name_lower for op in migration.operations if isinstance(op, CreateModel)]
            if not backwards or migration.app_label != model.app_label or model.model_name not in made:
                continue
            if tenants := [target.schema for target in tenant_targets(using)]:
                raise MigrationFailed(
                    f"Unapplying {name[1:]} would drop the table of the tenants and part {_some(tenants)} from their "
                    "rows. Nothing was changed. Delete the tenants first, or choose other schemas with --module or "
                    "--exclude."
                )

    def refuse_unpoolable(self, using: str) -> None:
        """Refuse statements that need a session of their own, on an alias behind a pooler.

        Raises:
            MigrationFailed: there is one.
        """
        for name, (migration, backwards, schemas) in self.steps.items():
            for operation in migration.operations:
                if isinstance(operation, NotInTransactionMixin) or _is_sent_alone(operation, backwards):
                    raise MigrationFailed(
                        f"The migration {name.removeprefix('-')}, pending in {_some(schemas)}, needs a connection of "
                        f"its own (its operation {operation.describe()!r}), and DATABASES[{using!r}] leads through a "
                        "pooler. Nothing was changed. Name an alias that is connected directly to the same database "
                        f"in DATABASES[{using!r}]['OPTIONS']['tenants']['migrations']['alias'], or set 'pooler' there "
                        "to False if there is none."
                    )


def _is_sent_alone(operation: Any, backwards: bool) -> bool:
    """Return whether an operation sends a statement that PostgreSQL takes outside of transactions alone."""
    if not isinstance(operation, RunSQL):
        return False
    texts = _texts(operation.reverse_sql if backwards else operation.sql)
    return any(
        b"concurrently" in words or (words[:1] and words[0] in _ALONE)
        for text in texts
        for _, words in split(text.encode())
    )


def _texts(sql: Any) -> Iterator[str]:
    if isinstance(sql, str):
        yield sql
    elif isinstance(sql, (list, tuple)):
        for entry in sql:
            yield entry[0] if isinstance(entry, (list, tuple)) else entry


def _some(schemas: list[str]) -> str:
    more = f" and {len(schemas) - _SHOWN} more" if len(schemas) > _SHOWN else ""
    return f"{len(schemas)} schema{'s' * (len(schemas) != 1)} ({', '.join(schemas[:_SHOWN])}{more})"
