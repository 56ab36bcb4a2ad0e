"""What ``check --deploy`` looks for: settings of a database that do for development, and not for production."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

from django.core.checks import CheckMessage, Warning  # noqa: A004  # Django's own name
from django.db import DatabaseError, connections

from pg_tenants import conf
from pg_tenants.backends.base import tenant_connection
from pg_tenants.checks._common import is_ours, pgserver_aliases
from pg_tenants.context import no_schema
from pg_tenants.exceptions import ConfigurationError, PgTenantsError

__all__ = ["check_deployment"]

_LOCAL = ("localhost", "::1", "127.", "/", "@")
"""How a host begins that no network leads to: this machine's names and its sockets."""
_TIMEOUTS = (
    (
        "statement_timeout",
        30_000,
        "a statement that takes too long holds its connection and its locks for ever",
        "pg_tenants.W111",
    ),
    (
        "lock_timeout",
        5_000,
        "a statement that waits for a lock lets all others on that table wait behind it",
        "pg_tenants.W112",
    ),
    (
        "idle_in_transaction_session_timeout",
        60_000,
        "a transaction that its process has forgotten keeps its locks, and migrations and deletions wait for it",
        "pg_tenants.W113",
    ),
)


def check_deployment(
    app_configs: Sequence[Any] | None = None, databases: Sequence[str] | None = None, **kwargs: Any
) -> list[CheckMessage]:
    """Find what is wrong in production: a server for development, no TLS, no time limits, no roles, stale connections.

    Whether a pooler is there that no setting tells of is asked only of the databases that are named.
    """
    development, aliases = pgserver_aliases(), _aliases()
    found = list(map(_development_server, development))
    direct = {options.migrations_alias for options in aliases.values()}
    for alias, options in aliases.items():
        if alias in development:
            continue
        found += _tls(alias)
        # One that migrations alone use has their own limits.
        if alias not in direct:
            found += [*_timeouts(alias, options), *_health(alias)]
            found += _server_side_cursors(alias, options, asked=alias in (databases or ()))
    config = conf.get()
    if config is not None and not config.roles and set(aliases) - set(development):
        found.append(_no_roles())
    return found


def _aliases() -> dict[str, conf.AliasOptions]:
    found = {}
    for alias in connections.settings:
        if is_ours(alias):
            try:
                found[alias] = conf.alias_options(connections.settings[alias]["OPTIONS"].get("tenants"), alias)
            except ConfigurationError:
                continue  # E016 says why.
    return found


def _development_server(alias: str) -> CheckMessage:
    return Warning(
        f"DATABASES[{alias!r}] is the development server, which is not for production: its commits may be lost in "
        "a crash, nobody backs it up, and any process of this user stops it.",
        hint="Name a PostgreSQL that is run for production, as in conf.database('postgresql://…').",
        id="pg_tenants.W092",
    )


def _tls(alias: str) -> Iterator[CheckMessage]:
    entry = connections.settings[alias]
    options = entry["OPTIONS"]
    hosts = str(entry["HOST"] or os.environ.get("PGHOST", "")).split(",")
    remote = [host for host in hosts if host and not host.startswith(_LOCAL)]
    mode = options.get("sslmode") or os.environ.get("PGSSLMODE")
    # Either of these may say what the settings do not; the system's certificates imply verify-full.
    if not remote or (mode is None and ("service" in options or options.get("sslrootcert") == "system")):
        return
    if mode != "verify-full":
        shown = f"the sslmode {mode!r}" if mode else "no sslmode, which is 'prefer'"
        yield Warning(
            f"DATABASES[{alias!r}] leads to {remote[0]!r} with {shown}: whoever is on the way can answer in the "
            "server's place, and read the password and all rows.",
            hint="Set OPTIONS['sslmode'] to 'verify-full' and OPTIONS['sslrootcert'] to the file of the authority's "
            "certificate, or use conf.database(url, ssl_mode='verify-full', ssl_ca_file=…).",
            id="pg_tenants.W110",
        )


def _timeouts(alias: str, options: conf.AliasOptions) -> Iterator[CheckMessage]:
    told = dict(options.timeouts.settings)
    startup = str(connections.settings[alias]["OPTIONS"].get("options", ""))
    for name, usual, harm, check_id in _TIMEOUTS:
        if told.get(name, "0") == "0" and f"{name}=" not in startup:
            where = f"OPTIONS['tenants']['{name}_ms']"
            yield Warning(
                f"DATABASES[{alias!r}] has {'0' if name in told else 'nothing'} in {where}: {harm}.",
                hint=f"Set it to a number of milliseconds, such as {usual}. Silence this where the role has a limit of "
                f"its own, by ALTER ROLE … SET {name}.",
                id=check_id,
            )


def _health(alias: str) -> Iterator[CheckMessage]:
    entry = connections.settings[alias]
    age = entry["CONN_MAX_AGE"]
    if age != 0 and not entry["OPTIONS"].get("pool") and not entry["CONN_HEALTH_CHECKS"]:
        yield Warning(
            f"DATABASES[{alias!r}] has CONN_MAX_AGE {age!r} and CONN_HEALTH_CHECKS False: after a restart of the "
            "server, the first request on each kept connection fails.",
            hint="Set CONN_HEALTH_CHECKS to True, or use a pool with conf.database(url, pool_pre_ping=True, "
            "pool_size=…).",
            id="pg_tenants.W116",
        )


def _server_side_cursors(alias: str, options: conf.AliasOptions, *, asked: bool) -> Iterator[CheckMessage]:
    if connections.settings[alias].get("DISABLE_SERVER_SIDE_CURSORS"):
        return
    if options.pooler or (options.pooler is None and asked and _is_pooled(alias)):
        yield Warning(
            f"DATABASES[{alias!r}] leads through a pooler, and DISABLE_SERVER_SIDE_CURSORS is False: a server-side "
            "cursor lives on one session of the server, and the pooler gives the next statement to any. Outside "
            "transactions iterator() therefore reads all rows at once, and behind a pooler that is not recognized it "
            "may read another's.",
            hint="Set DISABLE_SERVER_SIDE_CURSORS to True and OPTIONS['tenants']['pooler'] to True, and read large "
            "tables on an alias that is connected directly.",
            id="pg_tenants.W115",
        )


def _is_pooled(alias: str) -> bool:
    try:
        with no_schema():
            return tenant_connection(alias).is_pooled()
    except (DatabaseError, PgTenantsError):
        return False  # E020 says why.


def _no_roles() -> CheckMessage:
    return Warning(
        "PG_TENANTS['ROLES'] is False: all tenants' statements run as one role, so SQL that names another tenant's "
        "schema by mistake reaches its rows.",
        hint="Set it to True and run 'manage.py tenant_roles --sync'; or silence this where one role is meant.",
        id="pg_tenants.W114",
    )
