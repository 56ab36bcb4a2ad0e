"""Raw SQL that names its schemas by templates."""

from __future__ import annotations

from django.db import DEFAULT_DB_ALIAS, connections

from pg_tenants import sqltemplates

__all__ = ["render"]


def render(text: str, *, using: str = DEFAULT_DB_ALIAS) -> str:
    """Return SQL text with its templates replaced for the schema that is active now.

    ``{{tables.notes_note}}`` becomes ``"acme".notes_note``, ``{{tables.billing_invoice}}`` becomes
    ``"billing".billing_invoice``, and ``{{schema}}`` becomes ``"acme"``. String constants, quoted identifiers,
    comments and dollar quotes stay as they are. On an alias without schemas, tables keep their bare names.

    Args:
        text: the SQL. ``{{tables.module.name}}`` and ``{{schema.module}}`` say which module is meant.
        using: the database alias that it is for.

    Raises:
        SqlTemplateError: a template names nothing that is known, or several things.
        NoActiveTenant: it names a tenant's table or schema, and no tenant that has it is active.
    """
    return sqltemplates.render(text, connections[using])
