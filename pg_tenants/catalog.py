"""What two schemas of one database differ in, whatever they are called."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from django.db import DEFAULT_DB_ALIAS, transaction

from pg_tenants.backends.prefix import quote
from pg_tenants.context import no_schema
from pg_tenants.exceptions import SchemaDoesNotExist
from pg_tenants.names import OWN_TABLES
from pg_tenants.schemas import tenant_connection

__all__ = ["Difference", "differences"]


class Difference(NamedTuple):
    """An object in which two schemas differ.

    Attributes:
        kind: what it is: ``table``, ``column``, ``index``, …
        name: its name, with that of its table where it has one.
        wanted: its definition in the schema that is the model; None where that has no such object.
        found: its definition in the other; None where that has no such object.
    """

    kind: str
    name: str
    wanted: str | None
    found: str | None

    def __str__(self) -> str:
        if self.found is None:
            return f"{self.kind} {self.name} is missing"
        if self.wanted is None:
            return f"{self.kind} {self.name} is not wanted"
        return f"{self.kind} {self.name} is {self.found!r}, not {self.wanted!r}"


def differences(
    model: str, other: str, *, using: str = DEFAULT_DB_ALIAS, ignore: Iterable[str] = OWN_TABLES
) -> list[Difference]:
    """Return what another schema has differently than the one that is the model, sorted by kind and name.

    Compared are tables with their columns, constraints, indexes, triggers, rules, policies and statistics; views,
    sequences, functions, types, and the comments on all of these. Not compared are rows, values of sequences,
    privileges, owners and the order of columns.

    Args:
        model: a schema, by its name in the database.
        other: another one.
        using: the database alias.
        ignore: names of tables to leave out.

    Raises:
        SchemaDoesNotExist: one of them is not there.
    """
    left_out = frozenset(ignore)
    with no_schema(), transaction.atomic(using=using), tenant_connection(using).without_prefix() as execute:
        wanted, found = (_read(execute, name, left_out) for name in (model, other))
        # Nothing was written; so the path is as it was, for triggers that wait for the end of the transaction.
        transaction.set_rollback(True, using=using)
    return [
        Difference(kind, name, wanted.get((kind, name)), found.get((kind, name)))
        for kind, name in sorted({*wanted, *found})
        if not _same(wanted.get((kind, name)), found.get((kind, name)), model, other)
    ]


def _read(execute: Callable[[str], Any], schema: str, ignore: frozenset[str]) -> dict[tuple[str, str], str]:
    """Return the definitions of a schema's objects; names that are in the schema itself are unqualified in them."""
    literal = quote(schema).replace("'", "''")
    oid = execute(f"SELECT pg_catalog.to_regnamespace('{literal}')::pg_catalog.oid").fetchone()[0]
    if oid is None:
        raise SchemaDoesNotExist(f"There is no schema {schema!r} in the database to compare.")
    execute(f"SET LOCAL search_path = {quote(schema)}")
    return {
        (kind, name): definition
        for kind, query in _QUERIES.items()
        for name, definition in execute(query.replace("{of}", _OF_TABLE).replace("{schema}", str(oid))).fetchall()
        if name.partition(".")[0] not in ignore
    }


def _same(wanted: str | None, found: str | None, model: str, other: str) -> bool:
    if wanted == found or wanted is None or found is None:
        return wanted == found
    # Bodies of functions are kept as they were written, and may name their own schema.
    return _without(model, wanted) == _without(other, found)


def _without(schema: str, definition: str) -> str:
    # Only where it is a name: before a dot and outside quotes, or among the settings of a function.
    name = rf'(?<![\w$."\'])(?:{re.escape(schema)}\b|{re.escape(quote(schema))})'
    return re.sub(rf"{name}(?=\s*\.)", "{schema}", re.sub(rf"(?<=search_path=){name}", "{schema}", definition))


