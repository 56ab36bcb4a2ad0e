"""Moving in: the tables of a project that had no tenants become those of its first one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from django.apps import apps
from django.db import router, transaction

from pg_tenants import schemas
from pg_tenants.backends.prefix import quote
from pg_tenants.context import no_schema
from pg_tenants.exceptions import MigrationFailed, SchemaNotPermitted, TablesInUse
from pg_tenants.migrations import required_registry
from pg_tenants.modules import Module
from pg_tenants.names import OWN_TABLES
from pg_tenants.provisioning.run import validate_tenant_schema

__all__ = ["MoveReport", "move_in"]

_SOURCE = "public"
_RECORD = "django_migrations"
_SHOWN = 20


@dataclass(frozen=True, slots=True)
class MoveReport:
    """What has moved, or in a dry run would.

    Attributes:
        moved: objects that are in the tenant's schema now, as ``kind name``.
        migrations: how many rows of ``django_migrations`` went with them.
        left: tables and views of the old schema that belong to no app of a module, and stayed.
    """

    moved: tuple[str, ...]
    migrations: int
    left: tuple[str, ...]


class _DryRun(Exception):  # it is no error
    pass


def move_in(tenant: Any, *, dry_run: bool = False) -> MoveReport:
    """Make the tables that a tenant module's apps have in ``public`` those of a new tenant, and save it.

    All of it, or nothing. Rows are not touched: PostgreSQL moves a table to another schema by its name alone, with
    indexes, constraints, triggers and owned sequences. Views on these tables, and types, functions and sequences that
    they alone use, go with them, and so do the rows of ``django_migrations``. Then the schema is taken over as by
    ``save(adopt=True)``: it has to be what the migrations make.

    Args:
        tenant: an instance that is not saved yet.
        dry_run: do all of it, and take it back.

    Raises:
        InvalidSchemaName: the schema may not be called so.
        SchemaExists: there is a tenant or a schema of this name.
        TablesInUse: tables that stay refer to some that would go.
        SchemaDiffers: the tables are not what the migrations make; the message lists what differs.
        SchemaNotPermitted: the database role does not own all of it.
        MigrationFailed: there is nothing to move.
    """
    modules = required_registry()
    module = modules.tenant_module(tenant.module or None, validate_tenant_schema(tenant.schema_name))
    home = router.db_for_write(type(tenant), instance=tenant)
    reports: list[MoveReport] = []
    try:
        with no_schema(), transaction.atomic(using=home), transaction.atomic(using=module.database):
            schemas.create(tenant.schema_name, using=module.database)
            reports.append(_move(tenant.schema_name, module))
            tenant.save(using=home, adopt=True)
            if dry_run:
                raise _DryRun
    except _DryRun:
        tenant.pk, tenant._state.adding = None, True
    return reports[0]


def _move(schema: str, module: Module) -> MoveReport:
    connection = schemas.tenant_connection(module.database)
    source, to = connection.physical_schema(_SOURCE), connection.physical_schema(schema)
    with connection.cursor() as cursor:
        tables = _tables(cursor, source, module)
        if not tables:
            raise MigrationFailed(
                f"The schema {source!r} has no table of the apps of the module {module.name!r} "
                f"({', '.join(module.apps) or 'none'}), so there is nothing to move. Create the tenant by "
                "create_tenant."
            )
        _refuse_references(cursor, tables)
        cursor.execute(_GOING, {"source": source, "tables": list(tables)})
        objects = cursor.fetchall()
        for kind, name, owned in objects:
            if not owned:
                cursor.execute("SELECT current_user")
                raise SchemaNotPermitted(
                    f"The role {cursor.fetchone()[0]!r} does not own the {kind.lower()} {name}, which would go to the "
                    f"schema {to!r}. Run this as its owner, or ALTER {kind} {name} OWNER TO the role."
                )
            cursor.execute(f"ALTER {kind} {name} SET SCHEMA {quote(to)}")
        rows = _move_record(cursor, source, to, module)
        cursor.execute(_LEFT, [source, _placed_tables()])
        left = tuple(name for (name,) in cursor.fetchall())
    return MoveReport(tuple(f"{kind.lower()} {name}" for kind, name, _ in objects), rows, left)


def _tables(cursor: Any, source: str, module: Module) -> dict[int, str]:
    """Return the module's tables that are in the old schema, by their oids."""
    names = {
        str(model._meta.db_table)
        for model in apps.get_models(include_auto_created=True)
        if model._meta.app_label in module.apps and model._meta.managed and not model._meta.proxy
    }
    cursor.execute(
        "SELECT c.oid, c.relname FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
        " WHERE n.nspname = %s AND c.relname = ANY(%s) AND c.relkind IN ('r', 'p')",
        [source, sorted(names)],
    )
    return dict(cursor.fetchall())


