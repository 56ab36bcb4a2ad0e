"""The roles of tenants' schemas, for ``PG_TENANTS["ROLES"]``.

Each tenant's schema has a role without login that may use that schema and what the fixed modules share; the prefix of a
statement takes it on. Two group roles keep what all have in common in one place:

- ``…~shared`` has the rights on the fixed modules' schemas, and every tenant's role is a member of it;
- ``…~logins`` is a member of every tenant's role, and the project's logins are members of it. None of the rights of the
  tenants' roles pass through it to the logins, only the right to take them on.

Roles belong to the server, not to a database, so their names begin with ``pgt_`` and the database's oid. They are made
and removed in transactions, as everything else is.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

from django.db import DEFAULT_DB_ALIAS, DatabaseError, transaction
from psycopg import errors as pg_errors

from pg_tenants.backends.base import tenant_connection
from pg_tenants.backends.prefix import quote
from pg_tenants.context import no_schema
from pg_tenants.exceptions import SchemaDoesNotExist, SchemaNotPermitted, TenantInUse
from pg_tenants.modules import registry
from pg_tenants.names import LOGINS, READY_TABLE, SHARED, TEMPLATES_TABLE, group_role_name, role_name

__all__ = [
    "RoleState",
    "drop",
    "ensure",
    "ensure_shared",
    "keep_out",
    "leftovers",
    "may_create",
    "remove",
    "rename",
    "states",
]

_MAKING_GROUPS = 0x70677472
"""The advisory lock under which the group roles are made."""

# Not ALL: with TRIGGER, a tenant's role could have code of its own run as the owner, when a migration writes rows.
_TENANT = {"TABLE": "SELECT, INSERT, UPDATE, DELETE, TRUNCATE", "SEQUENCE": "ALL", "ROUTINE": "EXECUTE"}
_SHARED = {"TABLE": "SELECT, INSERT, UPDATE, DELETE", "SEQUENCE": "USAGE, SELECT, UPDATE", "ROUTINE": "EXECUTE"}
_PRIVATE = (READY_TABLE, TEMPLATES_TABLE)
_KINDS = {"TABLE": "TABLES", "SEQUENCE": "SEQUENCES", "ROUTINE": "FUNCTIONS"}


@dataclass(frozen=True, slots=True)
class RoleState:
    """What the role of a schema is like.

    Attributes:
        schema: the schema, by its name in the database.
        role: the role's name.
        lacking: what it lacks, in words; empty where nothing is left to do.
    """

    schema: str
    role: str
    lacking: tuple[str, ...]


def ensure(schema: str, *, using: str = DEFAULT_DB_ALIAS) -> bool:
    """Give a tenant's schema its role, or what the role lacks, and return whether something was to do.

    It is called at the end of what fills a schema. Without ``PG_TENANTS["ROLES"]`` it does nothing.

    Args:
        schema: the schema, by the name that the project uses.
        using: the database alias.

    Raises:
        SchemaDoesNotExist: there is no such schema.
        SchemaNotPermitted: the database role may not make roles, or not grant rights on what is in the schema.
    """
    connection = tenant_connection(using)
    if not connection.uses_roles:
        return False
    name = connection.physical_schema(schema)
    with _atomic(using) as cursor:
        names = _Names.read(cursor)
        if not _there(cursor, names.shared) or not _there(cursor, names.logins):
            _ensure_shared(cursor, names, using)
        return _ensure(cursor, names, name)


def ensure_shared(*, using: str = DEFAULT_DB_ALIAS) -> bool:
    """Give the group roles what they lack, such as rights on new shared tables; return whether something was to do.

    Without ``PG_TENANTS["ROLES"]`` it does nothing.

    Raises:
        SchemaNotPermitted: the database role may not make roles, or not grant rights on the fixed modules' schemas.
    """
    if not tenant_connection(using).uses_roles:
        return False
    with _atomic(using) as cursor:
        return _ensure_shared(cursor, _Names.read(cursor), using)


def keep_out(*, using: str = DEFAULT_DB_ALIAS) -> None:
    """Take away what tenants' roles got on this package's own tables, whose rows are run as the owner.

    It is called where such a table was made: rights on new tables come by themselves.

    Raises:
        SchemaNotPermitted: the database role does not own them.
    """
    if tenant_connection(using).uses_roles:
        with _atomic(using) as cursor:
            _keep_out(cursor, _Names.read(cursor))


def states(schemas: Collection[str], *, using: str = DEFAULT_DB_ALIAS) -> list[RoleState]:
    """Return what the roles of schemas are like, read for all of them at once.

    Args:
        schemas: tenants' schemas, by the names that the project uses; those that are not there are left out.
        using: the database alias.
    """
    connection = tenant_connection(using)
    with no_schema(), connection.cursor() as cursor:
        return _states(cursor, _Names.read(cursor), [connection.physical_schema(schema) for schema in schemas])


def may_create(*, using: str = DEFAULT_DB_ALIAS) -> bool:
    """Return whether the connection's role may make roles."""
    with no_schema(), tenant_connection(using).cursor() as cursor:
        cursor.execute("SELECT rolsuper OR rolcreaterole FROM pg_catalog.pg_roles WHERE rolname = current_user")
        return cast(bool, cursor.fetchone()[0])


