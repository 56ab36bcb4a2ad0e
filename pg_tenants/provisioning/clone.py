"""A tenant made after another one: its structure, or its rows as well."""

from __future__ import annotations

import re
import secrets
import shutil
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from django.db import router, transaction

from pg_tenants import schemas
from pg_tenants.backends.prefix import quote
from pg_tenants.catalog import Difference, differences
from pg_tenants.context import no_schema
from pg_tenants.exceptions import SchemaDiffers, SchemaExists, UnsafeStatement
from pg_tenants.modules import Module
from pg_tenants.names import MARKER_TABLE
from pg_tenants.provisioning import run
from pg_tenants.provisioning._dump import Progress, dump, dump_version, load
from pg_tenants.provisioning._leftovers import work_folder
from pg_tenants.provisioning._names import follow
from pg_tenants.provisioning.adopt import listed, unequal_migrations

__all__ = ["clone", "fields_of", "refuse_taken", "refuse_transaction"]


def fields_of(source: Any, given: Collection[str]) -> dict[str, Any]:
    """Return the values that a clone's row takes from its source's: those of fields that need not be unique.

    Args:
        source: the tenant to clone.
        given: names of fields that have other values.
    """
    left_out = {"schema_name", "status", "created_at", *given}
    return {
        field.attname: getattr(source, field.attname)
        for field in type(source)._meta.concrete_fields
        if not (field.primary_key or field.unique or {field.name, field.attname} & left_out)
    }


def clone(
    source: Any,
    tenant: Any,
    *,
    data: bool = False,
    using: str | None = None,
    progress: Progress | None = None,
    after: Callable[[Any], None],
) -> None:
    """Save a new tenant's row and make its schema like that of another tenant; or none of it.

    Args:
        source: the tenant to clone.
        tenant: the new one, an instance that is not saved yet.
        data: copy the rows as they are at one moment; without it, the tables have what migrations write.
        using: the alias of the tenants' rows.
        progress: is told what is done.
        after: is called with the new tenant in the same transaction.

    Raises:
        WrongStatus: the source has no schema yet, or is being deleted.
        SchemaExists, InvalidSchemaName: as of ``run.create``.
        SchemaDiffers: the source lacks migrations, or was changed while it was cloned.
        CopyFailed, ProgramUnavailable: pg_dump is needed, and failed or is missing.
        UnsafeStatement: rows are to be copied inside a transaction, or through a pooler.
    """
    home = using or source._state.db or router.db_for_write(type(source), instance=source)
    with no_schema():
        stored = run.rows_of(source, home).get()
    run.refuse_status(stored, "be cloned", (run.ACTIVE, run.SUSPENDED))
    module = run.module_of(stored)
    tenant.module = module.name
    with work_folder() as folder:
        making = _Making(stored.schema_name, folder / "dump", progress)
        if data:
            refuse_transaction(module.database, "copies rows by pg_dump, which sees what is committed")
            refuse_taken(tenant, module, home)
            making.dump(module.database)
        tenant._fill = making.with_data if data else making.structure
        with no_schema(), transaction.atomic(using=home):
            tenant.save(using=home)
            after(tenant)


def refuse_transaction(using: str, what: str) -> None:
    """Refuse to run inside a transaction.

    Raises:
        UnsafeStatement: one is open.
    """
    if transaction.get_connection(using).in_atomic_block:
        raise UnsafeStatement(
            f"This {what}, so it cannot run inside transaction.atomic(), nor in a TestCase; use TransactionTestCase."
        )


def refuse_taken(tenant: Any, module: Module, home: str) -> None:
    """Refuse a name before a long part; ``run.create`` asks again, when others may have been faster.

    Raises:
        InvalidSchemaName: a schema may not be called so.
        SchemaExists: there is a tenant or a schema of this name.
    """
    name = run.validate_tenant_schema(tenant.schema_name)
    with no_schema():
        there = type(tenant)._base_manager.using(home).filter(schema_name=name).exists()
    if there or schemas.exists(name, using=module.database):
        raise SchemaExists(f"There is a tenant or a schema {name!r} already. Choose another schema_name.")


class _Making:
    """Makes the schema of a clone.

    Args:
        source: the schema to clone.
        path: where its dump goes.
        progress: is told what is done.
    """

    def __init__(self, source: str, path: Path, progress: Progress | None):
        self.source, self.path, self.progress = source, path, progress

    def tell(self, line: str) -> None:
        """Tell a line to whoever wants to know."""
        if self.progress:
            self.progress(line)

    def dump(self, using: str, *, structure_only: bool = False) -> None:
        """Write the source's dump to the file."""
        self.tell(f"dumping {self.source}")
        with dump(self.source, using=using, structure_only=structure_only) as stream, self.path.open("wb") as file:
            shutil.copyfileobj(stream, file)

    def with_data(self, tenant: Any, module: Module) -> None:
        """Make the schema from the dump."""
        name, using = tenant.schema_name, module.database
        schemas.create(name, using=using)
        schemas.assign(name, tenant.schema_identity, using=using)
        self._load(name, using)
        self._verify(name, module)

    def structure(self, tenant: Any, module: Module) -> None:
        """Make the schema by the migrations; where the source has more than they make, after the source's dump."""
        name, using = tenant.schema_name, module.database
        run.make_and_migrate(tenant, module)
        if missing := unequal_migrations(self._physical(name, using), self._physical(self.source, using), module):
            raise SchemaDiffers(
                f"The schema {self.source!r} is not at the state of the code, so there are no rows for its clone. Run "
                f"'migrate_schemas --schema {self.source}', or clone with data. It differs in:\n{listed(missing)}",
                missing,
            )
        if not self._differences(name, using):
            return
        with schemas.tenant_connection(using).without_prefix() as execute:
            execute("SET LOCAL idle_in_transaction_session_timeout = 0")
        self.dump(using, structure_only=True)
        fresh = f"clone_{secrets.token_hex(8)}"
        schemas.rename(name, fresh, using=using)
        schemas.create(name, using=using)
        schemas.assign(name, tenant.schema_identity, using=using)
        self._load(name, using, rows=lambda dumped: _copy_rows(self._physical(fresh, using), dumped, using))
        _fire_pending(self._physical(fresh, using), using)
        schemas.drop(fresh, using=using)
        self._verify(name, module)

    def _load(self, name: str, using: str, *, rows: Callable[[str], None] | None = None) -> None:
        self.tell(f"filling {name}")
        dumped = self._physical(self.source, using)
        load(self.path, dumped, name, using=using, major=dump_version(using), rows=rows, progress=self.progress)
        follow(self._physical(name, using), dumped, using=using, progress=self.progress)

    def _verify(self, name: str, module: Module) -> None:
        found = [one for one in self._differences(name, module.database) if not _same_but_for_casts(one)]
        if found:
            raise SchemaDiffers(
                f"The clone {name!r} is not like {self.source!r}, which was probably changed meanwhile. Nothing was "
                f"made; try again. It differs in:\n{listed(found)}",
                found,
            )

    def _differences(self, name: str, using: str) -> list[Difference]:
        return differences(self._physical(self.source, using), self._physical(name, using), using=using)

    def _physical(self, name: str, using: str) -> str:
        return schemas.tenant_connection(using).physical_schema(name)


