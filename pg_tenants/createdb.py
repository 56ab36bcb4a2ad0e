"""Making a database that is missing."""

from __future__ import annotations

from django.db import DEFAULT_DB_ALIAS, DatabaseError
from psycopg import errors as pg_errors

from pg_tenants.backends.prefix import quote
from pg_tenants.context import no_schema
from pg_tenants.exceptions import ConfigurationError
from pg_tenants.schemas import tenant_connection

__all__ = ["create_database", "database_exists"]


def database_exists(using: str = DEFAULT_DB_ALIAS) -> bool:
    """Return whether the server has the database of an alias, which is asked in the database ``postgres``."""
    connection = tenant_connection(using)
    with no_schema(), connection._nodb_cursor() as cursor:
        cursor.execute("SELECT EXISTS (SELECT FROM pg_catalog.pg_database WHERE datname = %s)", [_name(using)])
        return bool(cursor.fetchone()[0])


def create_database(using: str = DEFAULT_DB_ALIAS) -> bool:
    """Create the database of an alias if the server has none of its name, and return whether it was created.

    It is a copy of ``template1``, and belongs to the alias's role.

    Raises:
        ConfigurationError: the role may not create databases, or the alias is read-only.
        OperationalError: no server answers.
    """
    connection, name = tenant_connection(using), _name(using)
    if connection.tenant_options.readonly:
        raise _read_only(using, name)
    if database_exists(using):
        return False
    connection.close()
    try:
        with no_schema(), connection._nodb_cursor() as cursor:
            cursor.execute(f"CREATE DATABASE {quote(name)}")
    except DatabaseError as exc:
        cause = exc.__cause__
        if isinstance(cause, (pg_errors.DuplicateDatabase, pg_errors.UniqueViolation)):
            return False  # Another process has made it meanwhile.
        if isinstance(cause, pg_errors.InsufficientPrivilege):
            user = connection.settings_dict["USER"]
            raise ConfigurationError(
                f"The role {user or 'of the connection'!r} may not create the database {name!r}. Create it as a role "
                f"that may: CREATE DATABASE {quote(name)} OWNER {quote(user or '…')}; or give the role CREATEDB."
            ) from exc
        if isinstance(cause, pg_errors.ReadOnlySqlTransaction):
            raise _read_only(using, name) from exc
        raise
    return True


def _read_only(using: str, name: str) -> ConfigurationError:
    return ConfigurationError(
        f"DATABASES[{using!r}] is read-only, so the database {name!r} cannot be created by it. Use an alias that "
        "may write."
    )


def _name(using: str) -> str:
    name = tenant_connection(using).settings_dict["NAME"]
    if not name:
        raise ConfigurationError(f"DATABASES[{using!r}] has no NAME, so there is no database to create. Set it.")
    return str(name)
