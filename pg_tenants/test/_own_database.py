"""A database of its own for each worker, cloned from one that is kept, for suites that name schemas in SQL.

The test database keeps the templates and the workers' claims; beside it there is a model, ``test_app_model``, with the
fixed modules' schemas under their real names, and a clone of it for each worker, ``test_app_gw0``.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from django.core.management import call_command
from django.db import transaction

from pg_tenants import schemas
from pg_tenants.migrations import Target, required_registry
from pg_tenants.provisioning import store
from pg_tenants.provisioning.fingerprint import fingerprint
from pg_tenants.test import _build
from pg_tenants.test._lock import literal

if TYPE_CHECKING:
    from pg_tenants.test.creation import TenantTestCreation

__all__ = ["MODEL", "clone", "drop"]

MODEL = "model"


def clone(creation: TenantTestCreation, base: str, worker: str) -> str:
    """Make a worker's database, and return its name. The connection leads to the test database before.

    Args:
        creation: that of the connection.
        base: the test database.
        worker: the worker's name.
    """
    connection, model, own = creation.connection, f"{base}_{MODEL}", f"{base}_{worker}"
    _build.make_templates(connection, creation.fixed)
    targets = [*creation.fixed, *_tenant_targets(connection)]
    parts = [_build.identity(connection, target) for target in targets]
    mark = hashlib.sha256(" ".join(parts).encode()).hexdigest() if all(parts) else ""
    rows = [
        row
        for target in targets
        for row in store.rows(_key(target), fingerprint(target, using=connection.alias), using=connection.alias)
    ]
    with creation.maintenance() as cursor:
        if not mark or creation.comment(cursor, model) != mark:
            _make_model(creation, cursor, model, rows)
            cursor.execute(f"COMMENT ON DATABASE {_quoted(connection, model)} IS {literal(mark)}")
        _drop(connection, cursor, own)
        cursor.execute(f"CREATE DATABASE {_quoted(connection, own)} TEMPLATE {_quoted(connection, model)}")
    return own


def drop(creation: TenantTestCreation, name: str) -> None:
    """Drop a worker's database."""
    with creation.maintenance() as cursor:
        _drop(creation.connection, cursor, name)


def _make_model(creation: TenantTestCreation, cursor: Any, name: str, rows: list[store.Row]) -> None:
    connection = creation.connection
    _drop(connection, cursor, name)
    cursor.execute(f"CREATE DATABASE {_quoted(connection, name)} {creation.sql_table_creation_suffix()}")
    before = creation.lead_to(name)
    try:
        with transaction.atomic(using=connection.alias):
            store.lock(using=connection.alias)
            for row in rows:
                store.save(row, using=connection.alias)
        _build.make_templates(connection, creation.fixed)
        for target in creation.fixed:
            # ``public`` is there in every database.
            schemas.create(target.schema, using=connection.alias, if_not_exists=True)
            _build.fill(target, using=connection.alias)
        call_command("createcachetable", database=connection.alias)
    finally:
        creation.lead_to(before)


def _tenant_targets(connection: Any) -> list[Target]:
    return [
        Target(module.name, (module,)) for module in required_registry().tenant if module.database == connection.alias
    ]


def _key(target: Target) -> str:
    return ",".join(module.name for module in target.modules)


def _drop(connection: Any, cursor: Any, name: str) -> None:
    # The claim says that it is this run's; sessions in it are what a killed run has left.
    cursor.execute(f"DROP DATABASE IF EXISTS {_quoted(connection, name)} WITH (FORCE)")


def _quoted(connection: Any, name: str) -> str:
    return str(connection.ops.quote_name(name))
