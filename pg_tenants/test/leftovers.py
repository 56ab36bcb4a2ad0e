"""What test runs have left in the test database: schemas of workers that are gone, and kept ones."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from pg_tenants.exceptions import DatabaseBusy
from pg_tenants.schemas import tenant_connection
from pg_tenants.test import server
from pg_tenants.test._kept import PREFIX
from pg_tenants.test._lock import Claim, drop_schemas, owner_of
from pg_tenants.test.creation import TenantTestCreation

__all__ = ["Leftover", "clean", "drop_database", "find"]

_WORKER = re.compile(r"(test_(?:gw\d+|master|\d+))(?:_.*)?")
_KEPT = re.compile(rf"({PREFIX}_\d+)(?:_.*)?")


@dataclass(slots=True)
class Leftover:
    """Schemas of one worker, or of one failed test.

    Attributes:
        prefix: what their names begin with.
        schemas: their names in the database.
        used_by: the run that uses them now; empty for none.
        test: the failed test whose rows they keep; empty for a worker's.
    """

    prefix: str
    schemas: list[str] = field(default_factory=list)
    used_by: str = ""
    test: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {"prefix": self.prefix, "schemas": self.schemas, "used_by": self.used_by, "test": self.test}


def find(using: str) -> list[Leftover] | None:
    """Return what is in the test database of an alias, sorted; None where there is no such database."""
    with _inside(using) as connection:
        if connection is None:
            return None
        return _found(connection)


def clean(using: str, *, kept: bool = False) -> list[Leftover]:
    """Drop the schemas of workers that no run uses, and return them.

    Args:
        using: the database alias.
        kept: drop those that keep a failed test's rows, too.
    """
    dropped = []
    with _inside(using) as connection:
        for leftover in _found(connection) if connection is not None else []:
            if leftover.used_by or (leftover.test and not kept):
                continue
            try:
                claim = Claim(connection, leftover.prefix, 0)
            except DatabaseBusy:
                continue
            try:
                drop_schemas(claim.execute, leftover.schemas)
            finally:
                claim.close()
            dropped.append(leftover)
    return dropped


def drop_database(using: str) -> bool:
    """Drop the test database of an alias with all that is in it, and return whether it was there.

    Raises:
        DatabaseBusy: a session uses it.
    """
    server.find()
    creation = TenantTestCreation(tenant_connection(using))
    name = creation.test_name
    with creation.maintenance() as cursor:
        cursor.execute("SELECT datname FROM pg_catalog.pg_database WHERE pg_catalog.starts_with(datname, %s)", [name])
        of_workers = re.compile(rf"{re.escape(name)}(_(model|gw\d+|master|\d+))?")
        names = sorted(found for (found,) in cursor.fetchall() if of_workers.fullmatch(found))
        for found in names:
            creation.drop_database(cursor, found)
    return bool(names)


@contextmanager
def _inside(using: str) -> Iterator[Any]:
    """Give a connection of the test database, or None where there is none."""
    server.find()
    connection = tenant_connection(using)
    creation = TenantTestCreation(connection)
    with creation.maintenance() as cursor:
        there = creation.exists(cursor, creation.test_name)
    if not there:
        yield None
        return
    # Not a copy: receivers of connection_created connect by the alias, whose own database need not exist.
    before = creation.lead_to(creation.test_name)
    try:
        yield connection
    finally:
        creation.lead_to(before)


def _found(connection: Any) -> list[Leftover]:
    with connection.without_prefix() as execute:
        rows = execute(
            "SELECT nspname, coalesce(pg_catalog.obj_description(oid, 'pg_namespace'), '')"
            " FROM pg_catalog.pg_namespace ORDER BY 1"
        ).fetchall()
        found: dict[str, Leftover] = {}
        for name, comment in rows:
            match = _WORKER.fullmatch(name) or _KEPT.fullmatch(name)
            if match is None:
                continue
            leftover = found.setdefault(match[1], Leftover(match[1]))
            leftover.schemas.append(name)
            if match.re is _KEPT:
                leftover.test = comment or "?"
        for leftover in found.values():
            leftover.used_by = owner_of(execute, leftover.prefix)
    return [found[prefix] for prefix in sorted(found)]
