"""Deleting a tenant that is in use: out of service first, then a time to end, then the drop."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from django.db import OperationalError, ProgrammingError, models, router
from psycopg import errors as pg_errors
from psycopg import sql

from pg_tenants import schemas
from pg_tenants.backends.prefix import advisory_key, quote
from pg_tenants.context import current_schema, no_schema
from pg_tenants.exceptions import TenantInUse
from pg_tenants.modules import Module
from pg_tenants.provisioning import run
from pg_tenants.provisioning._dump import Progress
from pg_tenants.provisioning.clone import refuse_transaction

__all__ = ["Use", "delete", "uses"]

_PAUSE = 0.1
_DROP_WAITS = "2s"
"""How long the drop waits for locks. Statements of the tenant queue up behind it meanwhile."""

_TRIES = 3
"""How often the drop is tried when sessions are ended for it: clients connect again."""

_PREFIX = re.compile(r"\ASET LOCAL search_path = [^\n]*\n")


class Use(NamedTuple):
    """A session that uses a schema.

    Attributes:
        pid: the server process; None for a prepared transaction.
        application: the ``application_name``.
        client: the client's address; None on the server's own machine.
        state: as in ``pg_stat_activity``.
        seconds: how long its transaction has run.
        query: its last statement.
    """

    pid: int | None
    application: str
    client: str | None
    state: str | None
    seconds: float | None
    query: str

    def __str__(self) -> str:
        who = "a prepared transaction" if self.pid is None else f"pid {self.pid}"
        name = f" ({self.application})" if self.application else ""
        where = f" from {self.client}" if self.client else ""
        age = "" if self.seconds is None else f", {self.state} for {self.seconds:.1f} s"
        return f"{who}{name}{where}{age}: {self.query}"


_USES = """
SELECT DISTINCT l.pid, COALESCE(a.application_name, ''), a.client_addr::text, a.state,
    EXTRACT(epoch FROM pg_catalog.statement_timestamp() - a.xact_start)::float8, COALESCE(a.query, '')
FROM pg_catalog.pg_locks l LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
WHERE l.granted AND l.pid IS DISTINCT FROM pg_catalog.pg_backend_pid()
    AND (a.pid IS NULL OR a.usesysid IS NOT NULL)
    AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
    AND (l.locktype = 'relation' AND l.relation IN (
            SELECT oid FROM pg_catalog.pg_class WHERE relnamespace = pg_catalog.to_regnamespace({name}))
        OR l.locktype = 'advisory' AND l.objsubid = 1
            AND (l.classid::bigint << 32) | l.objid::bigint = {key})
