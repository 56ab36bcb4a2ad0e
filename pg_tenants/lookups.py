"""What lookups of tenants and domains found, kept for the next requests.

Two rules keep it right. Inside a transaction nothing is taken from here or put here, so what a transaction changes is
seen in it, and what is rolled back stays nowhere. And what was found carries the stamp that held before the database
was asked; a change makes another stamp, and what has an older one is not used.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable
from threading import Lock
from typing import Any, NamedTuple, TypeVar, cast

from django.core.cache import caches
from django.db import connections, transaction
from django.utils.asyncio import async_unsafe

from pg_tenants import conf
from pg_tenants.context import no_schema

__all__ = ["changed", "forget", "kept", "publish"]

FOUND_KEPT, ABSENT_KEPT = 10_000, 1_000
"""How many lookups are kept that found something, and that found nothing: unknown names do not drive out known ones."""

STAMP_KEY = "pg_tenants:lookups"
"""The key in the shared cache. Its value is replaced at each change."""

logger = logging.getLogger("pg_tenants")
T = TypeVar("T")


class _Kept(NamedTuple):
    stamp: tuple[int, str]
    until: float
    value: Any


_changes = 0
_found: dict[tuple[str, ...], _Kept] = {}
_absent: dict[tuple[str, ...], _Kept] = {}
_lock = Lock()


def kept(using: str, kind: str, value: str, fetch: Callable[[], T]) -> T:
    """Return what ``fetch`` returns, from an earlier call if nothing has changed since.

    Args:
        using: the alias that ``fetch`` asks.
        kind: what is looked for.
        value: by which value.
        fetch: asks the database. What it returns is shared by threads, so it must be immutable; None is kept, too.
    """
    config, connection = conf.require(), cast(Any, connections[using])
    if not config.cache_seconds or _in_transaction(connection):
        return fetch()
    shared = _shared_stamp(config.cache) if config.cache else ""
    if shared is None:
        return fetch()
    stamp = (_changes, shared)
    options = connection.tenant_options if hasattr(connection, "tenant_options") else None
    database = (using, connection.settings_dict["NAME"] or "", options.worker if options else "")
    key = (config.tenant_model, config.domain_model, *database, kind, value)
    entry = _found.get(key) or _absent.get(key)
    if entry is not None and entry.stamp == stamp and entry.until > time.monotonic():
        return cast(T, entry.value)
    result = fetch()
    _keep(key, _Kept(stamp, time.monotonic() + config.cache_seconds, result))
    return result


def changed(using: str) -> None:
    """Say that tenants or domains have changed: for this process at once, for the others after the commit.

    Args:
        using: the alias that was written to.
    """
    forget()
    if connections[using].in_atomic_block or not _in_transaction(connections[using]):
        transaction.on_commit(publish, using=using)
    else:
        publish()


def publish() -> None:
    """Forget everything, in this process and in all that share ``PG_TENANTS["CACHE"]``."""
    forget()
    config = conf.get()
    if config is not None and config.cache:
        try:
            with no_schema():
                caches[config.cache].set(STAMP_KEY, uuid.uuid4().hex, None)
        except Exception:
            logger.exception(
                "The cache %r does not answer, so other processes see a change of tenants or domains only after "
                "PG_TENANTS['CACHE_SECONDS'].",
                config.cache,
            )


def forget() -> None:
    """Forget everything that this process has kept."""
    global _changes
    with _lock:
        _changes += 1
        _found.clear()
        _absent.clear()


def _keep(key: tuple[str, ...], entry: _Kept) -> None:
    with _lock:
        if entry.stamp[0] != _changes:
            return
        for table, size in ((_found, FOUND_KEPT), (_absent, ABSENT_KEPT)):
            table.pop(key, None)
            if (entry.value is None) is (table is _absent):
                table[key] = entry
                if len(table) > size:
                    del table[next(iter(table))]


def _in_transaction(connection: Any) -> bool:
    return connection.in_atomic_block or (connection.connection is not None and not connection.autocommit)


# A network's answer would hold up the event loop; the middleware then takes a thread.
@async_unsafe("The cache of PG_TENANTS['CACHE'] cannot be asked from an event loop.")
def _shared_stamp(alias: str) -> str | None:
    """Return the stamp that all processes share, or None where it cannot be had, so that nothing is kept."""
    try:
        with no_schema():
            cache = caches[alias]
            stamp: str | None = cache.get(STAMP_KEY)
            if stamp is None:
                # Never the stamp that was there before it was evicted.
                cache.add(STAMP_KEY, uuid.uuid4().hex, None)
                stamp = cache.get(STAMP_KEY)
    except Exception:  # whatever the backend raises; the database knows as well
        logger.warning("The cache %r does not answer, so tenants are looked up in the database.", alias, exc_info=True)
        return None
    return stamp
