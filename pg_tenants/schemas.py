"""Schemas in the database: create, drop, rename, list, exists.

The role of a tenant's schema is dropped and renamed with it, in the same transaction. It is made by ``roles.ensure``,
at the end of what fills the schema: making it locks what other tenants' creation needs until the transaction ends.

A schema of ours has a marker table. Each statement of a tenant holds a lock on it, so dropping and renaming wait for
the statements that run, and the ones after them find nothing instead of another schema. A tenant's schema has a second
marker, named by the tenant's identity, which inherits from the first: that one is locked where it is known whose schema
is meant, so that a later schema of the same name is not taken for it. Locking the first one locks both.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

from django.db import DEFAULT_DB_ALIAS, transaction
from django.db.utils import IntegrityError, ProgrammingError
from psycopg import errors as pg_errors

from pg_tenants import roles
from pg_tenants.backends.base import tenant_connection
from pg_tenants.backends.prefix import advisory_key, quote
from pg_tenants.context import current_schema, no_schema
from pg_tenants.exceptions import (
    InvalidSchemaName,
    SchemaDoesNotExist,
    SchemaExists,
    SchemaNotPermitted,
    TenantInUse,
)
from pg_tenants.names import MARKER_TABLE, READY_PREFIX, marker_name

__all__ = [
    "assign",
    "assign_missing",
    "create",
    "drop",
    "exists",
    "is_ready",
    "list",
    "lock",
    "rename",
    "table_exists",
    "tenant_connection",
]

_REFERRING_OUTWARD = """
SELECT DISTINCT r.relname
FROM pg_catalog.pg_constraint c
JOIN pg_catalog.pg_class r ON r.oid = c.conrelid
JOIN pg_catalog.pg_class f ON f.oid = c.confrelid
WHERE c.contype = 'f' AND r.relnamespace = %s::regnamespace AND f.relnamespace <> r.relnamespace
"""


def create(schema: str, *, using: str = DEFAULT_DB_ALIAS, if_not_exists: bool = False) -> bool:
    """Create a schema with its marker, and return whether it was created.

    Args:
        schema: the name that the project uses.
        using: the database alias.
        if_not_exists: leave a schema that is there as it is; give it a marker if it has none.

    Raises:
        SchemaExists: it is there, and ``if_not_exists`` is not set.
        SchemaNotPermitted: the database role may not create schemas.
        InvalidSchemaName: the name is the database role's, so ``"$user"`` would mean it on every connection.
    """
    connection = tenant_connection(using)
    name = connection.physical_schema(schema)
    with _no_schema_atomic(using), connection.cursor() as cursor:
        cursor.execute(
            "SELECT current_user, current_database(),"
            " has_database_privilege(current_database(), 'CREATE'), to_regnamespace(%s) IS NOT NULL,"
            " to_regclass(%s) IS NOT NULL",
            [quote(name), f"{quote(name)}.{MARKER_TABLE}"],
        )
        user, database, permitted, there, marked = cursor.fetchone()
        if name == user:
            raise InvalidSchemaName(
                f"{name!r} is the database role that the project connects as. PostgreSQL puts a schema of that name on "
                "every connection's path, so it would be seen by all. Choose another name, or another role."
            )
        if there and not if_not_exists:
            raise SchemaExists(
                f"The database {database!r} has a schema {name!r} already. It is not taken over unasked. Choose "
                "another name, or drop or rename the schema first."
            )
        if not there and not permitted:
            raise SchemaNotPermitted(
                f"The role {user!r} may not create the schema {name!r} in the database {database!r}. Run "
                f"GRANT CREATE ON DATABASE {quote(database)} TO {quote(user)} as the database's owner."
            )
        try:
            if not there:
                cursor.execute(f"CREATE SCHEMA {quote(name)}")
            if not marked:
                cursor.execute(f"CREATE TABLE {quote(name)}.{MARKER_TABLE} ()")
        except ProgrammingError as exc:
            if isinstance(exc.__cause__, pg_errors.InsufficientPrivilege):
                raise SchemaNotPermitted(
                    f"The role {user!r} may not create tables in the schema {name!r}: {exc}. Run GRANT USAGE, CREATE "
                    f"ON SCHEMA {quote(name)} TO {quote(user)} as the schema's owner."
                ) from exc
            if isinstance(exc.__cause__, pg_errors.DuplicateSchema):
                raise SchemaExists(
                    f"Another session has created the schema {name!r} meanwhile. Choose another name."
                ) from exc
            raise
    return not there


def assign(schema: str, identity: str | None, *, using: str = DEFAULT_DB_ALIAS) -> None:
    """Say whose a schema of ours is: statements of another tenant of the same name find no schema then.

    Args:
        schema: the schema.
        identity: the tenant's ``schema_identity``; None for a schema that is nobody's.
        using: the database alias.

    Raises:
        SchemaDoesNotExist: it is not there, or has no marker.
    """
    name = tenant_connection(using).physical_schema(schema)
    with _no_schema_atomic(using), tenant_connection(using).cursor() as cursor:
        cursor.execute(_ASSIGNED, [f"{quote(name)}.{MARKER_TABLE}"])
        is_there, assigned = cursor.fetchone()
        if not is_there:
            raise _missing(name)
        for one in assigned:
            if identity is None or one != marker_name(identity):
                cursor.execute(f"DROP TABLE {quote(name)}.{quote(one)}")
        if identity is not None:
            cursor.execute(_belonging(name, identity))


_ASSIGNED = """
SELECT m.oid IS NOT NULL, ARRAY(SELECT c.relname::text FROM pg_catalog.pg_inherits i
    JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = m.oid)
