"""What statements took, tenant by tenant, in bounded memory.

The backend tells it of each statement where ``PG_TENANTS["MONITORING"]`` is set; ``pg_tenants.monitoring`` hands it
out.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

__all__ = ["OTHERS", "Counts", "SlowQuery", "Store", "store"]

logger = logging.getLogger("pg_tenants.monitoring")

KEPT = 10_000
"""Schemas with counts of their own; those not used for longest are added up under ``OTHERS``."""

OTHERS = "(others)"
SLOW_KEPT = 1_000
TEXT_KEPT = 2_000
"""Characters of a slow statement."""


@dataclass(slots=True)
class Counts:
    """What the statements of one schema took.

    Attributes:
        queries: how many were sent, those that failed included.
        failures: how many failed.
        slow: how many took longer than the threshold.
        seconds: how long all of them took.
        slowest: how long the slowest took, in seconds.
    """

    queries: int = 0
    failures: int = 0
    slow: int = 0
    seconds: float = 0.0
    slowest: float = 0.0

    def add(self, other: Counts) -> None:
        """Add another's counts."""
        self.queries += other.queries
        self.failures += other.failures
        self.slow += other.slow
        self.seconds += other.seconds
        self.slowest = max(self.slowest, other.slowest)

    def as_dict(self) -> dict[str, Any]:
        """Return the counts for JSON, times in milliseconds."""
        average = self.seconds / self.queries if self.queries else 0.0
        return {
            "queries": self.queries,
            "failures": self.failures,
            "slow": self.slow,
            "total_ms": round(self.seconds * 1000, 3),
            "average_ms": round(average * 1000, 3),
            "slowest_ms": round(self.slowest * 1000, 3),
        }


@dataclass(frozen=True, slots=True)
class SlowQuery:
    """A statement that took longer than the threshold.

    Attributes:
        sql: its text without its parameters, which may be personal data.
        schema: the schema that was active; None for none.
        alias: the database alias.
        seconds: how long it took.
        at: when it ended, as ``time.time()`` says.
        error: the error's type where it failed.
    """

    sql: str
    schema: str | None
    alias: str
    seconds: float
    at: float
    error: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON, its time in milliseconds."""
        return {
            "sql": self.sql,
            "schema": self.schema,
            "alias": self.alias,
            "ms": round(self.seconds * 1000, 3),
            "at": self.at,
            "error": self.error,
        }


@dataclass
class Store:
    """Counts by alias and schema, and the newest slow statements.

    Attributes:
        failed_connections: how many connections failed, by alias.
    """

    failed_connections: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: OrderedDict[tuple[str, str | None], Counts] = OrderedDict()
        self._slow: deque[SlowQuery] = deque(maxlen=SLOW_KEPT)

    def record(
        self,
        alias: str,
        schema: str | None,
        seconds: float,
        threshold: float,
        query: Any,
        error: BaseException | None,
    ) -> None:
        """Take note of a statement.

        Args:
            alias: the database alias.
            schema: the schema that was active.
            seconds: how long it took.
            threshold: from how many seconds on it is slow.
            query: its text, or what psycopg makes one of; asked for where it is slow.
            error: why it failed.
        """
        slow = seconds >= threshold
        key = alias, schema
        with self._lock:
            counts = self._counts.get(key)
            if counts is None:
                counts = self._make(key)
            counts.queries += 1
            counts.seconds += seconds
            if seconds > counts.slowest:
                counts.slowest = seconds
            if error is not None:
                counts.failures += 1
            if slow:
                counts.slow += 1
        if slow:
            kind = None if error is None else type(error).__name__
            self._keep(SlowQuery(_text(query), schema, alias, seconds, time.time(), kind))

    def _make(self, key: tuple[str, str | None]) -> Counts:
        if len(self._counts) >= KEPT:
            # The oldest ones: moving each to the end when it is used would cost more than it is worth.
            (alias, _), old = self._counts.popitem(last=False)
            others = self._counts.setdefault((alias, OTHERS), Counts())
            self._counts.move_to_end((alias, OTHERS))
            others.add(old)
        counts = self._counts[key] = Counts()
        return counts

    def _keep(self, slow: SlowQuery) -> None:
        self._slow.append(slow)
        logger.warning(
            "Slow query: %.0f ms in %s on %s: %s",
            slow.seconds * 1000,
            slow.schema or "no tenant",
            slow.alias,
            slow.sql,
            extra={"tenant": slow.schema or "-", "alias": slow.alias, "duration_ms": round(slow.seconds * 1000, 3)},
        )

    def connection_failed(self, alias: str) -> None:
        """Take note of a connection that failed."""
        with self._lock:
            self.failed_connections[alias] = self.failed_connections.get(alias, 0) + 1

    def counts(self) -> Iterator[tuple[str, str | None, Counts]]:
        """Return alias, schema and counts, copied at one moment."""
        with self._lock:
            found = [(alias, schema, Counts()) for alias, schema in self._counts]
            for (_, _, copy), counts in zip(found, self._counts.values(), strict=True):
                copy.add(counts)
        return iter(found)

    def slow(self) -> list[SlowQuery]:
        """Return the newest slow statements, slowest first."""
        return sorted(self._slow.copy(), key=lambda query: -query.seconds)

    def reset(self) -> None:
        """Forget everything."""
        with self._lock:
            self._counts.clear()
            self._slow.clear()
            self.failed_connections.clear()


def _text(query: Any) -> str:
    if isinstance(query, bytes):
        query = query.decode(errors="replace")
    elif not isinstance(query, str):
        query = query.as_string(None) if hasattr(query, "as_string") else str(query)
    text: str = query
    return text if len(text) <= TEXT_KEPT else text[:TEXT_KEPT] + "…"


store = Store()
"""That of this process."""