def drop(cursor: Any, schema: str) -> bool:
    """Drop the role of a schema that is dropped in the same transaction; return whether there was one.

    Args:
        cursor: one without a tenant, in a transaction.
        schema: the schema, by its name in the database.

    Raises:
        TenantInUse: something else depends on the role.
        SchemaNotPermitted: the database role may not drop it.
    """
    role = _Names.read(cursor).of(schema)
    if not _there(cursor, role):
        return False
    _drop_role(cursor, role)
    return True


def rename(cursor: Any, schema: str, to: str) -> bool:
    """Rename the role of a schema that is renamed in the same transaction; return whether there was one.

    Args:
        cursor: one without a tenant, in a transaction.
        schema, to: the schema's names in the database.

    Raises:
        TenantInUse: there is a role of the new name that something depends on.
        SchemaNotPermitted: the database role may not rename it.
    """
    names = _Names.read(cursor)
    role, new = names.of(schema), names.of(to)
    if not _there(cursor, role):
        return False
    if _there(cursor, new):
        _drop_role(cursor, new)  # Left by a schema that some other program has dropped.
    with _permitted(cursor, f"rename the role {role!r}"):
        cursor.execute(f"ALTER ROLE {quote(role)} RENAME TO {quote(new)}")
    return True


def leftovers(*, using: str = DEFAULT_DB_ALIAS) -> list[str]:
    """Return the roles that nothing needs: those of databases that are gone, and of this database's schemas that are.

    Without ``PG_TENANTS["ROLES"]``, all of this database.
    """
    connection = tenant_connection(using)
    with no_schema(), connection.cursor() as cursor:
        names = _Names.read(cursor)
        cursor.execute(
            "SELECT r.rolname, (pg_catalog.regexp_match(r.rolname, '^pgt_(\\d+)[_~]'))[1] FROM pg_catalog.pg_roles r"
            " WHERE r.rolname ~ '^pgt_\\d+[_~]' AND NOT r.rolcanlogin AND ("
            "r.rolname ~ %s OR NOT EXISTS (SELECT FROM pg_catalog.pg_database d"
            " WHERE d.oid::text = (pg_catalog.regexp_match(r.rolname, '^pgt_(\\d+)[_~]'))[1])) ORDER BY 1",
            [f"^pgt_{names.database}[_~]{names.worker and names.worker + '[_~]'}"],
        )
        found = cursor.fetchall()
        if not found:
            return []
        cursor.execute("SELECT nspname FROM pg_catalog.pg_namespace")
        needed = {names.of(name) for (name,) in cursor.fetchall()} | {names.shared, names.logins}
    return [role for role, database in found if not connection.uses_roles or role not in needed]


def remove(role: str, *, using: str = DEFAULT_DB_ALIAS) -> None:
    """Remove one of the ``leftovers``, and its rights in this database.

    Raises:
        TenantInUse: something of another database depends on it.
        SchemaNotPermitted: the database role may not drop it.
    """
    with _atomic(using) as cursor:
        with _permitted(cursor, f"remove the role {role!r}"):
            # Who removes rights in this way has to have them. Superusers do.
            cursor.execute("SELECT pg_has_role(current_user, %s, 'USAGE')", [role])
            if not cursor.fetchone()[0]:
                inherit = " WITH INHERIT TRUE" if cursor.db.pg_version >= _GRANTS_HAVE_OPTIONS else ""
                cursor.execute(f"GRANT {quote(role)} TO CURRENT_USER{inherit}")
            cursor.execute(f"DROP OWNED BY {quote(role)}")
        _drop_role(cursor, role)


# -- how it is done ---------------------------------------------------------------------------------------------------

_GRANTS_HAVE_OPTIONS = 160000
"""The server version since which a membership says whether its rights are inherited, and whether it may be taken on."""