ORDER BY 1
"""


def uses(schema: str, *, using: str) -> list[Use]:
    """Return the sessions that a drop of the schema would wait for; autovacuum, which is nobody's, gives way by itself.

    What a session does is hidden from a login that has neither its rights nor those of ``pg_read_all_stats``; whose it
    is, is not.

    Args:
        schema: its name.
        using: the database alias.
    """
    connection = schemas.tenant_connection(using)
    name = connection.physical_schema(schema)
    query = _USES.format(name=sql.Literal(quote(name)).as_string(), key=advisory_key(name))
    with connection.without_prefix() as execute:
        found = [Use(*row) for row in execute(query).fetchall()]
    return [use._replace(query=" ".join(_PREFIX.sub("", use.query).split())[:200]) for use in found]


def delete(
    tenant: Any,
    remove: Callable[[], Any],
    *,
    grace: float,
    terminate: bool = False,
    using: str | None = None,
    before_drop: Callable[[], None] | None = None,
    progress: Progress | None = None,
) -> Any:
    """Take a tenant out of service, wait for those that use it, drop its schema and delete its row.

    The status ``deleting`` is committed first: no request and no job begins from then on. If this is interrupted or
    raises, the status stays, and it may be called again.

    Args:
        tenant: the tenant.
        remove: deletes the row, as ``Model.delete`` does, which drops the schema.
        grace: seconds to wait for what runs.
        terminate: end the sessions that use it after that; otherwise they are an error.
        using: the alias of its row.
        before_drop: is called in the transaction of the drop, when nobody else can use the schema any more.
        progress: is told what is done.

    Raises:
        TenantInUse: it is still used; the message says by whom.
        UnsafeStatement: a transaction is open.
        ObjectDoesNotExist: the row is gone.
    """
    home = using or tenant._state.db or router.db_for_write(type(tenant), instance=tenant)
    module = run.module_of(tenant)
    for alias in {home, module.database}:
        refuse_transaction(alias, "takes the tenant out of service by a commit of its own")
    if current_schema() == tenant.schema_name:
        raise TenantInUse(
            f"The tenant {tenant.schema_name!r} is active here, so it cannot be deleted. Leave its context first."
        )
    _mark(tenant, home)
    schema, deadline = tenant.schema_name, time.monotonic() + grace
    told = False
    while time.monotonic() < deadline:
        found = uses(schema, using=module.database)
        if not found:
            done, result = _attempt(tenant, remove, module, home, before_drop)
            if done:
                return result
        elif progress and not told:
            progress(f"waiting for sessions that use {schema}: {len(found)}")
            told = True
        time.sleep(_PAUSE)
    # From here on whoever comes waits behind the drop, so statements that are short are no hindrance.
    for _ in range(_TRIES if terminate else 1):
        done, result = _attempt(tenant, remove, module, home, before_drop)
        if done:
            return result
        if terminate:
            _terminate(schema, uses(schema, using=module.database), module.database)
    raise _in_use(schema, grace, uses(schema, using=module.database))


def _mark(tenant: Any, home: str) -> None:
    known = tenant.status
    try:
        with run.work(home, run.module_of(tenant)):
            if run.lock_row(tenant, home).status != run.DELETING:
                tenant.status = run.DELETING
                models.Model.save(tenant, using=home, update_fields=["status"])
    except BaseException:
        tenant.status = known
        raise


def _attempt(
    tenant: Any, remove: Callable[[], Any], module: Module, home: str, before_drop: Callable[[], None] | None
) -> tuple[bool, Any]:
    """Delete, unless somebody uses the schema; return whether it was done."""
    try:
        with run.work(home, module):
            with schemas.tenant_connection(module.database).without_prefix() as execute:
                execute(f"SET LOCAL lock_timeout = '{_DROP_WAITS}'")
                # What is done before the drop may take its time outside the database.
                execute("SET LOCAL idle_in_transaction_session_timeout = 0")
            if before_drop is not None:
                schemas.lock(tenant.schema_name, using=module.database)
                before_drop()
            return True, remove()
    except OperationalError as exc:
        if not isinstance(exc.__cause__, (pg_errors.LockNotAvailable, pg_errors.DeadlockDetected)):
            raise
        return False, None


def _terminate(schema: str, found: list[Use], using: str) -> None:
    for use in found:
        if use.pid is None:
            continue
        try:
            with no_schema(), schemas.tenant_connection(using).without_prefix() as execute:
                execute(f"SELECT pg_catalog.pg_terminate_backend({use.pid}, 1000)")
        except ProgrammingError as exc:
            if not isinstance(exc.__cause__, pg_errors.InsufficientPrivilege):
                raise
            with schemas.tenant_connection(using).without_prefix() as execute:
                (role,) = execute("SELECT pg_catalog.quote_ident(current_user)").fetchone()
            raise TenantInUse(
                f"The tenant {schema!r} is used by a session that the role {role} may not end, so it was not dropped. "
                "Its status is 'deleting', and nothing new begins in it. Run GRANT pg_signal_backend TO "
                f"{role} as a role that may, or end the session, and delete the tenant again:\n  {use}"
            ) from exc


def _in_use(schema: str, grace: float, found: list[Use]) -> TenantInUse:
    lines = "\n".join(f"  {use}" for use in found) or "  sessions that have ended by now"
    return TenantInUse(
        f"The tenant {schema!r} is still used after {grace:g} s, so it was not dropped. Its status is 'deleting', and "
        f"nothing new begins in it. End these sessions and delete it again, or have them terminated:\n{lines}"
    )
