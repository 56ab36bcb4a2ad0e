"""How many locks the server needs, and what to say where it has too few.

All locks of all transactions share one table, which has room for ``max_locks_per_transaction`` times the number of
connections. Each table, index and sequence that is made or dropped takes one or two until the transaction ends.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from django.db import DatabaseError, OperationalError
from psycopg import errors as pg_errors

from pg_tenants.exceptions import TooFewLocks
from pg_tenants.provisioning import store
from pg_tenants.schemas import tenant_connection

__all__ = ["explained", "max_locks_needed"]

_AT_ONCE = 20
"""Schemas that can be made or dropped at once, by several sessions or in one transaction."""

_UNKNOWN = 256
"""What is enough for most, where no template tells: a schema of 50 tables takes over a thousand locks."""

_SETTINGS = """
SELECT current_setting('max_locks_per_transaction')::int,
    current_setting('max_connections')::int + current_setting('max_prepared_transactions')::int
"""


def max_locks_needed(*, using: str) -> tuple[int, int]:
    """Return what ``max_locks_per_transaction`` should be at least, a power of two, and what it is.

    It is reckoned from the locks that the largest module's template took.
    """
    locks = store.locks_needed(using=using)
    with tenant_connection(using).without_prefix() as execute:
        current, slots = execute(_SETTINGS).fetchone()
    if not locks:
        return _UNKNOWN, current
    return max(64, 1 << (-(-locks * _AT_ONCE // slots) - 1).bit_length()), current


@contextmanager
def explained(what: str, *, using: str) -> Iterator[None]:
    """Say which number to set where the server runs out of locks in this block.

    The block's own transaction or savepoint has to be rolled back by the time that the error leaves it.

    Args:
        what: what failed then, for the message.
        using: the database alias.

    Raises:
        TooFewLocks: instead of PostgreSQL's "out of shared memory".
    """
    try:
        yield
    except OperationalError as exc:
        cause = exc.__cause__
        # The server's words are in its language; the setting's name is not.
        if not isinstance(cause, pg_errors.OutOfMemory) or "max_locks_per_transaction" not in str(cause):
            raise
        remedy = "Raise max_locks_per_transaction"
        with suppress(DatabaseError):
            needed, current = max_locks_needed(using=using)
            remedy = f"Set max_locks_per_transaction to {max(needed, 2 * current)} (it is {current})"
        raise TooFewLocks(
            f"{what}: the server has no room for the locks that it takes, so nothing of it was done. {remedy} in "
            "postgresql.conf and restart the server, or do less in one transaction."
        ) from exc
