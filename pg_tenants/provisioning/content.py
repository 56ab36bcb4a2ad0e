"""The rows and the sequences of a schema: read, compared, and written as SQL that makes them anew."""

from __future__ import annotations

import re
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from graphlib import CycleError, TopologicalSorter
from typing import Any

from pg_tenants.backends.prefix import path_text, quote
from pg_tenants.names import MARKER_TABLE

__all__ = ["Clock", "Content", "Fresh", "Table", "merged", "read", "same", "statements", "with_fresh_uuids"]

_SLACK = timedelta(minutes=10)
"""Two runs write times that differ by as much as the runs are apart, give or take what one takes."""

_CLOCKS = {"timestamptz": "pg_catalog.now()", "timestamp": "LOCALTIMESTAMP", "date": "CURRENT_DATE"}
_UUID = re.compile(r"\{pg_tenants:uuid:(\d+)\}")
"""How a column of a type gets the time of the transaction. A date has no more than the day."""


@dataclass(frozen=True, slots=True)
class Clock:
    """A time that the clock gave, as seconds after the moment when the schema was complete."""

    offset: float


@dataclass(frozen=True, slots=True)
class Fresh:
    """A random UUID, which each schema has another one of; the same number stands for the same one."""

    number: int


Value = str | None | Clock | Fresh


@dataclass(frozen=True, slots=True)
class Table:
    """A table, or a materialized view, with its rows as text.

    Attributes:
        columns: names and types in their order, without generated columns.
        rows: the values of these columns, in the order of the primary key; where that is a UUID, of all other values.
        is_view: whether it is a materialized view, which is not written to.
        refers_to: the tables of the schema that its foreign keys point to.
        foreign_keys: the names of those that are checked at the end of the transaction.
        triggers: statements that switch users' triggers off, and on again as they were.
    """

    columns: tuple[tuple[str, str], ...]
    rows: tuple[tuple[Value, ...], ...]
    is_view: bool
    refers_to: tuple[str, ...]
    foreign_keys: tuple[str, ...]
    triggers: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Content:
    """What is in a schema besides its definitions.

    Attributes:
        tables: by name.
        sequences: last value and whether it was given out, by name.
        moment: when it was read, by the types of time.
    """

    tables: dict[str, Table]
    sequences: dict[str, tuple[int, bool]]
    moment: dict[str, datetime]


_TABLES = """
SELECT t.relname, t.relkind = 'm',
    ARRAY(SELECT a.attname::text FROM pg_catalog.pg_attribute a WHERE a.attrelid = t.oid AND a.attnum > 0
        AND NOT a.attisdropped AND a.attgenerated = '' ORDER BY a.attnum),
    ARRAY(SELECT y.typname::text FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_type y ON y.oid = a.atttypid
        WHERE a.attrelid = t.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '' ORDER BY a.attnum),
    ARRAY(SELECT a.attname::text FROM pg_catalog.pg_index i JOIN pg_catalog.pg_attribute a
        ON a.attrelid = t.oid AND a.attnum = ANY (i.indkey) WHERE i.indrelid = t.oid AND i.indisprimary),
    ARRAY(SELECT r.relname::text FROM pg_catalog.pg_constraint c JOIN pg_catalog.pg_class r ON r.oid = c.confrelid
        WHERE c.conrelid = t.oid AND c.contype = 'f' AND r.relnamespace = t.relnamespace AND r.oid <> t.oid),
    ARRAY(SELECT c.conname::text FROM pg_catalog.pg_constraint c
        WHERE c.conrelid = t.oid AND c.contype = 'f' AND c.condeferred ORDER BY 1),
    ARRAY(SELECT g.tgname::text FROM pg_catalog.pg_trigger g
        WHERE g.tgrelid = t.oid AND NOT g.tgisinternal AND g.tgenabled IN ('O', 'A') ORDER BY 1),
    ARRAY(SELECT g.tgname::text FROM pg_catalog.pg_trigger g
        WHERE g.tgrelid = t.oid AND NOT g.tgisinternal AND g.tgenabled = 'A' ORDER BY 1)
FROM pg_catalog.pg_class t WHERE t.relnamespace = {schema}::pg_catalog.regnamespace AND t.relkind IN ('r', 'm')
    AND NOT pg_catalog.starts_with(t.relname::text, '{marker}') ORDER BY 1
"""
_SEQUENCES = """
SELECT relname FROM pg_catalog.pg_class
WHERE relnamespace = {schema}::pg_catalog.regnamespace AND relkind = 'S' ORDER BY 1
"""
# Forms that are read the same whatever a session is set to.
_FORMS = (
    "SET LOCAL datestyle = ISO; SET LOCAL intervalstyle = iso_8601; SET LOCAL timezone = 'UTC'; "
    "SET LOCAL extra_float_digits = 3; SET LOCAL bytea_output = hex"
)


