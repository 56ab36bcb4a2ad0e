"""What two schemas of one database differ in, whatever they are called."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from django.db import DEFAULT_DB_ALIAS, DatabaseError, transaction

from pg_tenants.backends.prefix import path_text, quote
from pg_tenants.context import no_schema
from pg_tenants.exceptions import SchemaDoesNotExist
from pg_tenants.schemas import tenant_connection

__all__ = [
    "Description",
    "Difference",
    "Fingerprint",
    "Mention",
    "compare",
    "describe",
    "differences",
    "fingerprints",
    "mentions",
]

Fingerprint = tuple[int, int]
"""How many objects a schema has, and the sum of the hashes of their definitions."""

OURS = "pg_tenants_"
"""How the names of the package's own tables begin, which are no part of what is compared."""

CHUNK = 500
"""Schemas in a statement. Each statement reads the whole catalog, as most of it has no index by schema."""

VIEWS = 200
"""Views, and tables with rules, in a statement: showing one locks its tables until the statement's transaction ends."""


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

    @property
    def change(self) -> Literal["missing", "extra", "changed"]:
        """Return whether the object is missing, too much, or there with another definition."""
        return "missing" if self.found is None else "extra" if self.wanted is None else "changed"

    def as_dict(self) -> dict[str, Any]:
        """Return the difference for JSON."""
        return {"change": self.change, **self._asdict()}

    def __str__(self) -> str:
        if self.found is None:
            return f"{self.kind} {self.name} is missing"
        if self.wanted is None:
            return f"{self.kind} {self.name} is not wanted"
        return f"{self.kind} {self.name} is {self.found!r}, not {self.wanted!r}"


class Description(NamedTuple):
    """What a schema is made of.

    Attributes:
        schema: its name in the database.
        objects: the definitions of its objects, by kind and name.
    """

    schema: str
    objects: Mapping[tuple[str, str], str]


def differences(
    model: str, other: str, *, using: str = DEFAULT_DB_ALIAS, ignore: Iterable[str] = ()
) -> list[Difference]:
    """Return what another schema has differently than the one that is the model, sorted by kind and name.

    Args:
        model: a schema, by its name in the database.
        other: another one.
        using: the database alias.
        ignore: names of tables to leave out.

    Raises:
        SchemaDoesNotExist: one of them is not there.
    """
    left_out = list(ignore)
    # Where extensions are in the other schema, the model has their types and operators from there, too.
    wanted = describe(model, using=using, ignore=left_out, beside=[other])
    return compare(wanted, describe(other, using=using, ignore=left_out))


def describe(
    schema: str, *, using: str = DEFAULT_DB_ALIAS, ignore: Iterable[str] = (), beside: Iterable[str] = ()
) -> Description:
    """Return what a schema is made of.

    That is tables with their columns, constraints, indexes, triggers, rules, policies and statistics; views, sequences,
    functions, types, and the comments on all of these. It is not rows, values of sequences, privileges, owners and the
    order of columns, nor what belongs to an extension or is a table of pg_tenants itself.

    Args:
        schema: its name in the database.
        using: the database alias.
        ignore: names of tables to leave out.
        beside: other schemas whose names are left out of definitions, as the schema's own is.

    Raises:
        SchemaDoesNotExist: it is not there.
    """
    with no_schema(), transaction.atomic(using=using), tenant_connection(using).without_prefix() as execute:
        oids = _oids(execute, [schema])
        if not oids:
            raise SchemaDoesNotExist(
                f"There is no schema {schema!r} in the database to compare. Name one that 'list_tenants' shows."
            )
        execute(f"SET LOCAL search_path = {path_text((schema, *beside))}")
        rows = execute(_objects(oids.values(), ignore)).fetchall()
        # Nothing was written; so the path is as it was, for triggers that wait for the end of the transaction.
        transaction.set_rollback(True, using=using)
    return Description(schema, {(kind, name): definition for _, kind, name, definition in rows})


def compare(wanted: Description, found: Description) -> list[Difference]:
    """Return what one schema has differently than the one that is the model, sorted by kind and name."""
    return [
        Difference(*key, wanted.objects.get(key), found.objects.get(key))
        for key in sorted({*wanted.objects, *found.objects})
        if not _same(wanted.objects.get(key), found.objects.get(key), wanted.schema, found.schema)
    ]


class Mention(NamedTuple):
    """An object whose text names a schema.

    Attributes:
        kind: what it is: ``function``, ``view``, …
        name: its name, with that of its table where it has one.
    """

    kind: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


