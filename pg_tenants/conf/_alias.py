"""``OPTIONS["tenants"]`` of a database alias, and entries of ``DATABASES`` from a URL."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from psycopg import conninfo
from psycopg import errors as pg_errors

from pg_tenants.conf._model import (
    ALIAS_KEYS,
    ENGINE,
    MIGRATION_TIMEOUTS,
    MIGRATIONS_KEYS,
    TIMEOUTS,
    AliasOptions,
    Retry,
    Timeouts,
)
from pg_tenants.conf._reading import Reader
from pg_tenants.databases import apply_fields
from pg_tenants.exceptions import ConfigurationError

__all__ = ["alias_options", "database", "tenant_options"]


def alias_options(raw: object, alias: str) -> AliasOptions:
    """Return the parsed ``OPTIONS["tenants"]`` of a database alias.

    Args:
        raw: the value as written; None where there is none.
        alias: the alias, for messages.

    Raises:
        ConfigurationError: it has an unknown key or a value of a wrong type.
    """
    if raw is None:
        return AliasOptions()
    where = f"DATABASES[{alias!r}]['OPTIONS']['tenants']"
    if not isinstance(raw, Mapping):
        raise ConfigurationError(f"{where} is {raw!r}. Set it to a dictionary.")
    problems: list[tuple[str, str, str]] = []
    read = Reader(raw, where, problems)
    read.refuse_unknown(ALIAS_KEYS)
    schema, pooler = read.optional_text("schema"), raw.get("pooler")
    if pooler is not None and not isinstance(pooler, bool):
        read.wrong("pooler", pooler, "True, False, or None to find out")
    migrating = Reader(read.mapping("migrations"), f"{where}['migrations']", problems)
    migrating.refuse_unknown((*MIGRATIONS_KEYS, *(f"{name}_ms" for name in MIGRATION_TIMEOUTS)))
    options = AliasOptions(
        schema=schema,
        pooler=pooler,
        pgserver=bool(raw.get("pgserver")),
        worker=read.text("worker"),
        path=read.texts("path"),
        readonly=read.boolean("readonly"),
        create_db=read.boolean("create_db"),
        extensions=read.texts("extensions"),
        retry=_parse_retry(raw.get("retry"), f"{where}['retry']", problems),
        timeouts=Timeouts(*(read.milliseconds(f"{name}_timeout_ms") for name in TIMEOUTS)),
        migrations={name: migrating.milliseconds(f"{name}_ms", most) or 0 for name, most in MIGRATION_TIMEOUTS.items()},
        migrations_alias=migrating.optional_text("alias"),
    )
    if options.readonly and options.create_db:
        problems.append(("conflict", f"{where} has both readonly and create_db.", "Leave one of them out."))
    if problems:
        raise ConfigurationError(" ".join(f"{message} {hint}" for _, message, hint in problems))
    return options


def _parse_retry(raw: object, where: str, problems: list[tuple[str, str, str]]) -> Retry | None:
    if raw is None or raw is False:
        return None
    if raw is True:
        return Retry()
    if not isinstance(raw, Mapping):
        problems.append(("type", f"{where} is {raw!r}.", "Set it to True, or to a dictionary."))
        return None
    read = Reader(raw, where, problems)
    read.refuse_unknown(tuple(Retry.__dataclass_fields__))
    attempts = raw.get("attempts", 5)
    if not isinstance(attempts, int) or isinstance(attempts, bool) or attempts < 1:
        read.wrong("attempts", attempts, "a whole number, 1 or more")
        attempts = 1
    backoff = read.seconds("backoff", 2.0)
    if backoff < 1:
        problems.append(("type", f"{where}['backoff'] is {backoff!r}.", "Set it to a factor of 1 or more."))
    return Retry(attempts, read.seconds("delay", 0.5), max(1.0, backoff), read.seconds("max_delay", 10.0))


def tenant_options(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return ``OPTIONS["tenants"]`` of an entry of ``DATABASES`` as written; empty where it has none."""
    return entry["OPTIONS"].get("tenants") or {}


def database(url: str, **options: Any) -> dict[str, Any]:
    """Return an entry for ``DATABASES`` with the engine of pg_tenants.

    Args:
        url: ``postgresql://user:password@host:port/name?sslmode=require``, with any parameter of libpq; or
            ``pgserver://`` (``pgserver:///name`` for another database than ``postgres``) for the development server
            of ``PG_TENANTS["PGSERVER"]``, which the first connection starts.
        options: any of the fields below; others go into ``OPTIONS``, such as ``pool=True`` or a parameter of libpq.

            - ``pool_size`` (5), ``max_overflow`` (10), or ``min_connections`` and ``max_connections``;
              ``pool_timeout`` (30) and ``pool_recycle`` (3600), in seconds: one of them switches Django's connection
              pool on. ``DB_POOL_SIZE`` and ``DB_MAX_OVERFLOW`` in the environment do so as well.
            - ``pool_pre_ping``: ``CONN_HEALTH_CHECKS``.
            - ``ssl_enabled``, ``ssl_mode`` (``verify-full`` with TLS), ``ssl_ca_file``, ``ssl_cert_file``,
              ``ssl_key_file``.
            - ``password``, a text or a callable, or ``password_file``: read whenever a connection is made.
            - ``retry_attempts``, ``retry_delay``, ``retry_backoff``, ``retry_max_delay``: ``retry`` below.
            - ``schema``, ``pooler``, ``readonly``, ``create_db``, ``extensions``, ``retry``, ``statement_timeout_ms``,
              ``lock_timeout_ms``, ``idle_in_transaction_session_timeout_ms``, ``migrations``: the keys of
              ``OPTIONS["tenants"]``. None leaves one out.

    Raises:
        ConfigurationError: the URL is not one of PostgreSQL's, or fields contradict each other.
    """
    scheme = url.partition(":")[0] if "://" in url else ""
    if scheme == "pgserver":
        parts = urlsplit(url)
        if parts.netloc or parts.query:
            raise ConfigurationError(
                "The database URL says more than pgserver:///name can. Put the server's own name, port and so on into "
                "PG_TENANTS['PGSERVER'], or PGSERVER_NAME, PGSERVER_PORT and the like."
            )
        development = {"ENGINE": ENGINE, "NAME": parts.path.strip("/") or "postgres"}
        return apply_fields({**development, "OPTIONS": {"tenants": {"pgserver": True}}}, options)
    if scheme not in ("postgresql", "postgres", "pgsql"):
        begins = f"begins with {scheme + '://'!r}" if scheme else "has no scheme"
        raise ConfigurationError(
            f"The database URL {begins}. "
            "Write postgresql://user:password@host:5432/name, or pgserver:// for the development server."
        )
    try:
        # libpq's own words about a bad URL may contain the password, so they stay out of the message.
        found: dict[str, Any] = conninfo.conninfo_to_dict("postgresql" + url[len(scheme) :])
    except pg_errors.Error:
        found = {}
    if not found.get("dbname"):
        raise ConfigurationError(
            "The database URL cannot be read, or names no database. Write postgresql://user:password@host:5432/name, "
            "and percent-encode special characters in the password."
        )
    entry: dict[str, Any] = {"ENGINE": ENGINE, "NAME": found.pop("dbname")}
    for key in ("user", "password", "host", "port"):
        entry[key.upper()] = str(found.pop(key, "") or "")
    return apply_fields({**entry, "OPTIONS": found}, options)