def read(execute: Callable[[str], Any], schema: str) -> Content:
    """Return the content of a schema, by its name in the database; it changes settings of the transaction."""
    moment = execute(
        "SELECT pg_catalog.clock_timestamp() AT TIME ZONE 'UTC', pg_catalog.clock_timestamp()::timestamp"
    ).fetchone()
    execute(_FORMS)
    # Names of relations in columns such as regclass are written without their schema.
    execute(f"SET LOCAL search_path = {path_text([schema])}")
    literal = _literal(quote(schema))
    found = execute(_TABLES.replace("{schema}", literal).replace("{marker}", MARKER_TABLE)).fetchall()
    tables = {name: _table(execute, schema, name, *rest) for name, *rest in found}
    names = [name for (name,) in execute(_SEQUENCES.replace("{schema}", literal)).fetchall()]
    sequences = {}
    for name in names:
        row = execute(f"SELECT last_value, is_called FROM {quote(schema)}.{quote(name)}").fetchone()  # noqa: S608  # quoted
        sequences[name] = (int(row[0]), bool(row[1]))
    return Content(tables, sequences, {"timestamptz": moment[0], "timestamp": moment[1], "date": moment[1]})


def _table(
    execute: Callable[[str], Any],
    schema: str,
    name: str,
    is_view: bool,
    columns: list[str],
    types: list[str],
    key: list[str],
    refers_to: list[str],
    foreign_keys: list[str],
    triggers: list[str],
    always: list[str],
) -> Table:
    order = ", ".join(map(quote, key))
    if not key or "uuid" in {kind for column, kind in zip(columns, types, strict=True) if column in key}:
        # Random keys are in another order each time.
        chosen = [column for column, kind in zip(columns, types, strict=True) if kind != "uuid"] or columns
        order = ", ".join(f"{quote(column)}::text" for column in chosen)
    values = ", ".join(f"{quote(column)}::text" for column in columns)
    rows = (
        execute(f"SELECT {values} FROM ONLY {quote(schema)}.{quote(name)} ORDER BY {order}").fetchall()  # noqa: S608  # quoted
        if columns
        else []
    )
    alter = f"ALTER TABLE ONLY {quote(name)}"
    switches = tuple(
        (
            f"{alter} DISABLE TRIGGER {quote(trigger)}",
            f"{alter} ENABLE {'ALWAYS ' if trigger in always else ''}TRIGGER {quote(trigger)}",
        )
        for trigger in triggers
    )
    return Table(
        columns=tuple(zip(columns, types, strict=True)),
        rows=tuple(tuple(row) for row in rows),
        is_view=is_view,
        refers_to=tuple(refers_to),
        foreign_keys=tuple(foreign_keys),
        triggers=switches,
    )


# -- compare ----------------------------------------------------------------------------------------------------------


