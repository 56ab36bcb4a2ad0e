"""Making a connection: a password of the moment, attempts again, and what to do where it fails."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any, TypeVar

import psycopg
from psycopg.pq import TransactionStatus

from pg_tenants.backends.cursor import UNKNOWN_PATH
from pg_tenants.conf import Retry
from pg_tenants.databases import password_of
from pg_tenants.exceptions import ConfigurationError

__all__ = ["attempt", "connecting_class", "connection_hint", "watch", "watched_class"]

T = TypeVar("T")

_PASSING = ("starting up", "shutting down", "not yet accepting", "recovery", "too many", "remaining connection slots")
"""What a server that is there says when it may take the connection later."""

_LOSES_PATH = re.compile(rb"(?:ROLLBACK|COMMIT)\b")


@functools.cache
def watched_class(base: Any) -> Any:
    """Return a psycopg connection class that keeps what is remembered of the open transaction's path right.

    Psycopg's own BEGIN, SAVEPOINT, ROLLBACK TO and so on, of ``connection.transaction()`` above all, are seen by no
    cursor. They all are sent by a method that is private to psycopg; tests hold it on the oldest and newest version.
    """

    # One base alone: a connection that is open can be given no class that has several.
    class Watched(base):  # type: ignore[misc]
        tenant_path: Any = None
        """The prefix of the open transaction's last statement: it tells when the transaction moves to another one."""

        def _exec_command(self, command: Any, *args: Any, **kwargs: Any) -> Any:
            if self.pgconn.transaction_status == TransactionStatus.IDLE:
                self.tenant_path = None
            elif isinstance(command, bytes) and _LOSES_PATH.match(command):
                # In a pipeline the status does not tell that a transaction has ended; so COMMIT is one of them.
                self.tenant_path = UNKNOWN_PATH
            return super()._exec_command(command, *args, **kwargs)

    return Watched


def watch(connection: Any) -> None:
    """Make an open psycopg connection such a one; that which a pool hands out again is."""
    if not hasattr(connection, "tenant_path"):
        connection.__class__ = watched_class(connection.__class__)
    connection.tenant_path = None


def attempt(connect: Callable[[], T], retry: Retry | None) -> T:
    """Return what ``connect`` returns; errors that may pass are tried again.

    Raises:
        ConfigurationError: tenacity is not installed.
        psycopg.OperationalError: that of the last attempt, or one that will not pass.
    """
    if retry is None:
        return connect()
    try:
        from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_exponential  # noqa: PLC0415
    except ImportError as exc:
        raise ConfigurationError(
            "'retry' of a database alias needs tenacity, which is missing. Run pip install 'pg_tenants[retry]'."
        ) from exc
    again = Retrying(
        reraise=True,
        stop=stop_after_attempt(retry.attempts),
        wait=wait_exponential(multiplier=retry.delay, exp_base=retry.backoff, max=retry.max_delay),
        retry=retry_if_exception(_may_pass),
    )
    return again(connect)


def _may_pass(exc: BaseException) -> bool:
    if not isinstance(exc, psycopg.OperationalError) or type(exc).__name__ in ("PoolTimeout", "TooManyRequests"):
        return False
    text = str(exc)
    # What begins with FATAL comes from a server that is there: it has refused.
    return "FATAL" not in text or any(words in text for words in _PASSING)


@functools.cache
def connecting_class(password: Callable[[], str], alias: str) -> type[psycopg.Connection[Any]]:
    """Return a connection class that asks for the password whenever it connects, for pools."""

    class Connecting(psycopg.Connection[Any]):
        @classmethod
        def connect(cls, conninfo: str = "", **kwargs: Any) -> Any:
            """Connect, with the password of this moment."""
            return super().connect(conninfo, **{**kwargs, "password": password_of(password, alias)})

    return Connecting


def connection_hint(exc: psycopg.OperationalError, settings: dict[str, Any], alias: str) -> str:
    """Return what to do about a connection that failed; never with the password."""
    text = str(exc)
    where = f"DATABASES[{alias!r}]"
    if "password authentication failed" in text or "no password supplied" in text:
        return f"Check USER ({settings['USER']!r}) and PASSWORD of {where}, or DATABASE_URL."
    if "does not exist" in text and "database" in text:
        return (
            f"Create the database {settings['NAME']!r}, as 'python manage.py migrate_schemas --create-db' does, or "
            f"correct NAME in {where}."
        )
    if any(word in text for word in ("certificate", "private key", "SSL")):
        return (
            f"Check sslmode, sslrootcert, sslcert and sslkey in OPTIONS of {where}: the server and the client do not "
            "agree about TLS."
        )
    if type(exc).__name__ in ("PoolTimeout", "TooManyRequests"):
        return f"All connections of the pool are in use. Raise OPTIONS['pool'] of {where}, or hold connections shorter."
    place = f"{settings['HOST'] or 'the local socket'}, port {settings['PORT'] or 5432}"
    return (
        f"No PostgreSQL answers at {place} ({where}). Start one, or correct HOST and PORT; for development, "
        "'python manage.py pgserver up --detach' starts one and 'pgserver url' prints its DATABASE_URL."
    )
