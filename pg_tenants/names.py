"""What a schema may be called, and what it is called in the database."""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Iterable

import idna

from pg_tenants.exceptions import InvalidSchemaName

__all__ = [
    "KEYWORDS",
    "LOGINS",
    "MARKER_TABLE",
    "MAX_SCHEMA_NAME_BYTES",
    "OWN_TABLES",
    "READY_PREFIX",
    "READY_TABLE",
    "SHARED",
    "SQL_HISTORY_TABLE",
    "TEMPLATES_TABLE",
    "group_role_name",
    "is_own_table",
    "is_scratch",
    "marker_name",
    "normalize_host",
    "physical_name",
    "role_name",
    "scratch_name",
    "validate_schema_name",
]

MARKER_TABLE = "pg_tenants_marker"
"""The table that each schema of ours has from its first moment; locking it proves that the schema is there.

A tenant's schema has a second one under it, whose name begins so and says which tenant's it is."""

SQL_HISTORY_TABLE = "pg_tenants_sql_migrations"
"""The table of the SQL files that were run in a schema; it is there once one was."""

TEMPLATES_TABLE = "pg_tenants_templates"
"""The table that keeps templates of schemas, in ``public``, whatever modules are there."""

READY_TABLE = "pg_tenants_ready"
"""The table that lists the ready schemas, in ``public``."""

OWN_TABLES = frozenset({MARKER_TABLE, READY_TABLE, SQL_HISTORY_TABLE, TEMPLATES_TABLE})
"""Tables in the schemas that are this package's and no part of a project."""

READY_PREFIX = "_ready_"
"""What ready schemas' names begin with; a tenant's begins with a letter."""

_IDENTIFIER_BYTES = 63  # NAMEDATALEN - 1 in a PostgreSQL built with default settings.
_WORKER_PREFIX_BYTES = len("test_master_")
MAX_SCHEMA_NAME_BYTES = _IDENTIFIER_BYTES - _WORKER_PREFIX_BYTES
"""Longest schema name in bytes; what is left of PostgreSQL's 63 is room for a test worker's prefix."""

_SCRATCH = "_scratch_"
LOGINS = "logins"
"""The group role that every login of the project belongs to: it may take on each tenant's role."""

SHARED = "shared"
"""The group role that every tenant's role belongs to: it may use what the fixed modules share."""

_HASH_DIGITS = 16
_HOST_LENGTH = 253
_HOST = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*|\[[0-9a-f:.]+\]")
_SHAPE = re.compile(r"[a-z][a-z0-9_]*")
_SYSTEM_SCHEMAS = frozenset({"public", "information_schema"})

# Categories R and T of pg_get_keywords() in PostgreSQL 15 to 18: a schema of such a name has to be quoted in SQL.
KEYWORDS = frozenset(
    """
    all analyse analyze and any array as asc asymmetric authorization binary both case cast check collate collation
    column concurrently constraint create cross current_catalog current_date current_role current_schema current_time
    current_timestamp current_user default deferrable desc distinct do else end except false fetch for foreign freeze
    from full grant group having ilike in initially inner intersect into is isnull join lateral leading left like limit
    localtime localtimestamp natural not notnull null offset on only or order outer overlaps placing primary references
    returning right select session_user similar some symmetric system_user table tablesample then to trailing true union
    unique user using variadic verbose when where window with
    """.split()
)


def validate_schema_name(name: object, *, taken: Iterable[str] = (), fixed: bool = False) -> str:
    """Return ``name`` if a schema may be called so.

    Args:
        name: the name in question.
        taken: names that other parts of the project have claimed, such as fixed modules' schemas.
        fixed: the name is a fixed module's, so ``public`` is allowed.

    Raises:
        InvalidSchemaName: it may not; the message says why.
    """
    reason = _reason_against(name, frozenset(taken), fixed)
    if reason:
        raise InvalidSchemaName(
            f"{name!r} cannot be a schema's name: {reason}. Use lower-case ASCII letters, digits and underscores, "
            f"a letter first, {MAX_SCHEMA_NAME_BYTES} bytes at most."
        )
    assert isinstance(name, str)
    return name