_HAS_MAINTAIN = 170000
"""The server version since which VACUUM, REFRESH MATERIALIZED VIEW and the like are a right."""


@dataclass(frozen=True, slots=True)
class _Names:
    """The roles' names in one database."""

    database: int
    worker: str

    @classmethod
    def read(cls, cursor: Any) -> _Names:
        """Return the names in the cursor's database."""
        cursor.execute("SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database()")
        return cls(cursor.fetchone()[0], cursor.db.tenant_options.worker)

    @property
    def shared(self) -> str:
        """Return the role with the rights on fixed modules' schemas, which tenants' roles are members of."""
        return group_role_name(self.database, SHARED, self.worker)

    @property
    def logins(self) -> str:
        """Return the role that logins are members of, so that they may take on tenants' roles."""
        return group_role_name(self.database, LOGINS, self.worker)

    def of(self, schema: str) -> str:
        """Return the role of a tenant's schema."""
        return role_name(self.database, schema)


@contextmanager
def _atomic(using: str) -> Iterator[Any]:
    with no_schema(), transaction.atomic(using=using), tenant_connection(using).cursor() as cursor:
        yield cursor


@contextmanager
def _permitted(cursor: Any, what: str) -> Iterator[None]:
    """Translate PostgreSQL's refusal."""
    user = cursor.db.own_role or cursor.db.connection.info.user
    try:
        yield
    except DatabaseError as exc:
        if not isinstance(exc.__cause__, pg_errors.InsufficientPrivilege):
            raise
        raise SchemaNotPermitted(
            f"The role {user!r} may not {what}: {str(exc).strip()}. PG_TENANTS['ROLES'] needs a role that owns the "
            f"schemas and may make roles: run ALTER ROLE {quote(user)} CREATEROLE as a superuser. On PostgreSQL 16 and "
            "later it changes only roles that it has made itself, or has been given WITH ADMIN OPTION."
        ) from exc


def _there(cursor: Any, role: str) -> bool:
    cursor.execute("SELECT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = %s)", [role])
    return cast(bool, cursor.fetchone()[0])


def _drop_role(cursor: Any, role: str) -> None:
    with _permitted(cursor, f"drop the role {role!r}"):
        try:
            cursor.execute(f"DROP ROLE {quote(role)}")
        except DatabaseError as exc:
            if not isinstance(exc.__cause__, pg_errors.DependentObjectsStillExist):
                raise
            detail = exc.__cause__.diag.message_detail
            raise TenantInUse(
                f"The role {role!r} of the schema cannot be dropped, because something depends on it: {detail}. "
                "Nothing was changed. Take back what was granted to it besides (REVOKE, or DROP OWNED BY in that "
                "database); a temporary table goes with the session that made it."
            ) from exc


def _ensure_shared(cursor: Any, names: _Names, using: str) -> bool:
    changed = False
    for group, attributes in ((names.shared, ""), (names.logins, " NOINHERIT")):
        if _there(cursor, group):
            continue
        # By one session at a time: the other one finds it made.
        cursor.execute("SELECT pg_catalog.pg_advisory_xact_lock(%s)", [_MAKING_GROUPS])
        if not _there(cursor, group):
            with _permitted(cursor, f"make the role {group!r}"):
                cursor.execute(f"CREATE ROLE {quote(group)} NOLOGIN{attributes}")
            changed = True
    cursor.execute("SELECT pg_has_role(session_user, %s, %s)", [names.logins, _may_take_on(cursor)])
    if not cursor.fetchone()[0]:
        with _permitted(cursor, f"become a member of the role {names.logins!r}"):
            _grant_role(cursor, names.logins, "CURRENT_USER", inherit=False)
        changed = True
    for schema, with_objects in _shared_schemas(using).items():
        if not with_objects:
            changed = _grant_usage(cursor, schema, names.shared) or changed
        elif _there_schema(cursor, schema):
            changed = _grant_schema(cursor, schema, names.shared, _SHARED, owned=True) or changed
    return _keep_out(cursor, names) or changed


def _keep_out(cursor: Any, names: _Names) -> bool:
    cursor.execute(
        "SELECT DISTINCT c.relname FROM pg_catalog.pg_namespace n JOIN pg_catalog.pg_class c"
        " ON c.relnamespace = n.oid, pg_catalog.aclexplode(c.relacl) a JOIN pg_catalog.pg_roles r ON r.oid = a.grantee"
        " WHERE n.nspname = 'public' AND c.relname = ANY(%s) AND r.rolname = %s",
        [list(_PRIVATE), names.shared],
    )
    found = [f"public.{table}" for (table,) in cursor.fetchall()]
    for table in found:
        with _permitted(cursor, f"take back rights on the table {table}"):
            cursor.execute(f"REVOKE ALL ON {table} FROM {quote(names.shared)}")
    return bool(found)


