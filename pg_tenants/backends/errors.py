"""Database errors, as the user sees them: what is wrong with the schema, and positions in the user's own text."""

from __future__ import annotations

import re
from types import TracebackType
from typing import TYPE_CHECKING, Any

from django.apps import apps
from django.db.backends.utils import CursorWrapper
from django.db.utils import DatabaseErrorWrapper
from psycopg import errors as e
from psycopg import pq

from pg_tenants.backends.prefix import CHANGED, Prefix
from pg_tenants.context import current
from pg_tenants.exceptions import RowInUse, SchemaDoesNotExist, SchemaNotPermitted
from pg_tenants.modules import registry
from pg_tenants.names import LOGINS, MARKER_TABLE, group_role_name

if TYPE_CHECKING:
    from psycopg.pq.abc import PGresult

__all__ = [
    "NO_TENANT",
    "TenantCursorWrapper",
    "TenantErrorWrapper",
    "error_of_prefix",
    "mark_if_of_schema",
    "note_of_table",
    "with_own_position",
]

NO_TENANT = (
    "No tenant is active: tenants' tables are seen in tenant_context(tenant), and in requests by TenantMiddleware."
)
"""The note of an error about a missing table where no tenant was active."""

POSITION = pq.DiagnosticField.STATEMENT_POSITION
_OF_SCHEMA = (e.InvalidSchemaName, e.UndefinedTable, e.InsufficientPrivilege)
_ROLE_NOTE = (
    "The statement ran as the role {role!r}, which may use its tenant's schema and what the modules share, and change "
    "no table's definition. DDL belongs into migrations, or into pg_tenants.context.as_owner()."
)
_LINE = re.compile(r"^LINE (\d+): ", re.MULTILINE)