def _reason_against(name: object, taken: frozenset[str], fixed: bool) -> str | None:
    if not isinstance(name, str):
        return f"it is of type {type(name).__name__}, not a string"
    if fixed and name == "public":
        return None
    if name in _SYSTEM_SCHEMAS:
        return "PostgreSQL uses this schema itself" if name != "public" else "it is the shared schema of every database"
    if not name:
        return "it is empty"
    if not _SHAPE.fullmatch(name):
        return "it has other characters than a-z, 0-9 and _, or does not begin with a letter"
    if name.startswith("pg_"):
        return "PostgreSQL keeps names that begin with pg_ for itself"
    size = len(name.encode())
    if size > MAX_SCHEMA_NAME_BYTES:
        return f"it has {size} bytes, more than {MAX_SCHEMA_NAME_BYTES}"
    if name in KEYWORDS:
        return "it is a reserved word of SQL"
    if name in taken:
        return "another part of the project has this schema"
    return None


def physical_name(schema: str, worker: str = "") -> str:
    """Return what ``schema`` is called in the database.

    Args:
        schema: the name that the project uses.
        worker: the prefix of a test worker, such as ``test_gw0``; empty outside tests. It stands for ``public``, and
            goes before every other name.

    Raises:
        InvalidSchemaName: PostgreSQL would cut the name.
    """
    name = schema if not worker else worker if schema == "public" else f"{worker}_{schema}"
    if len(name.encode()) > _IDENTIFIER_BYTES or not name or "\0" in name:
        raise InvalidSchemaName(
            f"{name!r} cannot be a schema's name in the database: it has {len(name.encode())} bytes of 1 to "
            f"{_IDENTIFIER_BYTES}, or a NUL, so PostgreSQL would take another schema for it. Choose a shorter name."
        )
    return name


def marker_name(identity: str | None = None) -> str:
    """Return the name of the table that proves that a schema is there; with an identity, that it is that tenant's.

    Args:
        identity: what tells the tenant from others that had or will have the same schema's name: its primary key.
    """
    if identity is None:
        return MARKER_TABLE
    name = f"{MARKER_TABLE}_{identity}"
    if len(name.encode()) <= _IDENTIFIER_BYTES and identity.isprintable():
        return name
    # The other form has an underscore in this place.
    return f"{MARKER_TABLE}~{hashlib.sha256(identity.encode()).hexdigest()[: _HASH_DIGITS * 2]}"


def is_own_table(name: str) -> bool:
    """Return whether a table of this name is the package's, and no part of a project."""
    return name in OWN_TABLES or name.startswith(MARKER_TABLE)


def scratch_name() -> str:
    """Return the name of a schema that lives no longer than a transaction; no tenant's name begins so."""
    return f"{_SCRATCH}{secrets.token_hex(8)}"


def is_scratch(schema: str) -> bool:
    """Return whether a schema is one that lives no longer than a transaction."""
    return schema.startswith(_SCRATCH)


def role_name(database: int, schema: str) -> str:
    """Return the PostgreSQL role of a tenant's schema.

    Roles are a whole server's, so the name says which database is meant: by its oid, which stays when a database is
    renamed and differs from that of each copy.

    Args:
        database: the oid of the database.
        schema: the schema, by its name in the database.
    """
    name = f"pgt_{database}_{schema}"
    if len(name.encode()) <= _IDENTIFIER_BYTES:
        return name
    # No schema's name has a tilde, so a short name is never another's cut one.
    digest = hashlib.sha256(schema.encode()).hexdigest()[:_HASH_DIGITS]
    room = _IDENTIFIER_BYTES - _HASH_DIGITS - 1
    return f"{name.encode()[:room].decode(errors='ignore')}~{digest}"


def group_role_name(database: int, group: str, worker: str = "") -> str:
    """Return the name of a group role of a database, ``LOGINS`` or ``SHARED``. Each test worker has its own."""
    return f"pgt_{database}~{worker and worker + '~'}{group}"


def normalize_host(host: str) -> str:
    """Return a host's name as browsers send it: lower case, without a final dot, letters beyond ASCII encoded.

    Letters beyond ASCII are encoded as in IDNA 2008 with the mapping of UTS 46, as browsers do.

    Raises:
        ValueError: it is no host's name.
    """
    name = host.strip(" ").removesuffix(".").lower()
    try:
        name = name if name.isascii() else idna.encode(name, uts46=True).decode("ascii")
    except idna.IDNAError as exc:
        raise ValueError(f"{host!r} is no host's name: {exc}") from exc
    if len(name) > _HOST_LENGTH or not _HOST.fullmatch(name):
        raise ValueError(
            f"{host!r} is no host's name. Give it without a scheme, a port or a path, as in shop.example.com."
        )
    return name
