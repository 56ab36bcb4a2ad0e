"""Metrics of tenants for Prometheus; it needs ``pip install 'pg_tenants[prometheus]'``.

``register()`` once, for example in ``AppConfig.ready``; and where no exporter serves the registry yet, a URL::

    path("metrics", pg_tenants.contrib.prometheus.view)

Anybody who may fetch that URL learns the tenants' names: keep it inside.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.http import HttpRequest, HttpResponse
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from pg_tenants import monitoring
from pg_tenants.exceptions import ConfigurationError
from pg_tenants.observations import store

__all__ = ["TenantCollector", "register", "view"]

_LABELS = ("database", "schema")


class TenantCollector:
    """Hands out what this process has counted, and how its pools are used. It asks the database nothing."""

    def describe(self) -> list[Any]:
        """Return nothing, so that nothing is collected when it is registered."""
        return []

    def collect(self) -> Iterator[Any]:
        """Return the metrics, one family after another."""
        queries = CounterMetricFamily("pg_tenants_queries", "Statements sent.", labels=_LABELS)
        failures = CounterMetricFamily("pg_tenants_query_failures", "Statements that failed.", labels=_LABELS)
        slow = CounterMetricFamily("pg_tenants_slow_queries", "Statements over the threshold.", labels=_LABELS)
        seconds = CounterMetricFamily("pg_tenants_query_seconds", "Seconds that statements took.", labels=_LABELS)
        for alias, schema, counts in store.counts():
            labels = (alias, schema or "")
            queries.add_metric(labels, counts.queries)
            failures.add_metric(labels, counts.failures)
            slow.add_metric(labels, counts.slow)
            seconds.add_metric(labels, counts.seconds)
        failed = CounterMetricFamily("pg_tenants_connection_failures", "Connections that failed.", labels=("database",))
        for alias, count in store.failed_connections.items():
            failed.add_metric((alias,), count)
        yield from (queries, failures, slow, seconds, failed)
        yield from _pools()


def _pools() -> Iterator[Any]:
    sizes = GaugeMetricFamily("pg_tenants_pool_connections", "Connections of a pool.", labels=("database", "state"))
    waiting = GaugeMetricFamily("pg_tenants_pool_waiting", "Requests that wait for a connection.", labels=("database",))
    for alias, stats in monitoring.all_pools().items():
        for state in ("available", "in_use", "max_size"):
            sizes.add_metric((alias, state), stats[state])
        waiting.add_metric((alias,), stats["waiting"])
    yield from (sizes, waiting)


def register(registry: CollectorRegistry = REGISTRY) -> TenantCollector:
    """Register the metrics.

    Raises:
        ConfigurationError: they are registered there already.
    """
    collector = TenantCollector()
    if any(isinstance(other, TenantCollector) for other in registry._collector_to_names):
        raise ConfigurationError("The metrics of pg_tenants are registered already. Call register() once.")
    registry.register(collector)
    return collector


def view(request: HttpRequest) -> HttpResponse:
    """Serve the default registry in Prometheus's text format."""
    return HttpResponse(generate_latest(REGISTRY), content_type=CONTENT_TYPE_LATEST)