_CAST = re.compile(
    r"""
    :: (?: "[^"]+" | \w+ ) (?: \. (?: "[^"]+" | \w+ ) )?
    (?: \ varying | \ precision | \ with(?:out)?\ time\ zone )? (?: \( \d+ (?:,\d+)? \) )? (?: \[\] )*
    """,
    re.VERBOSE,
)


def _same_but_for_casts(difference: Difference) -> bool:
    """Return whether two definitions differ in casts and brackets alone.

    The server reads its own text of an expression, such as that of a list of constants, as one with other casts.
    """
    wanted, found = (
        text and re.sub(r"[()\s]", "", _CAST.sub("", text)) for text in (difference.wanted, difference.found)
    )
    return wanted is not None and wanted == found


def _fire_pending(schema: str, using: str) -> None:
    """Have a schema's deferred constraints look at its rows now: no table can be dropped before."""
    name = "'" + quote(schema).replace("'", "''") + "'"
    with schemas.tenant_connection(using).without_prefix() as execute:
        found = execute(
            "SELECT DISTINCT conname FROM pg_catalog.pg_constraint"  # noqa: S608  # quoted
            f" WHERE condeferrable AND connamespace = pg_catalog.to_regnamespace({name})"
        ).fetchall()
        if found:
            names = ", ".join(f"{quote(schema)}.{quote(constraint)}" for (constraint,) in found)
            execute(f"SET CONSTRAINTS {names} IMMEDIATE")


_COLUMNS = """
SELECT t.relname, pg_catalog.array_agg(ARRAY[a.attname::text, CASE WHEN y.typnamespace = f.relnamespace THEN
    y.typname::text END] ORDER BY a.attnum)
FROM pg_catalog.pg_class t
JOIN pg_catalog.pg_class f ON f.relname = t.relname AND f.relnamespace = pg_catalog.to_regnamespace({fresh})
    AND f.relkind = 'r'
JOIN pg_catalog.pg_attribute a ON a.attrelid = t.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
JOIN pg_catalog.pg_attribute b ON b.attrelid = f.oid AND b.attname = a.attname AND NOT b.attisdropped
JOIN pg_catalog.pg_type y ON y.oid = b.atttypid
WHERE t.relnamespace = pg_catalog.to_regnamespace({to}) AND t.relkind = 'r'
    AND NOT pg_catalog.starts_with(t.relname::text, '{marker}')
GROUP BY t.relname
"""
_SEQUENCES = """
SELECT t.relname FROM pg_catalog.pg_class t
JOIN pg_catalog.pg_class f ON f.relname = t.relname AND f.relkind = 'S'
    AND f.relnamespace = pg_catalog.to_regnamespace({fresh})
WHERE t.relnamespace = pg_catalog.to_regnamespace({to}) AND t.relkind = 'S'
"""


def _copy_rows(fresh: str, to: str, using: str) -> None:
    """Copy rows and values of sequences where both schemas have the table; there are no constraints or triggers yet."""

    def literal(name: str) -> str:
        return "'" + quote(name).replace("'", "''") + "'"

    places = {"fresh": literal(fresh), "to": literal(to), "marker": MARKER_TABLE}
    with schemas.tenant_connection(using).without_prefix() as execute:
        for table, columns in execute(_COLUMNS.format(**places)).fetchall():
            into = ", ".join(quote(name) for name, _ in columns)
            # A type of the schema's own is another one in each schema.
            values = ", ".join(
                f"{quote(name)}::text::{quote(to)}.{quote(own)}" if own else quote(name) for name, own in columns
            )
            execute(
                f"INSERT INTO {quote(to)}.{quote(table)} ({into}) OVERRIDING SYSTEM VALUE"  # noqa: S608  # quoted
                f" SELECT {values} FROM ONLY {quote(fresh)}.{quote(table)}"
            )
        for (sequence,) in execute(_SEQUENCES.format(**places)).fetchall():
            name = literal(to)[:-1] + "." + literal(sequence)[1:]
            execute(
                f"SELECT pg_catalog.setval({name}, last_value, is_called)"  # noqa: S608  # quoted
                f" FROM {quote(fresh)}.{quote(sequence)}"
            )
