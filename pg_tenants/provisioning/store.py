"""Where templates are kept: a table of the database, outside all modules, made by plain SQL when it is needed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from django.db import transaction
from django.db.utils import ProgrammingError
from psycopg import errors as pg_errors

from pg_tenants import roles
from pg_tenants.backends.prefix import advisory_key
from pg_tenants.context import no_schema
from pg_tenants.exceptions import SchemaNotPermitted
from pg_tenants.names import TEMPLATES_TABLE
from pg_tenants.schemas import tenant_connection

__all__ = ["Row", "lock", "locks_needed", "rows", "save"]

_TABLE = f"public.{TEMPLATES_TABLE}"
_KEPT = 3
"""Templates that are kept of each module: while a new version is rolled out, the old one still makes tenants."""

_CREATE = f"""
CREATE TABLE IF NOT EXISTS {_TABLE} (
    module text NOT NULL,
    fingerprint text NOT NULL,
    code text NOT NULL,
    code_hash text NOT NULL,
    definitions text NOT NULL,
    rows text NOT NULL,
    migrations text NOT NULL,
    locks integer NOT NULL,
    reason text NOT NULL,
    made_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    PRIMARY KEY (module, fingerprint, code_hash)
)
"""


@dataclass(slots=True)
class Row:
    """A row of the table.

    Attributes:
        module: the modules' names.
        fingerprint: that of the modules.
        code: Python modules whose functions the migrations run.
        code_hash: the hash of their files.
        definitions, rows, migrations, locks: what the script has.
        reason: why there is no script.
    """

    module: str
    fingerprint: str
    code: list[str]
    code_hash: str
    definitions: str = ""
    rows: str = ""
    migrations: list[str] = field(default_factory=list)
    locks: int = 0
    reason: str = ""


def rows(module: str, fingerprint: str, *, using: str) -> list[Row]:
    """Return what is kept for modules under a fingerprint, the newest first."""
    with _cursor(using) as cursor:
        if not _is_there(cursor):
            return []
        cursor.execute(
            f"SELECT module, fingerprint, code, code_hash, definitions, rows, migrations, locks, reason FROM {_TABLE}"  # noqa: S608
            " WHERE module = %s AND fingerprint = %s ORDER BY made_at DESC",
            [module, fingerprint],
        )
        found = cursor.fetchall()
    return [
        Row(row[0], row[1], json.loads(row[2]), row[3], row[4], row[5], json.loads(row[6]), row[7], row[8])
        for row in found
    ]


def lock(*, using: str) -> None:
    """Wait until nobody else makes a template, for the rest of the transaction; make the table if it is missing.

    Raises:
        SchemaNotPermitted: the role may not make tables in ``public``.
    """
    connection = tenant_connection(using)
    with connection.without_prefix() as execute:
        # One that waits is not to be ended by the timeouts of migrations.
        execute(
            "SET LOCAL lock_timeout = 0; SET LOCAL statement_timeout = 0; "
            f"SELECT pg_catalog.pg_advisory_xact_lock({advisory_key(_TABLE)}); "
            "SET LOCAL lock_timeout TO DEFAULT; SET LOCAL statement_timeout TO DEFAULT"
        )
    try:
        with transaction.atomic(using=using), _cursor(using) as cursor:
            if not _is_there(cursor):
                cursor.execute(_CREATE)
                roles.keep_out(using=using)
    except ProgrammingError as exc:
        if not isinstance(exc.__cause__, (pg_errors.InsufficientPrivilege, pg_errors.InvalidSchemaName)):
            raise
        raise SchemaNotPermitted(
            f"The table {_TABLE}, which keeps templates of tenants' schemas, cannot be made: {exc}. Until it is there, "
            "schemas are made by running all migrations. Run GRANT USAGE, CREATE ON SCHEMA public TO the database "
            "role, and then migrate_schemas."
        ) from exc


def save(row: Row, *, using: str) -> None:
    """Keep a template, and let go of those of its modules that are older than the newest three."""
    with _cursor(using) as cursor:
        cursor.execute(
            f"INSERT INTO {_TABLE} (module, fingerprint, code, code_hash, definitions, rows, migrations, locks, reason)"  # noqa: S608
            " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)"
            " ON CONFLICT (module, fingerprint, code_hash) DO UPDATE SET code = EXCLUDED.code,"
            " definitions = EXCLUDED.definitions, rows = EXCLUDED.rows, migrations = EXCLUDED.migrations,"
            " locks = EXCLUDED.locks, reason = EXCLUDED.reason, made_at = pg_catalog.clock_timestamp()",
            [
                row.module,
                row.fingerprint,
                json.dumps(row.code),
                row.code_hash,
                row.definitions,
                row.rows,
                json.dumps(row.migrations),
                row.locks,
                row.reason,
            ],
        )
        cursor.execute(
            f"DELETE FROM {_TABLE} WHERE module = %s AND made_at < (SELECT min(made_at) FROM (SELECT made_at"  # noqa: S608
            f" FROM {_TABLE} WHERE module = %s ORDER BY made_at DESC LIMIT {_KEPT}) AS newest)",
            [row.module, row.module],
        )


def locks_needed(*, using: str) -> int:
    """Return how many locks the largest module takes to make a schema of; 0 if no template tells."""
    with _cursor(using) as cursor:
        if not _is_there(cursor):
            return 0
        cursor.execute(f"SELECT coalesce(max(locks), 0) FROM {_TABLE}")  # noqa: S608
        return int(cursor.fetchone()[0])


@contextmanager
def _cursor(using: str) -> Iterator[Any]:
    with no_schema(), tenant_connection(using).cursor() as cursor:
        yield cursor


def _is_there(cursor: Any) -> bool:
    # A role that may not read the table has no templates.
    cursor.execute(
        "SELECT CASE WHEN pg_catalog.to_regclass(%s) IS NOT NULL"
        " THEN pg_catalog.has_table_privilege(%s, 'SELECT') ELSE false END",
        [_TABLE, _TABLE],
    )
    return bool(cursor.fetchone()[0])