def mentions(schema: str, of: str, *, using: str = DEFAULT_DB_ALIAS) -> list[Mention]:
    """Return the objects of a schema whose text names another schema, as the body of a function may.

    PostgreSQL keeps such text as it was written: it does not follow where a schema is renamed or cloned. Bodies of
    functions are named where the schema's name is a word in them, all else where a dot follows it. A column or an alias
    of that name reads the same.

    Args:
        schema: the schema to look in, by its name in the database.
        of: the one that is looked for.
        using: the database alias.

    Raises:
        SchemaDoesNotExist: the schema to look in is not there.
    """
    found = describe(schema, using=using).objects
    word = rf'(?<![\w$.])"?{re.escape(of)}"?'
    return [
        Mention(kind, name)
        for (kind, name), definition in sorted(found.items())
        if kind != "comment" and re.search(word + (r"(?![\w$])" if kind == "function" else r"\s*\."), definition)
    ]


def fingerprints(
    schemas: Collection[str], *, using: str = DEFAULT_DB_ALIAS, ignore: Iterable[str] = ()
) -> dict[str, Fingerprint | None]:
    """Return for each of many schemas a fingerprint of all that ``describe`` reads, read for hundreds at a time.

    Schemas of equal fingerprints have equal objects. Those of unequal ones may be equal as well, where a definition has
    the schema's name in it in an unusual way; ``compare`` decides.

    Args:
        schemas: their names in the database.
        using: the database alias.
        ignore: names of tables to leave out.

    Returns:
        the fingerprint of each; None for a schema that is not there, or that another session changes meanwhile.
    """
    names, left_out = list(dict.fromkeys(schemas)), list(ignore)
    found: dict[str, Fingerprint | None] = dict.fromkeys(names)
    with no_schema():
        for chunk in _chunks(names, using):
            found |= _fingerprints(chunk, left_out, using)
    return found


def _chunks(names: list[str], using: str) -> Iterator[list[str]]:
    """Yield the names that one statement reads, by how many views the schemas have."""
    with tenant_connection(using).without_prefix() as execute:
        views = _views(execute, names)
    chunk, size = list[str](), 0
    for name in names:
        more = views.get(name, 0)
        if chunk and (len(chunk) == CHUNK or size + more > VIEWS):
            yield chunk
            chunk, size = [], 0
        chunk.append(name)
        size += more
    if chunk:
        yield chunk


def _views(execute: Callable[..., Any], names: list[str]) -> dict[str, int]:
    return dict(execute(_VIEWS, [names]).fetchall())


def _fingerprints(names: list[str], ignore: list[str], using: str) -> dict[str, Fingerprint]:
    try:
        with transaction.atomic(using=using), tenant_connection(using).without_prefix() as execute:
            oids = _oids(execute, names)
            execute("SET LOCAL search_path = pg_catalog")
            rows = execute(_FINGERPRINTS.format(objects=_objects(oids.values(), ignore))).fetchall() if oids else []
            transaction.set_rollback(True, using=using)
    except DatabaseError:
        # An object was dropped while the server described it: that schema is told, the others are read without it.
        if len(names) == 1:
            return {}
        half = len(names) // 2
        return _fingerprints(names[:half], ignore, using) | _fingerprints(names[half:], ignore, using)
    by_oid: dict[int, Fingerprint] = {oid: (count, int(total)) for oid, count, total in rows}
    return {name: by_oid.get(oid, (0, 0)) for name, oid in oids.items()}


def _oids(execute: Callable[..., Any], names: Sequence[str]) -> dict[str, int]:
    rows = execute("SELECT nspname, oid FROM pg_catalog.pg_namespace WHERE nspname = ANY (%s)", [list(names)])
    return dict(rows.fetchall())


def _objects(oids: Iterable[int], ignore: Iterable[str]) -> str:
    """Return a query for the objects of schemas: schema, kind, name and definition of each."""
    schemas = f"'{{{', '.join(map(str, oids))}}}'::pg_catalog.oid[]"
    left_out = ", ".join("'" + name.replace("'", "''") + "'" for name in ("", *ignore))
    # As text: where the first one is a ``name``, the union would be, and cut "table.index" after 63 bytes.
    union = " UNION ALL ".join(
        f"SELECT '{kind}' AS kind, schema, owner::text, name::text, definition "  # noqa: S608  # constants
        f"FROM ({query}) AS q (schema, owner, name, definition)"
        for kind, query in _QUERIES.items()
    )
    union = union.replace("{of}", _OF_TABLE).replace("{own}", _OWN).replace("{schemas}", schemas)
    return (
        f"SELECT schema, kind, name, definition FROM ({union}) o WHERE (owner IS NULL OR owner = ''"  # noqa: S608
        f" OR owner NOT IN ({left_out}) AND NOT pg_catalog.starts_with(owner, '{OURS}'))"
    )