def _refuse_references(cursor: Any, tables: Iterable[int]) -> None:
    cursor.execute(
        "SELECT c.conrelid::pg_catalog.regclass::text, c.conname, c.confrelid::pg_catalog.regclass::text"
        " FROM pg_catalog.pg_constraint c"
        " WHERE c.contype = 'f' AND c.confrelid = ANY(%s) AND c.conrelid <> ALL(%s) ORDER BY 1, 2",
        [list(tables), list(tables)],
    )
    found = cursor.fetchall()
    if found:
        lines = [f"  {table} ({constraint}) refers to {target}" for table, constraint, target in found[:_SHOWN]]
        raise TablesInUse(
            "Tables that stay refer to some that would become the tenant's. Put their apps into the same module, "
            "or drop these constraints and the fields that need them first:\n" + "\n".join(lines)
        )


def _move_record(cursor: Any, source: str, to: str, module: Module) -> int:
    """Move the record of the module's migrations; an app that a fixed module has as well is made anew there."""
    old, new = f"{quote(source)}.{_RECORD}", f"{quote(to)}.{_RECORD}"
    cursor.execute("SELECT to_regclass(%s) IS NOT NULL", [old])
    if not cursor.fetchone()[0]:
        raise MigrationFailed(
            f"The schema {source!r} has no {_RECORD}, so which migrations its tables have is not known. Migrate it by "
            "the project that made it, first."
        )
    cursor.execute(
        f"CREATE TABLE {new} (id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, app varchar(255) NOT NULL,"
        " name varchar(255) NOT NULL, applied timestamp with time zone NOT NULL)"
    )
    cursor.execute(
        f"WITH gone AS (DELETE FROM {old} WHERE app = ANY(%s) RETURNING id, app, name, applied)"  # noqa: S608  # quoted
        f" INSERT INTO {new} (app, name, applied) SELECT app, name, applied FROM gone ORDER BY id",
        [list(module.apps)],
    )
    return int(cursor.rowcount)


def _placed_tables() -> list[str]:
    modules = required_registry()
    ours = [_RECORD, *OWN_TABLES]
    return ours + [
        str(model._meta.db_table)
        for model in apps.get_models(include_auto_created=True)
        if any(module.is_fixed for module in modules.of_app(model._meta.app_label))
    ]


_LEFT = """
SELECT c.relname FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = %s AND c.relkind IN ('r', 'p', 'v', 'm', 'f') AND c.relname <> ALL(%s) AND NOT c.relispartition
    AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend WHERE classid = c.tableoid AND objid = c.oid AND deptype = 'e')
ORDER BY 1
"""

