"""Tables of apps that have moved to another module, left where the app was."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from django.apps import apps
from django.db import DEFAULT_DB_ALIAS

from pg_tenants.backends.prefix import quote
from pg_tenants.context import no_schema
from pg_tenants.migrations._targets import Target, fixed_targets, tenant_targets
from pg_tenants.modules import registry
from pg_tenants.schemas import tenant_connection

__all__ = ["MovedTables", "moved_tables"]


@dataclass(frozen=True, slots=True)
class MovedTables:
    """What an app has left in a schema whose modules do not have it any more.

    Attributes:
        app: its label.
        target: the schema.
        tables: its tables there, sorted.
        recorded: how many migrations of it the schema has recorded.
    """

    app: str
    target: Target
    tables: tuple[str, ...]
    recorded: int


def moved_tables(using: str = DEFAULT_DB_ALIAS) -> list[MovedTables]:
    """Return the tables of moved apps in the schemas of an alias, by app and then in the order of the schemas."""
    placed = _tables_by_app()
    groups: dict[tuple[str, ...], list[Target]] = {}
    for target in [*fixed_targets(using), *tenant_targets(using)]:
        if not target.problem:
            groups.setdefault(tuple(module.name for module in target.modules), []).append(target)
    found: list[MovedTables] = []
    connection = tenant_connection(using)
    with no_schema(), connection.cursor() as cursor:
        for targets in groups.values():
            found.extend(_moved_in(cursor, connection, targets, placed))
    return sorted(found, key=lambda moved: moved.app)


def _tables_by_app() -> dict[str, set[str]]:
    modules = registry()
    placed: dict[str, set[str]] = {}
    for model in apps.get_models(include_auto_created=True):
        meta = model._meta
        if modules is not None and meta.managed and not meta.proxy and modules.of_app(meta.app_label):
            placed.setdefault(meta.app_label, set()).add(str(meta.db_table))
    return placed


def _moved_in(
    cursor: Any, connection: Any, targets: list[Target], placed: dict[str, set[str]]
) -> Iterator[MovedTables]:
    own = targets[0].apps
    kept = {table for label in own for table in placed.get(label, ())}
    owners = {table: label for label, tables in placed.items() if label not in own for table in tables - kept}
    by_name = {connection.physical_schema(target.schema): target for target in targets}
    cursor.execute(
        "SELECT n.nspname, c.relname FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n"
        " ON n.oid = c.relnamespace WHERE c.relname = ANY(%s) AND c.relkind IN ('r', 'p') AND n.nspname = ANY(%s)"
        " ORDER BY 1, 2",
        [list(owners), list(by_name)],
    )
    found: dict[tuple[str, str], list[str]] = {}
    for schema, table in cursor.fetchall():
        found.setdefault((schema, owners[table]), []).append(table)
    for (schema, label), tables in found.items():
        yield MovedTables(label, by_name[schema], tuple(tables), _recorded(cursor, schema, label))


def _recorded(cursor: Any, schema: str, label: str) -> int:
    record = f"{quote(schema)}.django_migrations"
    cursor.execute("SELECT to_regclass(%s) IS NOT NULL", [record])
    if not cursor.fetchone()[0]:
        return 0
    cursor.execute(f"SELECT count(*) FROM {record} WHERE app = %s", [label])  # noqa: S608  # a quoted name
    return int(cursor.fetchone()[0])
