"""What statements need before they are sent, and what becomes of their rows; the same for both kinds of connection."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from django.db import models

from pg_tenants import instances, sqltemplates
from pg_tenants.exceptions import RowMismatch, UnsafeStatement
from pg_tenants.sqltext import quote, split, tokens

__all__ = [
    "Columns",
    "Params",
    "as_dicts",
    "as_models",
    "columns_of",
    "copy_statement",
    "id_of",
    "records_as_rows",
    "rendered",
    "row_of",
    "with_returning",
]

T = TypeVar("T")
Params = Sequence[Any] | Mapping[str, Any] | None
"""Values for ``%s`` or ``%(name)s``; None sends the text as it is, so that ``%`` needs no doubling."""

Columns = list[tuple[str, int]]
"""The name and the type's oid of each column; empty for a statement without rows."""

_JSON = (114, 3802)
"""The types json and jsonb, which Django's connections hand out as text."""


def rendered(text: str, connection: Any) -> str:
    """Return SQL with its templates replaced, for a connection and what is active now."""
    return sqltemplates.render(text, connection)


def with_returning(text: str) -> str:
    """Return an INSERT that returns its ``id``, unless it returns something already.

    Raises:
        UnsafeStatement: it is not one INSERT.
    """
    source = text.encode()
    statements = list(split(source, most=10_000))
    if len(statements) != 1 or b"insert" not in statements[0][1]:
        raise UnsafeStatement(
            "execute_and_return_id takes one INSERT. Use fetch_value for other statements, with their own RETURNING."
        )
    if b"returning" in statements[0][1]:
        return text
    end = max(
        (position + len(token) for position, kind, token in tokens(source) if kind not in ("space", "comment")),
        default=0,
    )
    body = source[:end].rstrip(b";").rstrip()
    return body.decode() + "\nRETURNING id"


def id_of(row: Mapping[str, Any] | None) -> Any:
    """Return the ``id`` of a row, or its first column; None without a row."""
    if row is None:
        return None
    return row["id"] if "id" in row else next(iter(row.values()))


def columns_of(cursor: Any) -> Columns:
    """Return the names and types of a result's columns.

    ``cursor.description`` makes an object with seven properties of each column, which takes longer than the rest.
    """
    result = cursor.pgresult
    if result is None:
        return []
    return [(result.fname(number).decode(), result.ftype(number)) for number in range(result.nfields)]


def as_dicts(columns: Columns, rows: Iterable[Sequence[Any]]) -> list[dict[str, Any]]:
    """Return rows as dictionaries by column; JSON is decoded.

    Raises:
        RowMismatch: two columns have one name, so one of them would be lost.
    """
    names = [name for name, _ in columns]
    twice = {name for name in names if names.count(name) > 1} if len(set(names)) < len(names) else ()
    if twice:
        raise RowMismatch(
            f"Several columns of the result are called {', '.join(sorted(map(repr, twice)))}. Name them with AS."
        )
    encoded = [number for number, (_, oid) in enumerate(columns) if oid in _JSON]
    if not encoded:
        return [dict(zip(names, row, strict=True)) for row in rows]
    found = []
    for row in rows:
        values = list(row)
        for number in encoded:
            if isinstance(values[number], str):
                values[number] = json.loads(values[number])
        found.append(dict(zip(names, values, strict=True)))
    return found


def as_models(model: type[T], columns: Columns, rows: Sequence[Sequence[Any]], connection: Any) -> list[T]:
    """Return rows as instances of a Django model, a dataclass, or a pydantic model.

    Args:
        model: the class.
        columns: the names and types of the columns.
        rows: the values.
        connection: the Django connection that they came by.

    Raises:
        RowMismatch: the columns are not what the class takes.
        TypeError: the class is none of the three.
    """
    if isinstance(model, type) and issubclass(model, models.Model):
        return _as_django(model, [name for name, _ in columns], rows, connection)
    found = as_dicts(columns, rows)
    if dataclasses.is_dataclass(model):
        return [_as_dataclass(model, row) for row in found]
    validate = getattr(model, "model_validate", None)
    if callable(validate):
        return [validate(row) for row in found]
    raise TypeError(f"{model!r} is no Django model, no dataclass and no pydantic model. Give one of these.")