def merged(
    first: Content, second: Content, random: Collection[tuple[str, str | None]] = ()
) -> tuple[Content, list[str]]:
    """Return the second of two runs' contents, with what each schema has anew, and what else differs.

    Args:
        first, second: what the runs have left.
        random: columns, as table and name, that get random UUIDs. Where other columns refer to these, they follow.

    Returns:
        the content with times as ``Clock`` and UUIDs as ``Fresh``; and names, as ``table.column``.
    """
    differing: list[str] = []
    pairs = {
        name: (first.tables[name], second.tables[name])
        for name in first.tables.keys() & second.tables.keys()
        if first.tables[name].columns == second.tables[name].columns
        and len(first.tables[name].rows) == len(second.tables[name].rows)
    }
    differing.extend(sorted({*first.tables, *second.tables} - pairs.keys()))
    fresh = _fresh(pairs, random)
    tables: dict[str, Table] = {}
    for name, (one, two) in pairs.items():
        rows, columns = _merged_rows(one, two, first, second, fresh)
        differing.extend(f"{name}.{column}" for column in columns)
        tables[name] = replace(two, rows=rows)
    differing.extend(sorted({name for name, _ in first.sequences.items() ^ second.sequences.items()}))
    return replace(second, tables=tables), differing


def _fresh(
    pairs: dict[str, tuple[Table, Table]], random: Collection[tuple[str, str | None]]
) -> dict[tuple[Value, Value], Fresh]:
    """Return a number for each random UUID, by its values in the two runs."""
    found = {
        (a, b)
        for name, (one, two) in sorted(pairs.items())
        for place, (column, kind) in enumerate(one.columns)
        if kind == "uuid" and (name, column) in random
        for a, b in zip((row[place] for row in one.rows), (row[place] for row in two.rows), strict=True)
        if a != b
    }
    # One that stands for two of the other run is not merely another one.
    lefts, rights = Counter(a for a, _ in found), Counter(b for _, b in found)
    alike = sorted((a, b) for a, b in found if a is not None and b is not None and lefts[a] == rights[b] == 1)
    return {pair: Fresh(number) for number, pair in enumerate(alike)}


def _merged_rows(
    one: Table, two: Table, first: Content, second: Content, fresh: dict[tuple[Value, Value], Fresh]
) -> tuple[tuple[tuple[Value, ...], ...], list[str]]:
    differing: set[str] = set()
    rows = []
    for left, right in zip(one.rows, two.rows, strict=True):
        row = list[Value]()
        for (column, kind), a, b in zip(one.columns, left, right, strict=True):
            anew = fresh.get((a, b)) if kind == "uuid" else _clock(kind, a, b, first, second)
            if anew is None and a != b:
                differing.add(column)
            row.append(b if anew is None else anew)
        rows.append(tuple(row))
    # Where a key is random, all columns of the rows differ by their order; those with other values are to be named.
    truly = {
        column
        for place, (column, _) in enumerate(one.columns)
        if column in differing and _values(one.rows, place) != _values(two.rows, place)
    }
    return tuple(rows), sorted(truly or differing)


def _values(rows: Iterable[tuple[Value, ...]], place: int) -> list[str]:
    return sorted(str(row[place]) for row in rows)


def _clock(kind: str, a: Value, b: Value, first: Content, second: Content) -> Clock | None:
    """Return what to write for a time that came from the clock; None for any other value."""
    if kind not in _CLOCKS or not isinstance(a, str) or not isinstance(b, str):
        return None
    if kind == "date":
        return Clock(0) if _is_today(a, first) and _is_today(b, second) else None
    if a == b:
        return None
    try:
        since = [
            datetime.fromisoformat(text).replace(tzinfo=None) - content.moment[kind]
            for text, content in ((a, first), (b, second))
        ]
    except ValueError:
        return None  # Infinity, or before Christ.
    return Clock(since[1].total_seconds()) if abs(since[0] - since[1]) < _SLACK else None


def _is_today(text: str, content: Content) -> bool:
    try:
        day = date.fromisoformat(text)
    except ValueError:
        return False
    return day in {moment.date() for moment in content.moment.values()}


def same(wanted: Content, found: Content) -> list[str]:
    """Return what another content has differently than one with ``Clock``, as ``table.column`` or a table's name."""
    differing = {name for name in {*wanted.tables, *found.tables} if name not in wanted.tables}
    for name, table in wanted.tables.items():
        other = found.tables.get(name)
        if other is None or other.columns != table.columns or len(other.rows) != len(table.rows):
            differing.add(name)
            continue
        # Rows without a primary key are in the order of their values, so those are compared that have no times.
        pairs = zip(_comparable(table.rows, table.rows), _comparable(other.rows, table.rows), strict=True)
        differing |= {
            f"{name}.{table.columns[place][0]}"
            for left, right in pairs
            for place, (a, b) in enumerate(zip(left, right, strict=True))
            if a != b
        }
    return [*sorted(differing), *sorted(n for n, _ in wanted.sequences.items() ^ found.sequences.items())]