class TenantErrorWrapper(DatabaseErrorWrapper):
    """Django's translation of psycopg's errors, with words of ours where the active schema is the cause."""

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Raise what the user is to see."""
        if exc_value is None:
            return
        # A pipeline that failed tells so of each later part; the cause is the error before.
        while isinstance(exc_value, e.PipelineAborted) and isinstance(exc_value.__context__, e.Error):
            exc_value = exc_value.__context__
            exc_type = type(exc_value)
        schema = getattr(exc_value, "tenant_schema", None)
        if schema is not None and isinstance(exc_value, e.Error):
            role, identity = getattr(exc_value, "tenant_role", None), getattr(exc_value, "tenant_identity", None)
            raise _translated(exc_value, schema, role, identity).with_traceback(traceback) from exc_value
        if isinstance(exc_value, e.ForeignKeyViolation) and (in_use := self._in_use(exc_value)) is not None:
            raise in_use.with_traceback(traceback) from exc_value
        try:
            super().__exit__(exc_type, exc_value, traceback)
        except Exception as translated:
            # Django's error is the one that people see.
            for note in getattr(exc_value, "__notes__", ()):
                translated.add_note(note)
            raise

    def _in_use(self, exc: e.ForeignKeyViolation) -> RowInUse | None:
        """Return what to say where a table of another schema refers to the row; None for any other violation.

        Django looks for references in the active schema alone; those of other schemas are PostgreSQL's to find.
        """
        schema, table = exc.diag.schema_name, exc.diag.table_name
        # The server names the table with the constraint. In its words about a row that is referred to, that table
        # follows the key; in those about a row that refers to nothing, the other one does.
        _, _, rest = (exc.diag.message_detail or "").rpartition(")")
        if not schema or not table or not re.search(rf"(?<!\w){re.escape(table)}(?!\w)", rest):
            return None
        connection: Any = self.wrapper  # type: ignore[attr-defined]
        if not connection.is_tenant_aware or schema in connection.search_path(connection.schema_here):
            return None
        return RowInUse(
            f"The row is still referred to by rows of the table {table!r} in the schema {schema!r} (constraint "
            f"{exc.diag.constraint_name!r}), and perhaps by other schemas' rows: {exc.diag.message_primary}. "
            "Delete or change those rows first, in each tenant that has some."
        )


class TenantCursorWrapper(CursorWrapper):
    """Django's wrapper, which fetches without a detour.

    Django looks ``fetchmany`` up anew for each call and wraps it each time; here it is a method. That gives back a part
    of the time that the prefix takes.
    """

    def fetchone(self) -> Any:
        """Return the next row, or None."""
        try:
            return self.cursor.fetchone()
        except BaseException as exc:
            self.db.wrap_database_errors.__exit__(type(exc), exc, exc.__traceback__)
            raise

    def fetchmany(self, *args: Any, **kwargs: Any) -> Any:
        """Return the next rows."""
        try:
            return self.cursor.fetchmany(*args, **kwargs)
        except BaseException as exc:
            self.db.wrap_database_errors.__exit__(type(exc), exc, exc.__traceback__)
            raise

    def close(self) -> None:
        """Close the cursor."""
        self.cursor.close()


def _translated(
    exc: e.Error, schema: str, role: str | None, identity: str | None
) -> SchemaDoesNotExist | SchemaNotPermitted:
    server = exc.diag.message_primary
    if isinstance(exc, e.InvalidParameterValue):
        return SchemaDoesNotExist(
            f"The active schema {schema!r} is not in the database, or has not got its role yet ({server}). Nothing was "
            "run. Run migrate_schemas, which makes missing roles where PG_TENANTS['ROLES'] was switched on later; a "
            "missing tenant is made by create_tenant."
        )
    if role and isinstance(exc, e.InsufficientPrivilege):
        group = group_role_name(int(role.split("_")[1]), LOGINS)
        return SchemaNotPermitted(
            f"The connection may not take on the role {role!r} of the active schema {schema!r}, or that role may not "
            f"do there what was asked for ({server}). Nothing was run. Run migrate_schemas, which gives roles their "
            f'rights. A login that does not migrate itself needs GRANT "{group}" TO it. DDL belongs into migrations, '
            "or into pg_tenants.context.as_owner()."
        )
    if isinstance(exc, e.InsufficientPrivilege):
        return SchemaNotPermitted(
            f"The database role may not use the active schema {schema!r} ({server}). Nothing was run. Grant it USAGE "
            "on the schema and SELECT on its tables, or connect as the schema's owner."
        )
    if isinstance(exc, e.InvalidSchemaName) and CHANGED in (server or ""):
        return SchemaDoesNotExist(
            f"The active schema {schema!r} was renamed, closed or cloned while the statement ran. Nothing was written. "
            "Send it again."
        )
    if identity is not None and isinstance(exc, e.UndefinedTable):
        return SchemaDoesNotExist(
            f"The schema {schema!r} in the database is not that of the tenant with the key {identity!r}, which was "
            f"renamed or deleted, or whose row pg_tenants did not make ({server}). Nothing was run. Load the tenant "
            "again by its key. Run migrate_schemas if the row was made by other means: it notes whose schemas are that "
            "are nobody's."
        )
    return SchemaDoesNotExist(
        f"The active schema {schema!r} is not in the database, or pg_tenants did not make it ({server}). Nothing was "
        "run. A tenant's schema is made by create_tenant, a fixed module's by migrate_schemas, and the schema that an "
        "alias is bound to by migrate."
    )


def error_of_prefix(result: PGresult, prefix: Prefix, encoding: str, own: str | None = None) -> e.Error:
    """Return the error of a message that the server refused before the user's statement began.

    Where the schema is the cause, the error is marked for ``TenantErrorWrapper``, which says so to the user.
    """
    exc = e.error_from_result(result, encoding=encoding)
    if isinstance(exc, _OF_SCHEMA) or (prefix.role and isinstance(exc, e.InvalidParameterValue)):
        _mark(exc, prefix)
    return with_own_position(exc, result, prefix, own)


def mark_if_of_schema(exc: e.Error, prefix: Prefix) -> None:
    """Mark an error that says of the active schema itself that it is missing or closed, wherever it arose."""
    message = exc.diag.message_primary or ""
    # A role that is missing, where psycopg does not tell the prefix's error from the statement's.
    if prefix.role and isinstance(exc, e.InvalidParameterValue) and f'"{prefix.role}"' in message:
        _mark(exc, prefix)
    if prefix.schema is None or not isinstance(exc, _OF_SCHEMA):
        return
    # A missing table is named as "schema.table"; that one says nothing of the schema.
    if MARKER_TABLE in message or re.search(rf"(?<!\w){re.escape(prefix.schema)}(?![\w.])", message):
        _mark(exc, prefix)
    elif prefix.role and isinstance(exc, e.InsufficientPrivilege):
        exc.add_note(_ROLE_NOTE.format(role=prefix.role))


def note_of_table(exc: e.UndefinedTable, prefix: Prefix) -> str | None:
    """Return what to add to an error about a missing table: no tenant is active, or one of another type is.

    None where neither is the cause.
    """
    if prefix.schema is None:
        return NO_TENANT
    entry, modules = current.get(), registry()
    active = None if entry is None else entry.active
    # An alias may be bound to another schema, and under tests a schema's name has the worker's before it.
    if active is None or not prefix.schema.endswith(active.schema_name):
        return None
    table = re.search(r'"(?:[^"]*\.)?([^".]+)"', exc.diag.message_primary or "")
    if modules is None or table is None or not apps.models_ready:
        return None
    for model in apps.get_models(include_auto_created=True):
        if model._meta.db_table == table[1] and (homes := modules.elsewhere(model._meta.app_label, active)):
            names = " and ".join(repr(module.name) for module in homes)
            return (
                f"The active schema {active.schema_name!r} is of the module {active.module!r}, and tables of the app "
                f"{model._meta.app_label!r} are in schemas of the module {names} alone."
            )
    return None


def _mark(exc: e.Error, prefix: Prefix) -> None:
    vars(exc).update(tenant_schema=prefix.schema, tenant_role=prefix.role, tenant_identity=prefix.identity)


def with_own_position(exc: e.Error, result: PGresult, prefix: Prefix, own: str | None = None) -> e.Error:
    """Make an error's position, and the line number in its text, count from the user's own statement."""
    position = result.error_field(POSITION)
    if position is None or int(position) <= prefix.characters:
        return exc
    place = int(position) - prefix.characters
    fields: dict[int, bytes | None] = {field: result.error_field(field) for field in pq.DiagnosticField}
    texts = [_renumber_line(arg) if isinstance(arg, str) else arg for arg in exc.args]
    if own is not None and prefix.check and place > len(own):
        # The statement broke off, which the server noticed at the check behind it.
        place = len(own) + 1
        primary = (exc.diag.message_primary or "").replace('at or near ";"', "at end of input")
        fields[pq.DiagnosticField.MESSAGE_PRIMARY] = primary.encode()
        last = own.split("\n")[-1]
        lead = f"LINE {own.count(chr(10)) + 1}: "
        texts = [f"{primary}\n{lead}{last}\n{' ' * (len(lead) + len(last))}^"]
    fields[POSITION] = str(place).encode()
    exc._info = fields
    exc.args = tuple(texts)
    return exc


def _renumber_line(message: str) -> str:
    """Return libpq's message with the line number of the user's statement, whose prefix is a line of its own."""
    match = _LINE.search(message)
    if match is None:
        return message
    lost = len(match.group(1)) - len(str(int(match.group(1)) - 1))
    head, line = message[: match.start()], f"LINE {int(match.group(1)) - 1}: " + message[match.end() :]
    # The caret's line is indented by the length of "LINE n: ", which is one less where n lost a digit.
    return head + (line.replace("\n" + " " * lost, "\n", 1) if lost else line)
