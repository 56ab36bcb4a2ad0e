"""Ready schemas: spare ones whose tables are there already, so that a new tenant takes one in milliseconds.

They are made by the template, without its rows: those are written when a tenant takes the schema. A table of the
database lists them. To take one is to delete its row and to rename the schema, in the tenant's own transaction: of two
that do so at once each gets another one, and a rollback gives it back. One whose template is no longer the module's is
never taken; the next ``prepare`` drops it.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from django.db import DEFAULT_DB_ALIAS, transaction

from pg_tenants import conf, roles, schemas
from pg_tenants.backends.prefix import advisory_key, quote
from pg_tenants.context import no_schema
from pg_tenants.exceptions import SchemaDoesNotExist
from pg_tenants.migrations import Target, required_registry
from pg_tenants.names import READY_PREFIX, READY_TABLE
from pg_tenants.provisioning import template
from pg_tenants.schemas import tenant_connection

__all__ = ["make", "prepare"]

_TABLE = f"public.{READY_TABLE}"
_CREATE = f"""
CREATE TABLE IF NOT EXISTS {_TABLE} (
    schema_name text NOT NULL,
    worker text NOT NULL,
    module text NOT NULL,
    version text NOT NULL,
    made_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    PRIMARY KEY (worker, schema_name)
)
"""


def make(target: Target, *, using: str = DEFAULT_DB_ALIAS) -> None:
    """Make a target's schema with all that is in it: a ready one if there is one, else from nothing.

    Raises:
        Exception: as of ``schemas.create`` and ``template.fill``.
    """
    found = template.load(target, using=using)
    taken = isinstance(found, template.Script) and bool(conf.require().ready_schemas) and _take(target, found, using)
    if not taken:
        schemas.create(target.schema, using=using)
    schemas.assign(target.schema, getattr(target.tenant, "schema_identity", None), using=using)
    template.fill_from(found, target, using=using, defined=taken)


def _take(target: Target, script: template.Script, using: str) -> bool:
    """Give a ready schema the target's name, and return whether there was one."""
    connection = tenant_connection(using)
    name = connection.physical_schema(target.schema)
    with _cursor(using) as cursor:
        cursor.execute(
            "SELECT to_regclass(%s) IS NOT NULL AND to_regnamespace(%s) IS NULL AND current_user <> %s",
            [_TABLE, quote(name), name],
        )
        if not cursor.fetchone()[0]:
            return False  # Where the name cannot be had, making the schema from nothing says why.
        while True:
            cursor.execute(
                f"DELETE FROM {_TABLE} WHERE worker = %s AND schema_name = (SELECT schema_name FROM {_TABLE}"  # noqa: S608
                " WHERE worker = %s AND module = %s AND version = %s ORDER BY made_at LIMIT 1 FOR UPDATE SKIP LOCKED)"
                " RETURNING schema_name",
                [_worker(using), _worker(using), script.key, script.version],
            )
            row = cursor.fetchone()
            if row is None:
                return False
            # One that somebody has dropped by hand is left out.
            with suppress(SchemaDoesNotExist):
                schemas.rename(row[0], target.schema, using=using)
                return True


def prepare(*, using: str = DEFAULT_DB_ALIAS, tell: Callable[[str], None] | None = None) -> dict[str, int]:
    """Make as many ready schemas as ``READY_SCHEMAS`` says of each tenant module on an alias, and drop stale ones.

    Each is made in a transaction of its own. Two that run at once do not make more together than one would.

    Args:
        using: the database alias.
        tell: is called with the module's name after each schema that was made.

    Returns:
        how many ready schemas there are of each module now; modules without a template have none.
    """
    wanted = conf.require().ready_schemas
    scripts = {}
    for module in required_registry().tenant:
        if module.database == using:
            found = template.load(Target("", (module,)), using=using)
            if isinstance(found, template.Script):
                scripts[module.name] = found
    if wanted or _is_there(using):
        _drop_stale({(name, script.version) for name, script in scripts.items()}, wanted, using)
    counts = {}
    for module in required_registry().tenant:
        if module.database != using:
            continue
        counts[module.name] = 0
        if wanted and module.name in scripts:
            counts[module.name] = _prepare_module(Target("", (module,)), scripts[module.name], wanted, using, tell)
    return counts


def _prepare_module(
    target: Target, script: template.Script, wanted: int, using: str, tell: Callable[[str], None] | None
) -> int:
    while True:
        with _turn(using) as cursor:
            cursor.execute(
                f"SELECT count(*) FROM {_TABLE} WHERE worker = %s AND module = %s AND version = %s",  # noqa: S608
                [_worker(using), script.key, script.version],
            )
            count = int(cursor.fetchone()[0])
            if count >= wanted:
                return count
            spare = Target(READY_PREFIX + secrets.token_hex(6), target.modules)
            schemas.create(spare.schema, using=using)
            script.run(spare, script.definitions, using=using)
            cursor.execute(
                f"INSERT INTO {_TABLE} (schema_name, worker, module, version) VALUES (%s, %s, %s, %s)",  # noqa: S608
                [spare.schema, _worker(using), script.key, script.version],
            )
        if tell:
            tell(script.key)


def _drop_stale(fresh: set[tuple[str, str]], wanted: int, using: str) -> None:
    """Drop the ready schemas of other versions of the templates, and those that are more than wanted."""
    with _turn(using) as cursor:
        cursor.execute(
            f"SELECT schema_name, module, version FROM {_TABLE} WHERE worker = %s ORDER BY made_at",  # noqa: S608
            [_worker(using)],
        )
        rows = cursor.fetchall()
    kept: dict[str, int] = {}
    for name, module, version in rows:
        if (module, version) in fresh and kept.get(module, 0) < wanted:
            kept[module] = kept.get(module, 0) + 1
            continue
        with _turn(using) as cursor:
            cursor.execute(
                f"DELETE FROM {_TABLE} WHERE worker = %s AND schema_name = (SELECT schema_name FROM {_TABLE}"  # noqa: S608
                " WHERE worker = %s AND schema_name = %s FOR UPDATE SKIP LOCKED) RETURNING 1",
                [_worker(using), _worker(using), name],
            )
            # One that a tenant is just taking is left alone.
            if cursor.fetchone():
                schemas.drop(name, using=using, if_exists=True)


def _worker(using: str) -> str:
    return tenant_connection(using).tenant_options.worker


def _is_there(using: str) -> bool:
    with _cursor(using) as cursor:
        cursor.execute("SELECT to_regclass(%s) IS NOT NULL", [_TABLE])
        return bool(cursor.fetchone()[0])


@contextmanager
def _turn(using: str) -> Iterator[Any]:
    """Open a transaction in which nobody else prepares schemas."""
    with _cursor(using) as cursor:
        cursor.execute("SELECT pg_catalog.pg_advisory_xact_lock(%s)", [advisory_key(_TABLE)])
        cursor.execute("SELECT to_regclass(%s) IS NOT NULL", [_TABLE])
        if not cursor.fetchone()[0]:
            cursor.execute(_CREATE)
            roles.keep_out(using=using)
        yield cursor


@contextmanager
def _cursor(using: str) -> Iterator[Any]:
    with no_schema(), transaction.atomic(using=using), tenant_connection(using).cursor() as cursor:
        yield cursor