def _shared_schemas(using: str) -> dict[str, bool]:
    """Return the schemas, by their names in the database, that tenants share, and whether for more than looking up."""
    connection, modules = tenant_connection(using), registry()
    assert modules is not None
    fixed = {connection.physical_schema(name): True for name in modules.search_path(None, using)}
    return {modules.extensions_schema: False, **fixed}


def _ensure(cursor: Any, names: _Names, schema: str) -> bool:
    role, made = names.of(schema), False
    found = _states(cursor, names, [schema])
    if not found:
        raise SchemaDoesNotExist(
            f"There is no schema {schema!r} in the database to give a role to. Make it by migrate_schemas or "
            "create_tenant."
        )
    lacking = found[0].lacking
    if not lacking:
        return False
    with _permitted(cursor, f"give the schema {schema!r} its role {role!r}"):
        if _NO_USAGE in lacking and _NO_DEFAULTS in lacking:
            # It has nothing to do with this schema, but with one of the same name that some other program has dropped.
            # What else it may do is not known.
            _drop_role(cursor, role)
            made = True
        if made or _NO_ROLE in lacking:
            cursor.execute(f"CREATE ROLE {quote(role)} NOLOGIN")
            made = True
        if made or _NO_LOGINS in lacking:
            _grant_role(cursor, role, quote(names.logins), inherit=False)
        maintain = ", MAINTAIN" if cursor.db.pg_version >= _HAS_MAINTAIN else ""
        _grant_schema(cursor, schema, role, {**_TENANT, "TABLE": f"{_TENANT['TABLE']}{maintain}"}, owned=False)
        if made or _NO_SHARED in lacking:
            # The last one: until the transaction ends, it keeps other tenants from doing the same.
            _grant_role(cursor, names.shared, quote(role), inherit=True)
    return True


def _grant_role(cursor: Any, role: str, to: str, *, inherit: bool) -> None:
    options = ""
    if cursor.db.pg_version >= _GRANTS_HAVE_OPTIONS:
        options = " WITH INHERIT TRUE, SET FALSE" if inherit else " WITH INHERIT FALSE, SET TRUE"
    cursor.execute(f"GRANT {quote(role)} TO {to}{options}")


def _may_take_on(cursor: Any) -> str:
    return "SET" if cursor.db.pg_version >= _GRANTS_HAVE_OPTIONS else "MEMBER"


def _grant_schema(cursor: Any, schema: str, role: str, rights: dict[str, str], *, owned: bool) -> bool:
    """Grant what a role lacks in a schema, now and for what the current role will make there."""
    changed = _grant_usage(cursor, schema, role)
    cursor.execute(_DEFAULTS, [schema, role])
    lacking = set(_KINDS) - {kind for (kind,) in cursor.fetchall()}
    for kind in sorted(lacking):
        cursor.execute(
            f"ALTER DEFAULT PRIVILEGES IN SCHEMA {quote(schema)} GRANT {rights[kind]} ON {_KINDS[kind]}"
            f" TO {quote(role)}"
        )
    cursor.execute(_LACKING, {"schema": schema, "role": role, "owned": owned})
    objects: dict[str, list[str]] = {}
    for kind, name in cursor.fetchall():
        objects.setdefault(kind, []).append(name)
    for kind, found in objects.items():
        cursor.execute(f"GRANT {rights[kind]} ON {kind} {', '.join(found)} TO {quote(role)}")
    return changed or bool(lacking or objects)


def _grant_usage(cursor: Any, schema: str, role: str) -> bool:
    cursor.execute(
        "SELECT nspname FROM pg_catalog.pg_namespace WHERE nspname = %s AND NOT has_schema_privilege(%s, oid, 'USAGE')",
        [schema, role],
    )
    if cursor.fetchone() is None:
        return False
    with _permitted(cursor, f"grant rights on the schema {schema!r}"):
        cursor.execute(f"GRANT USAGE ON SCHEMA {quote(schema)} TO {quote(role)}")
    return True


def _there_schema(cursor: Any, schema: str) -> bool:
    cursor.execute("SELECT EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = %s)", [schema])
    return cast(bool, cursor.fetchone()[0])


_NO_ROLE = "the role is missing"
_NO_LOGINS = "the project's logins may not take it on"
_NO_USAGE = "it may not use the schema"
_NO_DEFAULTS = "it would have no rights on new tables"
_NO_SHARED = "it may not use what the modules share"
_NO_OBJECTS = "it has no rights on some tables, sequences or functions"


