"""Taking turns, and not waiting for ever: locks and timeouts of a run."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from psycopg import errors as pg_errors

from pg_tenants.backends.base import TenantDatabaseWrapperMixin

__all__ = ["Turns", "is_worth_retrying", "limits", "take_turn"]

_MIGRATING = 0x7067746D
"""The first half of the advisory locks that runs take turns by; the other half is the schema's."""

_PASSING = (pg_errors.LockNotAvailable, pg_errors.DeadlockDetected)


def is_worth_retrying(exc: BaseException | None) -> bool:
    """Return whether an error is of a lock that somebody else holds for the moment."""
    seen: set[int] = set()
    while exc is not None and id(exc) not in seen:
        if isinstance(exc, _PASSING):
            return True
        seen.add(id(exc))
        exc = exc.__cause__ or exc.__context__
    return False


def take_turn(schema: str) -> str:
    """Return SQL that waits, however long, until no other run migrates a schema; for one transaction."""
    return (
        "SET LOCAL lock_timeout = 0; SET LOCAL statement_timeout = 0; "
        f"SELECT pg_catalog.pg_advisory_xact_lock({_MIGRATING}, {zlib.crc32(schema.encode()) - 2**31})"
    )


def limits(connection: TenantDatabaseWrapperMixin) -> str:
    """Return SQL that sets the timeouts for migrating, for one transaction."""
    return "; ".join(f"SET LOCAL {name} = {value}" for name, value in connection.tenant_options.migrations.items())


class Turns:
    """Holds the turn of one schema at a time on a connection of its own.

    Migrations have transactions of their own, and a lock of the session would not survive a pooler.
    """

    def __init__(self, connection: TenantDatabaseWrapperMixin):
        self._connection = connection
        self._holder: Any = None

    @contextmanager
    def of(self, schema: str) -> Iterator[None]:
        """Wait until no other run migrates this schema; an empty one stands for what all share."""
        if self._holder is None:
            self._holder = self._connection.copy()
        try:
            with self._holder.without_prefix() as execute:
                execute(f"BEGIN; SET LOCAL idle_in_transaction_session_timeout = 0; {take_turn(schema)}")
                yield
                execute("ROLLBACK")
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Give back what is held."""
        if self._holder is not None:
            self._holder.close()
            self._holder = None


@contextmanager
def nobody_waits(connection: TenantDatabaseWrapperMixin) -> Iterator[None]:
    """Have indexes made at once, where the caller has a transaction open, in which they cannot be concurrently."""
    before = connection.waits_for_nobody
    connection.waits_for_nobody = before or connection.in_atomic_block
    try:
        yield
    finally:
        connection.waits_for_nobody = before


@contextmanager
def migration_limits(connection: TenantDatabaseWrapperMixin) -> Iterator[None]:
    """Have the statements of a connection keep the timeouts for migrating, in place of the alias's own."""
    connection.ensure_connection()
    before = connection.limits
    connection.limits = tuple((name, str(value)) for name, value in connection.tenant_options.migrations.items())
    try:
        yield
    finally:
        connection.limits = before
