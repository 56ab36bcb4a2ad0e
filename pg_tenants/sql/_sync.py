"""The functions on Django's connections: they take part in ``transaction.atomic()``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from itertools import chain
from typing import Any, TypeVar, cast

from django.db import DEFAULT_DB_ALIAS, connections

from pg_tenants.context import ActiveContext, active
from pg_tenants.sql._rows import (
    Columns,
    Params,
    as_dicts,
    as_models,
    columns_of,
    copy_statement,
    id_of,
    records_as_rows,
    rendered,
    row_of,
    with_returning,
)

__all__ = [
    "copy_records",
    "execute",
    "execute_and_return_id",
    "executemany",
    "fetch_all",
    "fetch_all_as_model",
    "fetch_as_model",
    "fetch_one",
    "fetch_val",
    "fetch_value",
    "render",
]

T = TypeVar("T")


def render(text: str, *, using: str = DEFAULT_DB_ALIAS) -> str:
    """Return SQL text with its templates replaced for the schema that is active now.

    ``{{tables.notes_note}}`` becomes ``"acme".notes_note``, ``{{tables.billing_invoice}}`` becomes
    ``"billing".billing_invoice``, and ``{{schema}}`` becomes ``"acme"``. String constants, quoted identifiers,
    comments and dollar quotes stay as they are. On an alias without schemas, tables keep their bare names.

    Args:
        text: the SQL. ``{{tables.module.name}}`` and ``{{schema.module}}`` say which module is meant.
        using: the database alias that it is for.

    Raises:
        SqlTemplateError: a template names nothing that is known, or several things.
        NoActiveTenant: it names a tenant's table or schema, and no tenant that has it is active.
    """
    return rendered(text, connections[using])


def execute(sql: str, params: Params = None, *, using: str = DEFAULT_DB_ALIAS) -> int:
    """Run a statement, and return how many rows it changed or found; -1 where PostgreSQL does not say.

    Args:
        sql: the statement, with templates and placeholders.
        params: the values of the placeholders.
        using: the database alias.
    """
    connection = connections[using]
    with connection.cursor() as cursor:
        cursor.execute(rendered(sql, connection), params)
        return int(cursor.rowcount)


def executemany(sql: str, params: Iterable[Params], *, using: str = DEFAULT_DB_ALIAS) -> int:
    """Run a statement for each set of values, in one round trip, and return how many rows it changed in all.

    Args:
        sql, using: as of ``execute``.
        params: the values of the placeholders, once for each time.
    """
    connection = connections[using]
    with connection.cursor() as cursor:
        cursor.executemany(rendered(sql, connection), cast(Any, params))
        return int(cursor.rowcount)


def fetch_all(sql: str, params: Params = None, *, using: str = DEFAULT_DB_ALIAS) -> list[dict[str, Any]]:
    """Return all rows, each as a dictionary by column; JSON is decoded.

    Args:
        sql, params, using: as of ``execute``.
    """
    columns, rows = _run(sql, params, using)
    return as_dicts(columns, rows)


def fetch_one(sql: str, params: Params = None, *, using: str = DEFAULT_DB_ALIAS) -> dict[str, Any] | None:
    """Return the first row as a dictionary by column; None without one.

    Args:
        sql, params, using: as of ``execute``.
    """
    columns, rows = _run(sql, params, using, most=1)
    return next(iter(as_dicts(columns, rows)), None)


def fetch_value(sql: str, params: Params = None, *, using: str = DEFAULT_DB_ALIAS) -> Any:
    """Return the first column of the first row; None without a row.

    Args:
        sql, params, using: as of ``execute``.
    """
    row = fetch_one(sql, params, using=using)
    return None if row is None else next(iter(row.values()), None)


fetch_val = fetch_value


def execute_and_return_id(sql: str, params: Params = None, *, using: str = DEFAULT_DB_ALIAS) -> Any:
    """Run an INSERT and return the ``id`` of its first row; ``RETURNING id`` is added unless it returns something.

    Args:
        sql, params, using: as of ``execute``.

    Raises:
        UnsafeStatement: it is not one INSERT.
    """
    return id_of(fetch_one(with_returning(sql), params, using=using))


def fetch_all_as_model(model: type[T], sql: str, params: Params = None, *, using: str = DEFAULT_DB_ALIAS) -> list[T]:
    """Return all rows as instances of a Django model, a dataclass, or a pydantic model.

    Columns that a Django model has no field for become attributes; fields that are not selected are loaded when they
    are asked for.

    Args:
        model: the class.
        sql, params, using: as of ``execute``.

    Raises:
        RowMismatch: the columns are not what the class takes.
        TypeError: the class is none of the three.
    """
    columns, rows = _run(sql, params, using)
    return as_models(model, columns, rows, connections[using])


def fetch_as_model(model: type[T], sql: str, params: Params = None, *, using: str = DEFAULT_DB_ALIAS) -> T | None:
    """Return the first row as an instance of a model, as ``fetch_all_as_model`` does; None without one."""
    columns, rows = _run(sql, params, using, most=1)
    return next(iter(as_models(model, columns, rows, connections[using])), None)


def copy_records(
    table: Any,
    records: Iterable[Sequence[Any] | Mapping[str, Any]],
    *,
    columns: Sequence[str] | None = None,
    using: str = DEFAULT_DB_ALIAS,
) -> int:
    """Write records by COPY, all or none, and return how many there were.

    Memory does not grow with their number. Rows come past the models: no defaults of Python, no signals.

    Args:
        table: a model, or a table's name.
        records: sequences in the order of ``columns``, or dictionaries by column.
        columns: the columns; None for the keys of the first dictionary.
        using: the database alias.

    Raises:
        RowMismatch: a record does not fit the columns.
    """
    here, source = ActiveContext(active()), iter(records)
    first = next(source, None)
    if first is None:
        return 0
    names, mapped = records_as_rows(first, columns)
    connection: Any = connections[using]
    count = 0
    with ExitStack() as stack:
        # A generator that reads another tenant's rows is inside that one's context now.
        with here:
            cursor = stack.enter_context(connection.cursor())
            stack.enter_context(connection.wrap_database_errors)
            copy = stack.enter_context(cursor.copy(copy_statement(table, names, connection)))
        for count, record in enumerate(chain((first,), source), 1):
            copy.write_row(row_of(record, names, mapped, count))
    return count


def _run(sql: str, params: Params, using: str, most: int | None = None) -> tuple[Columns, list[Any]]:
    connection = connections[using]
    with connection.cursor() as cursor:
        cursor.execute(rendered(sql, connection), params)
        columns = columns_of(cursor)
        if not columns:
            return columns, []
        return columns, cursor.fetchall() if most is None else cursor.fetchmany(most)
