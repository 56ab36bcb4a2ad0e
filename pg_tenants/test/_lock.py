"""Which test process uses which schemas of the test database.

A process holds an advisory lock of the server on its prefix for as long as it lives. The server frees it when the
process ends, however it ends.
"""

from __future__ import annotations

import os
import socket
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from pg_tenants.backends.prefix import quote
from pg_tenants.exceptions import DatabaseBusy

__all__ = [
    "Claim",
    "application_name",
    "claim",
    "drop_schemas",
    "literal",
    "lock_key",
    "of_worker",
    "owner_of",
    "schemas_of",
    "turn",
]

_TESTING = 0x70677465
"""The first half of the advisory locks of test runs; the other half is that of a name."""

_PAUSE = 0.1
_ORPHANS_LAST = 30.0
_OWNER = "pg_tenants: {prefix}, process {pid} on {host}"
_NAME_BYTES = 63


def literal(text: str) -> str:
    """Return a text as SQL has it."""
    return "'" + text.replace("'", "''") + "'"


def of_worker(prefix: str, column: str = "nspname") -> str:
    """Return the SQL condition that a column names one of a worker's schemas; those of gw10 are not gw1's."""
    return f"({column} = {literal(prefix)} OR pg_catalog.starts_with({column}, {literal(prefix + '_')}))"


def application_name(prefix: str) -> str:
    """Return what a worker's sessions are called in ``pg_stat_activity``."""
    name = _OWNER.format(prefix=prefix, pid=os.getpid(), host=socket.gethostname())
    return name.encode(errors="replace")[:_NAME_BYTES].decode(errors="ignore")


def lock_key(name: str) -> str:
    """Return the key of the advisory lock of a name, as SQL has it."""
    return f"{_TESTING}, {zlib.crc32(name.encode()) - 2**31}"


@contextmanager
def turn(connection: Any, name: str) -> Iterator[Any]:
    """Take turns with other processes, and give a function that sends a statement on a session of its own.

    Args:
        connection: where; a copy of it is made.
        name: what the turns are about.
    """
    session = _copy(connection)
    try:
        with session.without_prefix() as execute:
            execute("SET lock_timeout = 0; SET statement_timeout = 0; SET idle_session_timeout = 0")
            execute(f"SELECT pg_catalog.pg_advisory_lock({lock_key(name)})")
            yield execute
    finally:
        session.close()


def _copy(connection: Any, **options: str) -> Any:
    session = connection.copy()
    # A session that is held for long is not one of the pool's.
    session.settings_dict["OPTIONS"].pop("pool", None)
    session.settings_dict["OPTIONS"].update(options)
    # Receivers of connection_created ask by the alias, and the schema that it is bound to need not be there yet.
    with connection.extensions_schema_only():
        session.connect()
    return session


_claims: dict[tuple[int, str, str, str, str], Claim] = {}


def claim(connection: Any, prefix: str, wait: float) -> Claim:
    """Return this process's claim on a worker's schemas, which all aliases of one database share.

    Args:
        connection: a connection of the test database.
        prefix: the worker's, such as ``test_gw0``.
        wait: how long to wait for another run to end, in seconds.

    Raises:
        DatabaseBusy: another run uses the schemas.
    """
    where = connection.settings_dict
    key = (os.getpid(), where["HOST"], str(where["PORT"]), where["NAME"], prefix)
    found = _claims.get(key)
    if found is None or not found.users:
        found = _claims[key] = Claim(connection, prefix, wait)
    found.users += 1
    return found