# Each gives names and definitions; {schema} is the schema's oid, {of} joins its tables. The server writes names that
# are on the search path, which is the schema alone, without their schema.
_OF_TABLE = "JOIN pg_catalog.pg_class t ON t.relnamespace = {schema} AND t.oid"
_QUERIES = {
    "table": """
        SELECT t.relname, pg_catalog.concat_ws(' ',
            CASE t.relkind WHEN 'r' THEN 'table' WHEN 'p' THEN 'partitioned table' ELSE 'foreign table' END,
            CASE t.relpersistence WHEN 'u' THEN 'unlogged' END,
            CASE WHEN t.relrowsecurity THEN 'with row security' END,
            CASE WHEN t.relforcerowsecurity THEN 'forced' END,
            'partitioned by ' || pg_catalog.pg_get_partkeydef(t.oid),
            pg_catalog.pg_get_expr(t.relpartbound, t.oid),
            (SELECT 'inherits ' || pg_catalog.string_agg(inhparent::pg_catalog.regclass::text, ', ' ORDER BY inhseqno)
             FROM pg_catalog.pg_inherits WHERE inhrelid = t.oid),
            'with ' || pg_catalog.array_to_string(t.reloptions, ', '))
        FROM pg_catalog.pg_class t WHERE t.relnamespace = {schema} AND t.relkind IN ('r', 'p', 'f')""",
    "view": """
        SELECT t.relname, pg_catalog.concat_ws(' ',
            CASE t.relkind WHEN 'v' THEN 'view' ELSE 'materialized view' END,
            'with ' || pg_catalog.array_to_string(t.reloptions, ', '),
            pg_catalog.pg_get_viewdef(t.oid, true))
        FROM pg_catalog.pg_class t WHERE t.relnamespace = {schema} AND t.relkind IN ('v', 'm')""",
    "column": """
        SELECT t.relname || '.' || a.attname, pg_catalog.concat_ws(' ',
            pg_catalog.format_type(a.atttypid, a.atttypmod),
            CASE WHEN a.attcollation <> y.typcollation THEN 'collate ' || a.attcollation::pg_catalog.regcollation END,
            CASE WHEN a.attnotnull THEN 'not null' ELSE 'null' END,
            CASE a.attidentity WHEN 'a' THEN 'generated always as identity'
                WHEN 'd' THEN 'generated by default as identity' END,
            CASE a.attgenerated WHEN 's' THEN 'generated stored' WHEN 'v' THEN 'generated virtual' END,
            'default ' || pg_catalog.pg_get_expr(d.adbin, d.adrelid))
        FROM pg_catalog.pg_attribute a
        {of} = a.attrelid AND t.relkind IN ('r', 'p', 'f', 'c')
        JOIN pg_catalog.pg_type y ON y.oid = a.atttypid
        LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
        WHERE a.attnum > 0 AND NOT a.attisdropped""",
    # What PostgreSQL 18 keeps as constraints NOT NULL, older ones keep with the column, where it is compared.
    "constraint": """
        SELECT t.relname || '.' || c.conname, pg_catalog.pg_get_constraintdef(c.oid)
        FROM pg_catalog.pg_constraint c {of} = c.conrelid WHERE c.contype <> 'n' AND c.contype <> 't'""",
    "index": """
        SELECT t.relname || '.' || x.relname, pg_catalog.concat_ws(' ',
            pg_catalog.pg_get_indexdef(i.indexrelid, 0, true),
            CASE WHEN NOT i.indisvalid THEN 'invalid' END,
            CASE WHEN i.indisreplident THEN 'replica identity' END)
        FROM pg_catalog.pg_index i {of} = i.indrelid JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid
        WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_constraint WHERE conindid = i.indexrelid AND conrelid = t.oid)""",
    "sequence": """
        SELECT t.relname, pg_catalog.concat_ws(' ', s.seqtypid::pg_catalog.regtype, 'start', s.seqstart,
            'from', s.seqmin, 'to', s.seqmax, 'by', s.seqincrement, 'cache', s.seqcache,
            CASE WHEN s.seqcycle THEN 'cycle' END,
            (SELECT 'owned by ' || d.refobjid::pg_catalog.regclass || '.' || a.attname
             FROM pg_catalog.pg_depend d
             JOIN pg_catalog.pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
             WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objid = t.oid
                AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.deptype IN ('a', 'i')))
        FROM pg_catalog.pg_sequence s {of} = s.seqrelid""",
    "trigger": """
        SELECT t.relname || '.' || g.tgname,
            pg_catalog.concat_ws(' ', pg_catalog.pg_get_triggerdef(g.oid, true), 'enabled', g.tgenabled)
        FROM pg_catalog.pg_trigger g {of} = g.tgrelid WHERE NOT g.tgisinternal""",
    "rule": """
        SELECT t.relname || '.' || r.rulename,
            pg_catalog.concat_ws(' ', pg_catalog.pg_get_ruledef(r.oid, true), 'enabled', r.ev_enabled)
        FROM pg_catalog.pg_rewrite r {of} = r.ev_class WHERE r.rulename <> '_RETURN'""",
    "policy": """
        SELECT t.relname || '.' || p.polname, pg_catalog.concat_ws(' ',
            CASE WHEN p.polpermissive THEN 'permissive' ELSE 'restrictive' END, 'for', p.polcmd,
            (SELECT 'to ' || pg_catalog.string_agg(role::pg_catalog.regrole::text, ', ' ORDER BY role)
             FROM pg_catalog.unnest(p.polroles) role WHERE role <> 0),
            'using ' || pg_catalog.pg_get_expr(p.polqual, p.polrelid),
            'with check ' || pg_catalog.pg_get_expr(p.polwithcheck, p.polrelid))
        FROM pg_catalog.pg_policy p {of} = p.polrelid""",
    "statistics": """
        SELECT t.relname || '.' || s.stxname, pg_catalog.pg_get_statisticsobjdef(s.oid)
        FROM pg_catalog.pg_statistic_ext s {of} = s.stxrelid""",
    "function": """
        SELECT p.proname || '(' || pg_catalog.pg_get_function_identity_arguments(p.oid) || ')',
            pg_catalog.concat_ws(' ', p.prokind, l.lanname, pg_catalog.pg_get_function_arguments(p.oid),
            'returns ' || pg_catalog.pg_get_function_result(p.oid), p.provolatile, p.proparallel,
            CASE WHEN p.proisstrict THEN 'strict' END, CASE WHEN p.prosecdef THEN 'security definer' END,
            CASE WHEN p.proleakproof THEN 'leakproof' END, 'cost', p.procost, 'rows', p.prorows,
            (SELECT 'set ' || pg_catalog.string_agg(setting, ', ' ORDER BY setting)
             FROM pg_catalog.unnest(p.proconfig) setting),
            'as', p.prosrc, pg_catalog.pg_get_function_sqlbody(p.oid),
            (SELECT pg_catalog.concat_ws(' ', a.aggtransfn, a.aggfinalfn, a.aggtranstype::pg_catalog.regtype,
                a.agginitval) FROM pg_catalog.pg_aggregate a WHERE a.aggfnoid = p.oid))
        FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_language l ON l.oid = p.prolang
        WHERE p.pronamespace = {schema} AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend
            WHERE classid = p.tableoid AND objid = p.oid AND deptype = 'i')""",
    "type": """
        SELECT y.typname, pg_catalog.concat_ws(' ',
            CASE y.typtype WHEN 'e' THEN 'enum' WHEN 'd' THEN 'domain' WHEN 'c' THEN 'composite' WHEN 'r' THEN 'range'
                ELSE 'type ' || y.typtype::text END,
            (SELECT pg_catalog.string_agg(pg_catalog.quote_literal(enumlabel), ', ' ORDER BY enumsortorder)
             FROM pg_catalog.pg_enum WHERE enumtypid = y.oid),
            CASE y.typtype WHEN 'd' THEN pg_catalog.format_type(y.typbasetype, y.typtypmod) END,
            CASE WHEN y.typtype = 'd' AND y.typnotnull THEN 'not null' END,
            CASE y.typtype WHEN 'd' THEN 'default ' || y.typdefault END,
            (SELECT pg_catalog.string_agg(conname || ' ' || pg_catalog.pg_get_constraintdef(oid), ' ' ORDER BY conname)
             FROM pg_catalog.pg_constraint WHERE contypid = y.oid AND contype <> 'n'),
            (SELECT 'of ' || rngsubtype::pg_catalog.regtype FROM pg_catalog.pg_range WHERE rngtypid = y.oid))
        FROM pg_catalog.pg_type y LEFT JOIN pg_catalog.pg_class t ON t.oid = y.typrelid
        WHERE y.typnamespace = {schema} AND y.typtype IN ('e', 'd', 'c', 'r') AND (t.oid IS NULL OR t.relkind = 'c')""",
    "comment": """
        SELECT pg_catalog.pg_describe_object(c.classoid, c.objoid, c.objsubid), c.description
        FROM pg_catalog.pg_description c JOIN (
            SELECT tableoid, oid FROM pg_catalog.pg_class WHERE relnamespace = {schema}
            UNION ALL SELECT tableoid, oid FROM pg_catalog.pg_proc WHERE pronamespace = {schema}
            UNION ALL SELECT tableoid, oid FROM pg_catalog.pg_type WHERE typnamespace = {schema}
            UNION ALL SELECT tableoid, oid FROM pg_catalog.pg_constraint WHERE connamespace = {schema}
            UNION ALL SELECT tableoid, oid FROM pg_catalog.pg_statistic_ext WHERE stxnamespace = {schema}
            UNION ALL SELECT g.tableoid, g.oid FROM pg_catalog.pg_trigger g
                JOIN pg_catalog.pg_class t ON t.oid = g.tgrelid AND t.relnamespace = {schema}
            UNION ALL SELECT p.tableoid, p.oid FROM pg_catalog.pg_policy p
                JOIN pg_catalog.pg_class t ON t.oid = p.polrelid AND t.relnamespace = {schema}
        ) o ON o.tableoid = c.classoid AND o.oid = c.objoid""",
}
