"""The folder that a tenant has among others of its kind."""

from __future__ import annotations

from pg_tenants.context import current_schema
from pg_tenants.names import validate_schema_name


def folder() -> str | None:
    """Return the active schema's name, which may stand in paths and URLs as it is; None where none is active.

    Raises:
        InvalidSchemaName: the active schema has a name that no schema may have, such as one with a slash.
    """
    name = current_schema()
    return None if name is None else validate_schema_name(name, fixed=True)