class Claim:
    """A worker's claim on the schemas with its prefix, held by a session of its own.

    Attributes:
        users: how many aliases use it.

    Args:
        connection: a connection of the test database.
        prefix: the worker's, such as ``test_gw0``.
        wait: how long to wait for another run to end, in seconds.

    Raises:
        DatabaseBusy: another run uses the schemas.
    """

    def __init__(self, connection: Any, prefix: str, wait: float):
        self.prefix, self.users = prefix, 0
        self._session = _copy(connection, application_name=application_name(prefix))
        try:
            with self._session.without_prefix() as execute:
                self._take(execute, wait)
                self._end_orphans(execute)
        except BaseException:
            self._session.close()
            raise

    def execute(self, statement: str) -> list[Any]:
        """Send a statement on the session of the claim, and return its rows."""
        with self._session.without_prefix() as execute:
            cursor = execute(statement)
            return list(cursor.fetchall()) if cursor.description else []

    def release(self) -> None:
        """Give the schemas up, where no other alias uses them."""
        self.users -= 1
        if not self.users:
            self.close()

    def close(self) -> None:
        """Give the schemas up."""
        self._session.close()

    def _take(self, execute: Any, wait: float) -> None:
        execute("SET lock_timeout = 0; SET statement_timeout = 0; SET idle_session_timeout = 0")
        deadline = time.monotonic() + wait
        while not execute(f"SELECT pg_catalog.pg_try_advisory_lock({lock_key(self.prefix)})").fetchone()[0]:
            if time.monotonic() > deadline:
                raise DatabaseBusy(self._message(execute, wait))
            time.sleep(_PAUSE)

    def _message(self, execute: Any, wait: float) -> str:
        database = self._session.settings_dict["NAME"]
        return (
            f"The schemas {self.prefix!r} of the test database {database!r} are in use by another test run: "
            f"{owner_of(execute, self.prefix) or 'one that ends just now'}. It did not end within {wait:g} seconds. "
            "Wait for it, give --tenants-wait (of manage.py test: --wait) more seconds, or give this run another "
            "database by DATABASES['default']['TEST']['NAME']."
        )

    def _end_orphans(self, execute: Any) -> None:
        """End what is left of sessions whose process was killed: they may still hold locks on the schemas."""
        begin = _OWNER.partition(" process")[0].format(prefix=self.prefix)
        orphans = (
            "FROM pg_catalog.pg_stat_activity WHERE datname = pg_catalog.current_database()"
            f" AND pg_catalog.starts_with(application_name, {literal(begin)})"
            f" AND application_name <> {literal(application_name(self.prefix))}"
        )
        deadline = time.monotonic() + _ORPHANS_LAST
        while execute(f"SELECT count(pg_catalog.pg_terminate_backend(pid)) {orphans}").fetchone()[0]:
            if time.monotonic() > deadline:
                raise DatabaseBusy(
                    f"Sessions that a killed test run has left in the schemas {self.prefix!r} do not end. End the "
                    "sessions of pg_stat_activity whose application_name begins with 'pg_tenants: '."
                )
            time.sleep(_PAUSE)


def owner_of(execute: Callable[[str], Any], prefix: str) -> str:
    """Return which process has claimed a worker's schemas, for people; empty for none."""
    first, second = lock_key(prefix).split(", ")
    row = execute(
        "SELECT a.application_name, pg_catalog.to_char(a.backend_start, 'HH24:MI:SS')"  # noqa: S608  # numbers
        " FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid"
        f" WHERE l.locktype = 'advisory' AND l.granted AND l.classid = {first}::bigint::oid"
        f" AND l.objid = (({second} + 4294967296) % 4294967296)::bigint::oid AND l.objsubid = 2 AND l.database ="
        " (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())"
    ).fetchone()
    return f"{row[0].partition(', ')[2] or row[0]}, since {row[1]}" if row else ""


def schemas_of(execute: Callable[[str], Any], prefix: str) -> list[str]:
    """Return the names, in the database, of a worker's schemas, sorted."""
    rows = execute(f"SELECT nspname FROM pg_catalog.pg_namespace WHERE {of_worker(prefix)} ORDER BY 1")  # noqa: S608
    return [name for (name,) in rows]


def drop_schemas(execute: Any, names: list[str]) -> None:
    """Drop schemas by their names in the database, each in a transaction of its own: all at once need many locks."""
    for name in names:
        execute(f"DROP SCHEMA IF EXISTS {quote(name)} CASCADE")
