"""What still names a schema by its former name, after a schema was renamed or filled from another one."""

from __future__ import annotations

import logging
import re

from psycopg import sql

from pg_tenants.backends.prefix import quote
from pg_tenants.catalog import mentions
from pg_tenants.provisioning._dump import Progress
from pg_tenants.provisioning.adopt import listed
from pg_tenants.schemas import tenant_connection

__all__ = ["follow"]

logger = logging.getLogger("pg_tenants")

_ENTRY = re.compile(r'"(?:[^"]|"")*"|[^,\s]+')


def follow(schema: str, former: str, *, using: str, progress: Progress | None = None) -> None:
    """Give functions that set their own search path the schema's new name there, and tell of texts that have the old.

    Args:
        schema: the schema's name in the database.
        former: what it was called before, or the schema that it was made from.
        using: the database alias.
        progress: takes the warning; without it, the log of ``pg_tenants`` does.
    """
    if schema == former:
        return
    _set_paths(schema, former, using)
    found = mentions(schema, former, using=using)
    if found:
        text = (
            f"In the schema {schema!r} the text of these objects names {former!r}, which PostgreSQL does not follow. "
            f"Look at them before the tenant is used, and write names without a schema:\n{listed(found)}"
        )
        if progress:
            progress(text)
        else:
            logger.warning("%s", text)


def _set_paths(schema: str, former: str, using: str) -> None:
    with tenant_connection(using).without_prefix() as execute:
        rows = execute(  # the name is quoted
            "SELECT p.oid::pg_catalog.regprocedure::text, pg_catalog.substr(setting, 13)"  # noqa: S608
            " FROM pg_catalog.pg_proc p CROSS JOIN pg_catalog.unnest(p.proconfig) setting"
            f" WHERE p.pronamespace = pg_catalog.to_regnamespace({sql.Literal(quote(schema)).as_string()})"
            " AND setting LIKE 'search_path=%'"
        ).fetchall()
        for function, path in rows:
            names = [
                entry[1:-1].replace('""', '"') if entry.startswith('"') else entry for entry in _ENTRY.findall(path)
            ]
            if former in names:
                moved = ", ".join(quote(schema if name == former else name) for name in names)
                execute(f"ALTER ROUTINE {function} SET search_path = {moved}")