FROM (SELECT pg_catalog.to_regclass(%s) AS oid) m
"""


_TOGETHER = 100
"""How many schemas are assigned in one transaction: each takes a few locks."""

_UNASSIGNED = """
SELECT n.nspname FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relname = %s AND c.relkind = 'r' AND n.nspname = ANY(%s)
    AND NOT EXISTS (SELECT FROM pg_catalog.pg_inherits i WHERE i.inhparent = c.oid)
ORDER BY 1
"""


def assign_missing(identities: Mapping[str, str], *, using: str = DEFAULT_DB_ALIAS) -> Sequence[str]:
    """Say whose those schemas of ours are that are nobody's yet, and return their names.

    Args:
        identities: tenants' ``schema_identity``, by their schemas.
        using: the database alias.
    """
    connection = tenant_connection(using)
    names = {connection.physical_schema(schema): schema for schema in identities}
    with no_schema(), connection.cursor() as cursor:
        cursor.execute(_UNASSIGNED, [MARKER_TABLE, [*names]])
        found = [name for (name,) in cursor.fetchall()]
        for start in range(0, len(found), _TOGETHER):
            statements = (_belonging(name, identities[names[name]]) for name in found[start : start + _TOGETHER])
            cursor.execute("; ".join(statements))
    return [names[name] for name in found]


def _belonging(name: str, identity: str) -> str:
    marker = f"{quote(name)}.{MARKER_TABLE}"
    return f"CREATE TABLE IF NOT EXISTS {quote(name)}.{quote(marker_name(identity))} () INHERITS ({marker})"


def drop(schema: str, *, using: str = DEFAULT_DB_ALIAS, if_exists: bool = False) -> bool:
    """Drop a schema of ours with all that is in it, and return whether it was there.

    It waits for the statements and transactions that use the schema. Those that come after it find no schema.

    Args:
        schema: the schema's name.
        using: the database alias.
        if_exists: return False where it is not there, instead of raising.

    Raises:
        SchemaDoesNotExist: it is not there, or has no marker, and ``if_exists`` is not set.
        TenantInUse: the schema is active here, or something else depends on its role.
        SchemaNotPermitted: the schema has a role, which the database role may not drop.
    """
    connection = tenant_connection(using)
    name = connection.physical_schema(schema)
    _refuse_active(schema, "dropped")
    with _no_schema_atomic(using), connection.cursor() as cursor:
        if not _lock(cursor, name):
            if if_exists:
                return False
            raise _missing(name)
        _settle_constraints(connection, cursor, name)
        cursor.execute(f"DROP SCHEMA {quote(name)} CASCADE")
        roles.drop(cursor, name)
    return True


def _settle_constraints(connection: Any, cursor: Any, name: str) -> None:
    """Check deferred constraints: PostgreSQL drops no table while some wait for the end of this transaction.

    Where they say that a row is referred to which this transaction has deleted, such as the tenant's own, it may be the
    schema itself that does. Its rows go anyway, so those tables are emptied; then others' references are left.
    """
    try:
        with transaction.atomic(using=connection.alias):
            connection.check_constraints()
    except IntegrityError:
        cursor.execute(_REFERRING_OUTWARD, [quote(name)])
        tables = ", ".join(f"{quote(name)}.{quote(table)}" for (table,) in cursor.fetchall())
        if tables:
            cursor.execute(f"TRUNCATE {tables} CASCADE")
        connection.check_constraints()


def rename(schema: str, to: str, *, using: str = DEFAULT_DB_ALIAS) -> None:
    """Rename a schema of ours; it waits for the statements and transactions that use it.

    Args:
        schema: the schema's name.
        to: its new name.
        using: the database alias.

    Raises:
        SchemaDoesNotExist: it is not there, or has no marker.
        SchemaExists: there is one of the new name.
        TenantInUse: the schema is active here.
    """
    connection = tenant_connection(using)
    name, new = connection.physical_schema(schema), connection.physical_schema(to)
    _refuse_active(schema, "renamed")
    with _no_schema_atomic(using), connection.cursor() as cursor:
        if not _lock(cursor, name):
            raise _missing(name)
        if _exists(cursor, new):
            raise SchemaExists(
                f"The schema {name!r} cannot be renamed to {new!r}: that one exists. Choose another name."
            )
        cursor.execute(f"ALTER SCHEMA {quote(name)} RENAME TO {quote(new)}")
        roles.rename(cursor, name, new)


def lock(schema: str, *, using: str = DEFAULT_DB_ALIAS) -> None:
    """Keep all others out of a schema of ours until the transaction ends; it waits for those that use it.

    Raises:
        SchemaDoesNotExist: it is not there, or has no marker.
        TenantInUse: the schema is active here.
    """
    name = tenant_connection(using).physical_schema(schema)
    _refuse_active(schema, "locked")
    with _no_schema_atomic(using), tenant_connection(using).cursor() as cursor:
        if not _lock(cursor, name):
            raise _missing(name)


def exists(schema: str, *, using: str = DEFAULT_DB_ALIAS) -> bool:
    """Return whether the database has a schema of this name."""
    connection = tenant_connection(using)
    with no_schema(), connection.cursor() as cursor:
        return _exists(cursor, connection.physical_schema(schema))


def is_ready(schema: str, *, using: str = DEFAULT_DB_ALIAS) -> bool:
    """Return whether a schema is there and has the marker that statements ask for."""
    return table_exists(MARKER_TABLE, schema=schema, using=using)


def list(*, using: str = DEFAULT_DB_ALIAS) -> Sequence[str]:  # noqa: A001  # the module's name says of what
    """Return the names, in the database, of all schemas that have a marker, sorted; without the ready ones."""
    connection = tenant_connection(using)
    ready = connection.physical_schema(READY_PREFIX)
    with no_schema(), connection.cursor() as cursor:
        cursor.execute(
            "SELECT n.nspname FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
            " WHERE c.relname = %s AND c.relkind = 'r' AND NOT pg_catalog.starts_with(n.nspname::text, %s) ORDER BY 1",
            [MARKER_TABLE, ready],
        )
        return [name for (name,) in cursor.fetchall()]


def table_exists(table: str, *, schema: str | None = None, using: str = DEFAULT_DB_ALIAS) -> bool:
    """Return whether a schema has a table or view of this name.

    Args:
        table: the table's name, unquoted.
        schema: the schema; None for the active one.
        using: the database alias.

    Raises:
        SchemaDoesNotExist: no schema is given and none is active.
    """
    target = schema or current_schema()
    if target is None:
        raise SchemaDoesNotExist(f"Which schema should have the table {table!r}? Give one, or make a tenant active.")
    connection = tenant_connection(using)
    with no_schema(), connection.cursor() as cursor:
        qualified = f"{quote(connection.physical_schema(target))}.{quote(table)}"
        cursor.execute("SELECT to_regclass(%s) IS NOT NULL", [qualified])
        return cast(bool, cursor.fetchone()[0])


@contextmanager
def _no_schema_atomic(using: str) -> Iterator[None]:
    with no_schema(), transaction.atomic(using=using):
        yield


def _exists(cursor: Any, name: str) -> bool:
    cursor.execute("SELECT EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = %s)", [name])
    return cast(bool, cursor.fetchone()[0])


def _lock(cursor: Any, name: str) -> bool:
    """Lock a schema against all use until the transaction ends; return False where it has no marker."""
    # The advisory lock is for statements that cannot hold the marker's lock, being sent alone.
    cursor.execute("SELECT pg_catalog.pg_advisory_xact_lock(%s)", [advisory_key(name)])
    marker = f"{quote(name)}.{MARKER_TABLE}"
    cursor.execute("SELECT to_regclass(%s) IS NOT NULL", [marker])
    if not cursor.fetchone()[0]:
        return False
    # With the one that inherits from it.
    cursor.execute(f"LOCK TABLE {marker} IN ACCESS EXCLUSIVE MODE")
    return True


def _missing(name: str) -> SchemaDoesNotExist:
    return SchemaDoesNotExist(
        f"There is no schema {name!r} of pg_tenants in the database. Schemas that it did not make are left alone; "
        "drop such a one with DROP SCHEMA."
    )


def _refuse_active(schema: str, what: str) -> None:
    if current_schema() == schema:
        raise TenantInUse(f"The schema {schema!r} is active here, so it cannot be {what}. Leave its context first.")