def _states(cursor: Any, names: _Names, schemas: Sequence[str]) -> list[RoleState]:
    roles = [names.of(schema) for schema in schemas]
    cursor.execute(
        _STATES,
        {
            "schemas": list(schemas),
            "roles": roles,
            "logins": names.logins,
            "shared": names.shared,
            "mode": _may_take_on(cursor),
        },
    )
    return [_state(*row) for row in cursor.fetchall()]


def _state(schema: str, role: str, there: bool, *facts: bool) -> RoleState:
    if not there:
        return RoleState(schema, role, (_NO_ROLE,))
    words = (_NO_LOGINS, _NO_USAGE, _NO_DEFAULTS, _NO_SHARED, _NO_OBJECTS)
    return RoleState(schema, role, tuple(word for word, fine in zip(words, facts, strict=True) if not fine))


# Kinds of objects that the current role has rights of a role's kept ready for, in a schema.
_DEFAULTS = """
SELECT DISTINCT CASE d.defaclobjtype WHEN 'r' THEN 'TABLE' WHEN 'S' THEN 'SEQUENCE' ELSE 'ROUTINE' END
FROM pg_catalog.pg_default_acl d JOIN pg_catalog.pg_namespace n ON n.oid = d.defaclnamespace,
    pg_catalog.aclexplode(d.defaclacl) a
WHERE n.nspname = %s AND a.grantee = %s::pg_catalog.regrole AND d.defaclobjtype IN ('r', 'S', 'f')
    AND d.defaclrole = current_user::pg_catalog.regrole
"""

# A role that was given anything on an object is left with it: a project may have taken the rest back.
_OBJECTS = """
SELECT CASE c.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END AS kind,
    pg_catalog.format('%%I.%%I', n.nspname, c.relname) AS name
FROM pg_catalog.pg_class c
WHERE c.relnamespace = n.oid AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
    AND NOT (n.nspname = 'public' AND c.relname IN ({private}))
    AND NOT EXISTS (SELECT FROM pg_catalog.aclexplode(c.relacl) a WHERE a.grantee = r.oid)
    AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend
        WHERE classid = c.tableoid AND objid = c.oid AND deptype = 'e')
    AND (NOT {owned} OR pg_has_role(c.relowner, 'USAGE'))
UNION ALL
SELECT 'ROUTINE', p.oid::pg_catalog.regprocedure::text
FROM pg_catalog.pg_proc p
WHERE p.pronamespace = n.oid AND NOT has_function_privilege(r.oid, p.oid, 'EXECUTE')
    AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend
        WHERE classid = p.tableoid AND objid = p.oid AND deptype = 'e')
    AND (NOT {owned} OR pg_has_role(p.proowner, 'USAGE'))
"""
_PRIVATE_TEXT = ", ".join(f"'{table}'" for table in _PRIVATE)
_LACKING = f"""
SELECT o.kind, o.name FROM pg_catalog.pg_namespace n, pg_catalog.pg_roles r,
    LATERAL ({_OBJECTS.format(owned="%(owned)s", private=_PRIVATE_TEXT)}) o
WHERE n.nspname = %(schema)s AND r.rolname = %(role)s ORDER BY 1, 2
"""  # noqa: S608  # no value is in it
_STATES = f"""
SELECT n.nspname, s.role, r.oid IS NOT NULL,
    coalesce(pg_has_role(l.oid, r.oid, %(mode)s), false),
    coalesce(has_schema_privilege(r.oid, n.oid, 'USAGE'), false),
    EXISTS (SELECT FROM pg_catalog.pg_default_acl d, pg_catalog.aclexplode(d.defaclacl) a
        WHERE d.defaclnamespace = n.oid AND a.grantee = r.oid),
    coalesce(pg_has_role(r.oid, g.oid, 'USAGE'), false),
    NOT EXISTS ({_OBJECTS.format(owned="false", private=_PRIVATE_TEXT)})
FROM unnest(%(schemas)s::text[], %(roles)s::text[]) AS s(schema, role)
JOIN pg_catalog.pg_namespace n ON n.nspname = s.schema
LEFT JOIN pg_catalog.pg_roles r ON r.rolname = s.role
LEFT JOIN pg_catalog.pg_roles l ON l.rolname = %(logins)s
LEFT JOIN pg_catalog.pg_roles g ON g.rolname = %(shared)s
ORDER BY 1
"""  # noqa: S608  # no value is in it
