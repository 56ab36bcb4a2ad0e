"""All errors of the package: one family, whose messages name the value, the cause and the remedy."""

from __future__ import annotations

from collections.abc import Sequence

from django.core.exceptions import ImproperlyConfigured
from django.db import IntegrityError, NotSupportedError, OperationalError, ProgrammingError
from django.http import Http404

__all__ = [
    "ArchiveInvalid",
    "ConfigurationError",
    "CopyFailed",
    "DatabaseBusy",
    "ExtensionUnavailable",
    "InvalidSchemaName",
    "JobRefused",
    "MigrationFailed",
    "NoActiveTenant",
    "PgTenantsError",
    "ProgramUnavailable",
    "RowInUse",
    "RowMismatch",
    "SchemaDiffers",
    "SchemaDoesNotExist",
    "SchemaExists",
    "SchemaNotPermitted",
    "ServerError",
    "SqlTemplateError",
    "TablesInUse",
    "TenantInUse",
    "TenantNotFound",
    "TooFewLocks",
    "UnsafeStatement",
    "WorkerDied",
    "WrongStatus",
    "WrongTenant",
]


class PgTenantsError(Exception):
    """Base of every error that pg_tenants raises on purpose."""


class ConfigurationError(PgTenantsError, ImproperlyConfigured):
    """A setting is missing, unknown or contradicts another one."""


class DatabaseBusy(PgTenantsError):
    """Another test run uses the test database, or the schemas that this one would use."""


class WorkerDied(PgTenantsError):
    """A worker of ``manage.py test --parallel`` has ended before its tests have."""


class InvalidSchemaName(PgTenantsError, ValueError):
    """A name that may not be a schema's."""


class NoActiveTenant(PgTenantsError, ProgrammingError):
    """A tenant's table was asked for while no tenant is active."""


class SchemaDoesNotExist(PgTenantsError, ProgrammingError):
    """The active schema is not in the database, pg_tenants did not make it, or it has no role."""


class SchemaNotPermitted(PgTenantsError, ProgrammingError):
    """The database role may not use, or not make, a schema or its role."""


class SchemaExists(PgTenantsError, IntegrityError):
    """A schema of this name is there already."""


class SchemaDiffers(PgTenantsError):
    """A schema is not what the migrations say.

    Attributes:
        differences: the objects in which it differs.
    """

    def __init__(self, message: str, differences: Sequence[object] = ()):
        super().__init__(message)
        self.differences = differences


class SqlTemplateError(PgTenantsError, ValueError):
    """A ``{{…}}`` in SQL names nothing that is known, or several things."""


class WrongStatus(PgTenantsError):
    """A tenant's status does not allow what was asked for."""


class RowMismatch(PgTenantsError, ValueError):
    """Rows or records do not fit the class or the columns they are for."""


class RowInUse(PgTenantsError, IntegrityError):
    """A row cannot be deleted, or its key changed: a table in another schema refers to it."""


class TenantInUse(PgTenantsError, ProgrammingError):
    """A tenant cannot be changed in this way while it is active, or while something depends on its role."""


class TablesInUse(PgTenantsError, IntegrityError):
    """Tables cannot be moved to a tenant's schema: others that stay refer to them."""


class UnsafeStatement(PgTenantsError, NotSupportedError):
    """A statement that cannot be bound to its tenant."""


class WrongTenant(PgTenantsError, ProgrammingError):
    """An instance that was loaded in one tenant is used in another."""


class ExtensionUnavailable(PgTenantsError):
    """A PostgreSQL extension that a module needs cannot be installed."""


class JobRefused(PgTenantsError):
    """A job has no tenant, or its tenant is gone, renamed or not active."""


class MigrationFailed(PgTenantsError):
    """The migrations cannot be run as they are."""


class TenantNotFound(PgTenantsError, Http404):
    """No tenant answers to this request."""


class CopyFailed(PgTenantsError):
    """A schema cannot be cloned, archived or restored; nothing was changed."""


class ArchiveInvalid(PgTenantsError):
    """A file is no archive of a tenant, or damaged, or made for something else than what is here."""


class ProgramUnavailable(PgTenantsError):
    """A client program of PostgreSQL that is needed is not there, or too old for the server."""


class TooFewLocks(PgTenantsError, OperationalError):
    """The server has no room for the locks of making or dropping a schema; the message has the number to set."""


class ServerError(PgTenantsError):
    """The PostgreSQL server for development cannot be started, stopped or described."""
