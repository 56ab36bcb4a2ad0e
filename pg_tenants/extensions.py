"""PostgreSQL extensions: once per database, in the extensions' schema, before any table."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django.apps import apps
from django.contrib.postgres import signals as postgres_signals
from django.db import DEFAULT_DB_ALIAS, transaction
from django.db.utils import DatabaseError
from psycopg import errors as pg_errors

from pg_tenants.backends.prefix import quote
from pg_tenants.context import no_schema
from pg_tenants.exceptions import ExtensionUnavailable, SchemaNotPermitted
from pg_tenants.known_extensions import EXTENSION_NAME, ONLY_LIBRARIES, PRELOADED, remedy
from pg_tenants.modules import registry
from pg_tenants.schemas import tenant_connection

__all__ = ["install", "missing", "wanted"]


def wanted(using: str = DEFAULT_DB_ALIAS) -> list[str]:
    """Return the extensions that a database is to have: those of its modules, and those of the alias itself."""
    of_modules = [name for module in registry() or () if module.database == using for name in module.extensions]
    return list(dict.fromkeys([*of_modules, *tenant_connection(using).tenant_options.extensions]))


def missing(names: Iterable[str], *, using: str = DEFAULT_DB_ALIAS) -> list[str]:
    """Return those of the extensions that the database does not have, in the order given."""
    asked = list(dict.fromkeys(names))
    if not asked:
        return []
    with no_schema(), tenant_connection(using).cursor() as cursor:
        cursor.execute("SELECT extname FROM pg_catalog.pg_extension WHERE extname = ANY(%s)", [asked])
        there = {name for (name,) in cursor.fetchall()}
    return [name for name in asked if name not in there]


def install(names: Iterable[str], *, schema: str = "public", using: str = DEFAULT_DB_ALIAS) -> list[str]:
    """Install the extensions that the database does not have, and return their names.

    Args:
        names: extensions; libraries that are none, such as auto_explain, are only checked for being preloaded.
        schema: where their types and functions go.
        using: the database alias.

    Raises:
        ExtensionUnavailable: one is not on the server, has to be preloaded, or may not be made by this role.
        SchemaNotPermitted: the extensions' schema is missing and may not be made.
    """
    connection = tenant_connection(using)
    todo = missing(names, using=using)
    if not todo:
        return []
    with no_schema(), connection.cursor() as cursor:
        for name in todo:
            _refuse_bad_name(name)
            _refuse_unavailable(cursor, name)
            _refuse_unloaded(cursor, name)
        todo = [name for name in todo if name not in ONLY_LIBRARIES]
        _ensure_schema(cursor, schema)
        for name in todo:
            _create(cursor, name, schema, using)
    if todo:
        _forget_types(connection)
    return todo


def _refuse_bad_name(name: str) -> None:
    if not EXTENSION_NAME.fullmatch(name):
        raise ExtensionUnavailable(
            f"{name!r} is no extension's name. Use lower-case letters, digits, '_' and '-', as in 'pg_trgm'."
        )


def _refuse_unavailable(cursor: Any, name: str) -> None:
    """First of all, because what is not on the server cannot be preloaded either."""
    cursor.execute("SELECT EXISTS (SELECT FROM pg_catalog.pg_available_extensions WHERE name = %s)", [name])
    if name not in ONLY_LIBRARIES and not cursor.fetchone()[0]:
        raise ExtensionUnavailable(
            f"The server has no extension {name!r} (it is not in pg_available_extensions). "
            f"{remedy(name, str(cursor.connection.info.server_version // 10000))}, or take it out of the module's "
            "'extensions'."
        )


def _refuse_unloaded(cursor: Any, name: str) -> None:
    if name not in PRELOADED:
        return
    cursor.execute("SELECT setting FROM pg_catalog.pg_settings WHERE name = 'shared_preload_libraries'")
    row = cursor.fetchone()
    if row is None or row[0] is None:
        return  # Hidden from roles without pg_read_all_settings; CREATE EXTENSION will say so itself.
    loaded = [entry.strip() for entry in row[0].split(",")]
    if name not in loaded:
        raise ExtensionUnavailable(
            f"The extension {name!r} has to be loaded when the server starts, and shared_preload_libraries is "
            f"{', '.join(filter(None, loaded)) or 'empty'!r}. Add {name} to it in postgresql.conf, or to "
            "PG_TENANTS['PGSERVER']['postgres_conf'] for the development server, and restart the server."
        )


def _ensure_schema(cursor: Any, schema: str) -> None:
    cursor.execute("SELECT to_regnamespace(%s) IS NOT NULL", [quote(schema)])
    if cursor.fetchone()[0]:
        return
    try:
        cursor.execute(f"CREATE SCHEMA {quote(schema)}")
    except DatabaseError as exc:
        raise SchemaNotPermitted(
            f"The schema {schema!r} for extensions (PG_TENANTS['EXTENSIONS_SCHEMA']) cannot be created: {exc}. "
            "Create it as the database's owner."
        ) from exc


def _create(cursor: Any, name: str, schema: str, using: str) -> None:
    cursor.execute("SELECT schema FROM pg_catalog.pg_available_extension_versions WHERE name = %s LIMIT 1", [name])
    row = cursor.fetchone()
    # Some extensions insist on a schema of their own.
    where = "" if row and row[0] else f" SCHEMA {quote(schema)}"
    try:
        with transaction.atomic(using=using):
            cursor.execute(f"CREATE EXTENSION IF NOT EXISTS {quote(name)}{where} CASCADE")
    except DatabaseError as exc:
        if not isinstance(exc.__cause__, pg_errors.InsufficientPrivilege):
            raise ExtensionUnavailable(
                f"The extension {name!r} cannot be installed. Repair what PostgreSQL says, or take it out of "
                f"'extensions': {exc}"
            ) from exc
        cursor.execute("SELECT current_user, current_database()")
        user, database = cursor.fetchone()
        raise ExtensionUnavailable(
            f"The role {user!r} may not install the extension {name!r} in the database {database!r}. Run CREATE "
            f"EXTENSION {quote(name)}{where} there once as a superuser, or GRANT CREATE ON DATABASE {quote(database)} "
            f"TO {quote(user)} if it is a trusted one."
        ) from exc


def _forget_types(connection: Any) -> None:
    """Let the connection learn the types of new extensions, as Django's CreateExtension does."""
    if apps.is_installed("django.contrib.postgres"):
        signals: Any = postgres_signals
        signals.get_hstore_oids.cache_clear()
        signals.get_citext_oids.cache_clear()
        signals.register_type_handlers(connection)