def _same(wanted: str | None, found: str | None, model: str, other: str) -> bool:
    if wanted == found or wanted is None or found is None:
        return wanted == found
    # Bodies of functions are kept as they were written, and may name their own schema.
    return _without(model, wanted) == _without(other, found)


def _without(schema: str, definition: str) -> str:
    # Only where it is a name: before a dot and outside quotes, or among the settings of a function.
    name = rf'(?<![\w$."\'])(?:{re.escape(schema)}\b|{re.escape(quote(schema))})'
    return re.sub(rf"{name}(?=\s*\.)", "{schema}", re.sub(rf"(?<=search_path=){name}", "{schema}", definition))


# Each gives schema, table (where it belongs to one), name and definition of one kind of objects; {schemas} are the oids
# of schemas, {of} joins their tables. The server writes names that are on the search path without their schema.
_OWN = """t.relnamespace = ANY ({schemas}) AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend e
            WHERE e.classid = t.tableoid AND e.objid = t.oid AND e.deptype = 'e')"""
_OF_TABLE = f"JOIN pg_catalog.pg_class t ON {_OWN} AND t.oid"
_QUERIES = {
    "table": """
        SELECT t.relnamespace, t.relname, t.relname, pg_catalog.concat_ws(' ',
            CASE t.relkind WHEN 'r' THEN 'table' WHEN 'p' THEN 'partitioned table' ELSE 'foreign table' END,
            CASE t.relpersistence WHEN 'u' THEN 'unlogged' END,
            CASE WHEN t.relrowsecurity THEN 'with row security' END,
            CASE WHEN t.relforcerowsecurity THEN 'forced' END,
            'partitioned by ' || pg_catalog.pg_get_partkeydef(t.oid),
            pg_catalog.pg_get_expr(t.relpartbound, t.oid),
            (SELECT 'inherits ' || pg_catalog.string_agg(inhparent::pg_catalog.regclass::text, ', ' ORDER BY inhseqno)
             FROM pg_catalog.pg_inherits WHERE inhrelid = t.oid),
            'with ' || pg_catalog.array_to_string(t.reloptions, ', '))
        FROM pg_catalog.pg_class t WHERE {own} AND t.relkind IN ('r', 'p', 'f')""",
    "view": """
        SELECT t.relnamespace, '', t.relname, pg_catalog.concat_ws(' ',
            CASE t.relkind WHEN 'v' THEN 'view' ELSE 'materialized view' END,
            'with ' || pg_catalog.array_to_string(t.reloptions, ', '),
            pg_catalog.pg_get_viewdef(t.oid, true))
        FROM pg_catalog.pg_class t WHERE {own} AND t.relkind IN ('v', 'm')""",
    "column": """
        SELECT t.relnamespace, t.relname, t.relname || '.' || a.attname, pg_catalog.concat_ws(' ',
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
        SELECT t.relnamespace, t.relname, t.relname || '.' || c.conname, pg_catalog.pg_get_constraintdef(c.oid)
        FROM pg_catalog.pg_constraint c {of} = c.conrelid WHERE c.contype <> 'n' AND c.contype <> 't'""",
    "index": """
        SELECT t.relnamespace, t.relname, t.relname || '.' || x.relname, pg_catalog.concat_ws(' ',
            pg_catalog.pg_get_indexdef(i.indexrelid, 0, true),
            CASE WHEN NOT i.indisvalid THEN 'invalid' END,
            CASE WHEN i.indisreplident THEN 'replica identity' END)
        FROM pg_catalog.pg_index i {of} = i.indrelid JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid
        WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_constraint WHERE conindid = i.indexrelid AND conrelid = t.oid)""",
    "sequence": """
        SELECT t.relnamespace, o.name, t.relname, pg_catalog.concat_ws(' ', s.seqtypid::pg_catalog.regtype,
            'start', s.seqstart, 'from', s.seqmin, 'to', s.seqmax, 'by', s.seqincrement, 'cache', s.seqcache,
            CASE WHEN s.seqcycle THEN 'cycle' END, 'owned by ' || o.col)
        FROM pg_catalog.pg_sequence s {of} = s.seqrelid
        LEFT JOIN LATERAL (
            SELECT r.relname AS name, r.oid::pg_catalog.regclass || '.' || a.attname AS col
            FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_class r ON r.oid = d.refobjid
            JOIN pg_catalog.pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
            WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objid = t.oid
                AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.deptype IN ('a', 'i')
        ) o ON true""",
    "trigger": """
        SELECT t.relnamespace, t.relname, t.relname || '.' || g.tgname,
            pg_catalog.concat_ws(' ', pg_catalog.pg_get_triggerdef(g.oid, true), 'enabled', g.tgenabled)
        FROM pg_catalog.pg_trigger g {of} = g.tgrelid WHERE NOT g.tgisinternal""",
    "rule": """
        SELECT t.relnamespace, t.relname, t.relname || '.' || r.rulename,
            pg_catalog.concat_ws(' ', pg_catalog.pg_get_ruledef(r.oid, true), 'enabled', r.ev_enabled)
        FROM pg_catalog.pg_rewrite r {of} = r.ev_class WHERE r.rulename <> '_RETURN'""",
    "policy": """
        SELECT t.relnamespace, t.relname, t.relname || '.' || p.polname, pg_catalog.concat_ws(' ',
            CASE WHEN p.polpermissive THEN 'permissive' ELSE 'restrictive' END, 'for', p.polcmd,
            (SELECT 'to ' || pg_catalog.string_agg(role::pg_catalog.regrole::text, ', ' ORDER BY role)
             FROM pg_catalog.unnest(p.polroles) role WHERE role <> 0),
            'using ' || pg_catalog.pg_get_expr(p.polqual, p.polrelid),
            'with check ' || pg_catalog.pg_get_expr(p.polwithcheck, p.polrelid))
        FROM pg_catalog.pg_policy p {of} = p.polrelid""",
    "statistics": """
        SELECT t.relnamespace, t.relname, t.relname || '.' || s.stxname, pg_catalog.pg_get_statisticsobjdef(s.oid)
        FROM pg_catalog.pg_statistic_ext s {of} = s.stxrelid""",
    "function": """
        SELECT p.pronamespace, '', p.proname || '(' || pg_catalog.pg_get_function_identity_arguments(p.oid) || ')',
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
        WHERE p.pronamespace = ANY ({schemas}) AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend
            WHERE classid = p.tableoid AND objid = p.oid AND deptype IN ('e', 'i'))""",
    "type": """
        SELECT y.typnamespace, '', y.typname, pg_catalog.concat_ws(' ',
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
        WHERE y.typnamespace = ANY ({schemas}) AND y.typtype IN ('e', 'd', 'c', 'r')
            AND (t.oid IS NULL OR t.relkind = 'c') AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend
            WHERE classid = y.tableoid AND objid = y.oid AND deptype = 'e')""",
    "comment": """
        SELECT o.schema, '', pg_catalog.pg_describe_object(c.classoid, c.objoid, c.objsubid), c.description
        FROM pg_catalog.pg_description c JOIN (
            SELECT tableoid, oid, relnamespace AS schema FROM pg_catalog.pg_class
            UNION ALL SELECT tableoid, oid, pronamespace FROM pg_catalog.pg_proc
            UNION ALL SELECT tableoid, oid, typnamespace FROM pg_catalog.pg_type
            UNION ALL SELECT tableoid, oid, connamespace FROM pg_catalog.pg_constraint
            UNION ALL SELECT tableoid, oid, stxnamespace FROM pg_catalog.pg_statistic_ext
            UNION ALL SELECT g.tableoid, g.oid, t.relnamespace FROM pg_catalog.pg_trigger g
                JOIN pg_catalog.pg_class t ON t.oid = g.tgrelid
            UNION ALL SELECT p.tableoid, p.oid, t.relnamespace FROM pg_catalog.pg_policy p
                JOIN pg_catalog.pg_class t ON t.oid = p.polrelid
        ) o ON o.schema = ANY ({schemas}) AND o.tableoid = c.classoid AND o.oid = c.objoid
        WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_depend
            WHERE classid = c.classoid AND objid = c.objoid AND deptype = 'e')""",
}

_VIEWS = """
SELECT n.nspname, count(*) FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relhasrules AND n.nspname = ANY (%s) GROUP BY 1
"""

# The schema's own name stands in definitions as a word; where it is part of something else, the sum is unlike others'.
_FINGERPRINTS = """
SELECT schema, pg_catalog.count(*), pg_catalog.sum(pg_catalog.hashtextextended(
    CASE WHEN pg_catalog.strpos(text, nspname) = 0 THEN text ELSE pg_catalog.regexp_replace(
        text, '\\m' || pg_catalog.regexp_replace(nspname, '(\\W)', '\\\\\\1', 'g') || '\\M', E'\\x01', 'g') END, 0))
FROM (SELECT schema, pg_catalog.concat_ws(E'\\x02', kind, name, definition) AS text FROM ({objects}) a) b
JOIN pg_catalog.pg_namespace n ON n.oid = schema GROUP BY schema
"""
