"""Taking over a schema that is there, if it is what the migrations say."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from typing import Any

from django.db import transaction
from psycopg import sql

from pg_tenants import schemas
from pg_tenants.catalog import Difference, differences
from pg_tenants.exceptions import SchemaDiffers, SchemaDoesNotExist
from pg_tenants.migrations import Options, Target, migrate_target
from pg_tenants.modules import Module

__all__ = ["listed", "take_over", "unequal_migrations"]

_SHOWN = 20


def take_over(schema: str, module: Module, identity: str | None) -> None:
    """Make a schema that is there one of ours, after comparing it with one that the migrations make.

    That one is made for the comparison and rolled back. The transaction of the caller decides about the rest.

    Args:
        schema: the schema.
        module: the tenant module that it is to be of.
        identity: the tenant's ``schema_identity``.

    Raises:
        SchemaDoesNotExist: there is none of this name.
        SchemaDiffers: it is not what the migrations say; the message lists what differs, and nothing is changed.
    """
    using = module.database
    connection = schemas.tenant_connection(using)
    name = connection.physical_schema(schema)
    if not schemas.exists(schema, using=using):
        raise SchemaDoesNotExist(
            f"There is no schema {name!r} in the database to take over. Create the tenant without."
        )
    with transaction.atomic(using=using):
        model = f"adopt_{secrets.token_hex(8)}"
        schemas.create(model, using=using)
        migrate_target(Target(model, (module,)), Options(verbosity=0, run_syncdb=True), using=using)
        model_name = connection.physical_schema(model)
        # The migrations first: where one is missing, it explains the rest.
        found = unequal_migrations(model_name, name, module) + differences(model_name, name, using=using)
        transaction.set_rollback(True, using=using)
    if found:
        raise SchemaDiffers(
            f"The schema {name!r} cannot be taken over: it is not what the migrations of the module {module.name!r} "
            "make. Bring it to that state by the program that made it, or choose another name. It differs in:\n"
            + listed(found),
            found,
        )
    schemas.create(schema, using=using, if_not_exists=True)
    schemas.assign(schema, identity, using=using)


def listed(found: Sequence[object]) -> str:
    """Return lines for an error's message, the first of them where there are many."""
    lines = [f"  {one}" for one in found[:_SHOWN]]
    if len(found) > _SHOWN:
        lines.append(f"  and {len(found) - _SHOWN} more")
    return "\n".join(lines)


def unequal_migrations(model: str, other: str, module: Module) -> list[Difference]:
    """Return the migrations of the module's apps that one of two schemas has recorded; others' may be there."""
    with schemas.tenant_connection(module.database).without_prefix() as execute:
        wanted, found = (_recorded(execute, schema, module) for schema in (model, other))
    return [
        Difference("migration", name, "applied" if name in wanted else None, "applied" if name in found else None)
        for name in sorted(wanted ^ found)
    ]


def _recorded(execute: Callable[[str], Any], schema: str, module: Module) -> set[str]:
    table = sql.Identifier(schema, "django_migrations")
    there = sql.SQL("SELECT pg_catalog.to_regclass({}) IS NOT NULL").format(table.as_string())
    if not execute(there.as_string()).fetchone()[0]:
        return set()
    rows = execute(sql.SQL("SELECT app, name FROM {}").format(table).as_string()).fetchall()
    return {f"{app}.{name}" for app, name in rows if app in module.labels}