def _as_dataclass(model: Any, row: dict[str, Any]) -> Any:
    taken = {field.name: field for field in dataclasses.fields(model) if field.init}
    unknown = sorted(row.keys() - taken.keys())
    missing = sorted(
        name
        for name, field in taken.items()
        if name not in row and field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    )
    if unknown or missing:
        said = [f"it has no field for {unknown}" * bool(unknown), f"there is no column for {missing}" * bool(missing)]
        raise RowMismatch(
            f"The rows do not fit {model.__name__}: {', and '.join(filter(None, said))}. Select what it has, with AS."
        )
    return model(**row)


def _as_django(model: Any, names: list[str], rows: Sequence[Sequence[Any]], connection: Any) -> list[Any]:
    fields = {field.column: field for field in model._meta.concrete_fields}
    by_name = [fields.get(name) for name in names]
    key = model._meta.pk
    if rows and key not in by_name:
        raise RowMismatch(
            f"The rows have no column {key.column!r}, the primary key of {model.__name__}. Select it as well."
        )
    converters = [
        (number, [*connection.ops.get_db_converters(column), *column.get_db_converters(connection)], column)
        for number, field in enumerate(by_name)
        if field is not None
        for column in (field.get_col(model._meta.db_table),)
    ]
    converters = [entry for entry in converters if entry[1]]
    attnames = [field.attname for field in by_name if field is not None]
    extra = [(number, name) for number, name in enumerate(names) if by_name[number] is None]
    own = [number for number, field in enumerate(by_name) if field is not None]
    place = instances.place_of_app(model._meta.app_label, connection.alias)
    alias = connection.alias if place is None else instances.TenantAlias.of(connection.alias, *place)
    found = []
    for row in rows:
        values = list(row)
        for number, functions, column in converters:
            for function in functions:
                values[number] = function(values[number], column, connection)
        instance = model.from_db(alias, attnames, [values[number] for number in own])
        for number, name in extra:
            setattr(instance, name, values[number])
        found.append(instance)
    return found


def copy_statement(table: Any, columns: Sequence[str], connection: Any) -> str:
    """Return ``COPY … FROM STDIN`` for a table, by its name or its model."""
    if isinstance(table, type) and issubclass(table, models.Model):
        table = str(table._meta.db_table)
    name = table if "{{" in table else "{{tables.%s}}" % (table if table.isidentifier() else quote(table))
    listed = ", ".join(quote(column) for column in columns)
    return f"COPY {rendered(name, connection)} ({listed}) FROM STDIN"


def records_as_rows(first: Any, columns: Sequence[str] | None) -> tuple[list[str], bool]:
    """Return the columns that records are written to, and whether a record is a mapping.

    Args:
        first: the first record.
        columns: those asked for; None for the keys of the first record.

    Raises:
        RowMismatch: the record does not fit.
    """
    if isinstance(first, Mapping):
        return list(columns or first), True
    if columns is None:
        raise RowMismatch(
            f"The first record is a {type(first).__name__}, so its columns are not known. Give columns=[...], or "
            "records that are dictionaries."
        )
    return list(columns), False


def row_of(record: Any, columns: Sequence[str], mapped: bool, number: int) -> Sequence[Any]:
    """Return what is written for a record.

    Raises:
        RowMismatch: it has other columns than the first, or another number of them.
    """
    if mapped:
        if not isinstance(record, Mapping) or record.keys() != set(columns):
            keys = sorted(record) if isinstance(record, Mapping) else type(record).__name__
            raise RowMismatch(
                f"Record {number} has {keys}, and the columns are {sorted(columns)}. Nothing was written. Give all "
                "records "
                "the same keys."
            )
        return [record[column] for column in columns]
    row: Sequence[Any] = record
    if isinstance(record, (str, bytes, Mapping)) or len(row) != len(columns):
        raise RowMismatch(
            f"Record {number} is {record!r:.100}, which is not one value for each of {list(columns)}; none was "
            "written. "
            "Give each record a value for every column."
        )
    return row