# Relations that go: the tables, their partitions, and views on them. Then what the old schema has that is used by
# relations, and by none that stays: a use is an entry of pg_depend whose dependent part belongs to a relation.
_GOING = """
WITH RECURSIVE going AS (
    SELECT unnest(%(tables)s::pg_catalog.oid[]) AS oid
    UNION
    SELECT x.oid FROM going g CROSS JOIN LATERAL (
        SELECT i.inhrelid FROM pg_catalog.pg_inherits i WHERE i.inhparent = g.oid
        UNION ALL
        SELECT r.ev_class FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_rewrite r ON r.oid = d.objid
        WHERE d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass
            AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refobjid = g.oid
    ) x (oid)
),
uses AS (
    SELECT coalesce(i.indrelid, a.adrelid, c.conrelid, t.tgrelid, r.ev_class, d.objid) AS relation, d.refclassid,
        coalesce(nullif(y.typelem, 0), d.refobjid) AS oid
    FROM pg_catalog.pg_depend d
    LEFT JOIN pg_catalog.pg_index i
        ON d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND i.indexrelid = d.objid
    LEFT JOIN pg_catalog.pg_attrdef a
        ON d.classid = 'pg_catalog.pg_attrdef'::pg_catalog.regclass AND a.oid = d.objid
    LEFT JOIN pg_catalog.pg_constraint c
        ON d.classid = 'pg_catalog.pg_constraint'::pg_catalog.regclass AND c.oid = d.objid AND c.conrelid <> 0
    LEFT JOIN pg_catalog.pg_trigger t
        ON d.classid = 'pg_catalog.pg_trigger'::pg_catalog.regclass AND t.oid = d.objid
    LEFT JOIN pg_catalog.pg_rewrite r
        ON d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass AND r.oid = d.objid
    LEFT JOIN pg_catalog.pg_type y
        ON d.refclassid = 'pg_catalog.pg_type'::pg_catalog.regclass AND y.oid = d.refobjid AND y.typcategory = 'A'
    WHERE d.deptype = 'n' AND d.classid IN ('pg_catalog.pg_class'::pg_catalog.regclass,
        'pg_catalog.pg_attrdef'::pg_catalog.regclass, 'pg_catalog.pg_constraint'::pg_catalog.regclass,
        'pg_catalog.pg_trigger'::pg_catalog.regclass, 'pg_catalog.pg_rewrite'::pg_catalog.regclass)
),
used AS (
    SELECT refclassid, oid FROM uses GROUP BY refclassid, oid
    HAVING bool_and(relation IN (SELECT oid FROM going))
)
SELECT kind, name, pg_has_role(owner, 'USAGE') FROM (
    SELECT 1 AS place, CASE c.relkind WHEN 'v' THEN 'VIEW' WHEN 'm' THEN 'MATERIALIZED VIEW' ELSE 'TABLE' END AS kind,
        pg_catalog.format('%%I.%%I', n.nspname, c.relname) AS name, c.relowner AS owner
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = %(source)s AND c.oid IN (SELECT oid FROM going)
    UNION ALL
    SELECT 2, 'SEQUENCE', pg_catalog.format('%%I.%%I', n.nspname, c.relname), c.relowner
    FROM used u JOIN pg_catalog.pg_class c ON c.oid = u.oid AND u.refclassid = c.tableoid
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = %(source)s AND c.relkind = 'S' AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend
        WHERE classid = c.tableoid AND objid = c.oid AND deptype IN ('a', 'i', 'e'))
    UNION ALL
    SELECT 2, CASE y.typtype WHEN 'd' THEN 'DOMAIN' ELSE 'TYPE' END,
        pg_catalog.format('%%I.%%I', n.nspname, y.typname), y.typowner
    FROM used u JOIN pg_catalog.pg_type y ON y.oid = u.oid AND u.refclassid = y.tableoid
    JOIN pg_catalog.pg_namespace n ON n.oid = y.typnamespace
    LEFT JOIN pg_catalog.pg_class t ON t.oid = y.typrelid
    WHERE n.nspname = %(source)s AND (t.oid IS NULL OR t.relkind = 'c') AND NOT EXISTS (
        SELECT FROM pg_catalog.pg_depend WHERE classid = y.tableoid AND objid = y.oid AND deptype = 'e')
    UNION ALL
    SELECT 2, 'ROUTINE', p.oid::pg_catalog.regprocedure::text, p.proowner
    FROM used u JOIN pg_catalog.pg_proc p ON p.oid = u.oid AND u.refclassid = p.tableoid
    JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
    WHERE n.nspname = %(source)s AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend
        WHERE classid = p.tableoid AND objid = p.oid AND deptype = 'e')
) o ORDER BY place, kind, name
"""