def _comparable(rows: Sequence[tuple[Value, ...]], model: Sequence[tuple[Value, ...]]) -> list[tuple[str, ...]]:
    clocks = {place for row in model for place, value in enumerate(row) if isinstance(value, (Clock, Fresh))}
    return sorted(tuple("" if place in clocks else repr(value) for place, value in enumerate(row)) for row in rows)


# -- write ------------------------------------------------------------------------------------------------------------


def statements(content: Content, filled: Iterable[str] = ()) -> Iterator[str]:
    """Yield the statements that write a content into a schema whose tables are there.

    Args:
        content: what to write.
        filled: tables that have rows already, from statements that made them; those rows go first.

    Raises:
        ValueError: tables refer to each other in a circle by foreign keys that cannot be deferred.
    """
    with_rows = [name for name in _in_order(content.tables) if content.tables[name].rows]
    writable = [name for name in with_rows if not content.tables[name].is_view]
    switches = [pair for name in {*writable, *filled} for pair in content.tables[name].triggers]
    # Definitions leave some of them immediate for the rest of the transaction.
    if every := _names(content.tables.values()):
        yield f"SET CONSTRAINTS {every} DEFERRED"
    yield from (off for off, _ in switches)
    for name in filled:
        yield f"DELETE FROM ONLY {quote(name)}"  # noqa: S608  # quoted
    for name in writable:
        yield _insert(name, content.tables[name])
    if keys := _names(content.tables[name] for name in writable):
        # Else they would fire at the commit, and keep the tables from being altered in this transaction.
        yield f"SET CONSTRAINTS {keys} IMMEDIATE"
        yield f"SET CONSTRAINTS {keys} DEFERRED"
    yield from (on for _, on in switches)
    values = [
        f"pg_catalog.setval({_literal(quote(name))}, {value}, {called})"
        for name, (value, called) in content.sequences.items()
        if called
    ]
    if values:
        yield f"SELECT {', '.join(values)}"


def _names(tables: Iterable[Table]) -> str:
    return ", ".join(quote(key) for table in tables for key in table.foreign_keys)


def _in_order(tables: dict[str, Table]) -> list[str]:
    """Return the names so that tables come after those that they refer to."""
    try:
        return list(TopologicalSorter({name: table.refers_to for name, table in tables.items()}).static_order())
    except CycleError:
        # Deferrable keys do not mind; a replay that fails shows those that do.
        return list(tables)


def _insert(name: str, table: Table) -> str:
    columns = ", ".join(quote(column) for column, _ in table.columns)
    kinds = [kind for _, kind in table.columns]
    rows = ",\n".join(f"({', '.join(map(_value, row, kinds))})" for row in table.rows)
    return f"INSERT INTO {quote(name)} ({columns}) OVERRIDING SYSTEM VALUE VALUES\n{rows}"  # quoted


def _value(value: Value, kind: str) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, str):
        return _literal(value)
    if isinstance(value, Fresh):
        return f"'{{pg_tenants:uuid:{value.number}}}'"
    if kind == "date":
        return _CLOCKS[kind]
    return f"{_CLOCKS[kind]} + '{value.offset:.6f} s'::pg_catalog.interval"


def with_fresh_uuids(text: str) -> str:
    """Return SQL of ``statements`` with random UUIDs of its own."""
    made: defaultdict[str, str] = defaultdict(lambda: str(uuid.uuid4()))
    return _UUID.sub(lambda match: made[match[1]], text)


def _literal(text: str) -> str:
    quoted = text.replace("'", "''")
    # Means the same whether standard_conforming_strings is on or off.
    return "E'" + quoted.replace("\\", "\\\\") + "'" if "\\" in quoted else f"'{quoted}'"
