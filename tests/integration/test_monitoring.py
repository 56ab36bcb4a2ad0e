"""Monitoring: what statements take, tenant by tenant; pools, sessions and the server."""

from __future__ import annotations

import io
import json
import logging
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.core.management import call_command
from django.db import DatabaseError, connection, connections, transaction
from django.test import RequestFactory

from example_project.notes.models import Note, Tag
from pg_tenants import monitoring, observations, tenant_context
from pg_tenants.exceptions import ConfigurationError
from pg_tenants.observations import Counts, Store


@pytest.fixture
def monitored(acme: Any, settings: Any) -> Iterator[Any]:
    """Switch monitoring on, with everything over 50 ms as slow."""
    settings.PG_TENANTS = {**settings.PG_TENANTS, "MONITORING": {"slow_query_threshold_ms": 50}}
    monitoring.reset()
    connection.close()
    yield settings
    monitoring.reset()


def counts(schema: str = "acme") -> dict[str, Any]:
    found: dict[str, Any] = monitoring.get_metrics("default")["tenants"].get(schema, Counts().as_dict())
    return found


def run(sql: str, params: Any = None) -> None:
    with connection.cursor() as cursor:
        cursor.execute(sql, params)


def test_off_unless_asked_for(acme: Any) -> None:
    """Then nothing is counted, and cursors are as ever."""
    monitoring.reset()
    with tenant_context(acme):
        Note.objects.count()
    assert monitoring.get_metrics()["total"]["queries"] == 0


def test_each_tenants_statements_are_counted(monitored: Any, acme: Any, globex: Any) -> None:
    """With failures and times; what runs without a tenant is under an empty name."""
    monitoring.reset()
    for tenant, times in ((acme, 3), (globex, 1)):
        with tenant_context(tenant):
            for _ in range(times):
                Note.objects.count()
    with tenant_context(acme), pytest.raises(DatabaseError):
        run("SELECT 1/0")
    run("SELECT 1")
    assert (counts("acme")["queries"], counts("acme")["failures"]) == (4, 1)
    assert (counts("globex")["queries"], counts("globex")["failures"]) == (1, 0)
    assert counts("")["queries"] >= 1
    assert counts("acme")["total_ms"] > 0
    total = monitoring.get_metrics("default")["total"]
    assert total["failures"] == 1
    assert total["queries"] >= 6


def test_every_way_of_sending_is_counted(monitored: Any, acme: Any) -> None:
    """Also executemany, COPY, streams, server-side cursors and psycopg's rows."""
    with tenant_context(acme), transaction.atomic(), connection.cursor() as cursor:
        monitoring.reset()
        cursor.executemany("INSERT INTO notes_tag (name) VALUES (%s)", [("a",), ("b",)])
        assert counts()["queries"] == 1
        with cursor.copy("COPY notes_tag (name) FROM STDIN") as copy:
            copy.write_row(("c",))
        assert counts()["queries"] == 2
        assert len(list(cursor.stream("SELECT * FROM notes_tag"))) == 3
        assert counts()["queries"] == 3
        assert len(list(Tag.objects.iterator())) == 3
        assert counts()["queries"] == 4


def test_slow_queries_are_listed_and_logged(monitored: Any, acme: Any, caplog: pytest.LogCaptureFixture) -> None:
    """With their tenant, slowest first, and without their parameters."""
    with tenant_context(acme), caplog.at_level(logging.WARNING, "pg_tenants.monitoring"):
        run("SELECT pg_sleep(%s), %s", [0.06, "personal"])
        run("SELECT pg_sleep(0.12)")
        run("SELECT 1")
    slow = monitoring.get_slow_queries(limit=10)
    assert [query["sql"] for query in slow] == ["SELECT pg_sleep(0.12)", "SELECT pg_sleep(%s), %s"]
    assert slow[0]["schema"] == "acme"
    assert slow[0]["ms"] >= 120
    assert monitoring.get_slow_queries(limit=1) == slow[:1]
    assert counts()["slow"] == 2
    assert "personal" not in caplog.text
    assert [record.tenant for record in caplog.records] == ["acme", "acme"]  # type: ignore[attr-defined]


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond a number of schemas the oldest are added up; slow queries and their texts are cut."""
    monkeypatch.setattr(observations, "KEPT", 10)
    store = Store()
    for number in range(1000):
        store.record("default", f"t{number}", 0.5, 0.1, "x" * 10_000, None)
    found = {schema: entry for _, schema, entry in store.counts()}
    assert len(found) <= 11
    assert sum(entry.queries for entry in found.values()) == 1000
    assert len(store.slow()) == 1000
    store.record("default", "t", 9, 0.1, b"y", None)
    assert len(store.slow()) == 1000
    assert store.slow()[0].sql == "y"
    assert all(len(query.sql) <= observations.TEXT_KEPT + 1 for query in store.slow())


def test_threads_lose_no_count() -> None:
    """Counting is exact."""
    store = Store()

    def work() -> None:
        for _ in range(5000):
            store.record("default", "acme", 0.001, 1.0, "", None)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [entry.queries for _, _, entry in store.counts()] == [40_000]


def test_the_tenant_is_named_on_the_server(acme: Any) -> None:
    """The statement's text in pg_stat_activity, and so in the server's log, begins with its path."""
    query = "SELECT query FROM pg_stat_activity WHERE pid = pg_backend_pid()"
    with tenant_context(acme), connection.cursor() as cursor:
        cursor.execute(query)
        (text,) = cursor.fetchone()
    assert text.startswith(f'SET LOCAL search_path = "{connection.physical_schema("acme")}", ')
    assert query in text


def test_sessions_name_the_tenant(acme: Any, globex: Any) -> None:
    """Whatever way a statement was sent, also while a transaction waits."""
    ready, go = threading.Barrier(3), threading.Event()

    def work(tenant: Any) -> None:
        try:
            with tenant_context(tenant), transaction.atomic():
                Note.objects.count()
                ready.wait(10)
                go.wait(10)
        finally:
            connections.close_all()

    with ThreadPoolExecutor(2) as threads:
        done = [threads.submit(work, tenant) for tenant in (acme, globex)]
        ready.wait(10)
        found = {session.schema: session.state for session in monitoring.sessions()}
        stats = {entry.schema: entry for entry in monitoring.tenant_stats()}
        go.set()
        for each in done:
            each.result()
    assert found["acme"] == found["globex"] == "idle in transaction"
    assert stats["acme"].idle_in_transaction == 1
    assert stats["acme"].size > 0


def test_stats_take_two_statements(acme: Any, globex: Any, django_assert_num_queries: Any) -> None:
    """However many schemas there are."""
    with django_assert_num_queries(2):
        assert {"acme", "globex"} <= {entry.schema for entry in monitoring.tenant_stats()}


def test_the_command(acme: Any) -> None:
    """A line for each schema, or JSON."""
    out = io.StringIO()
    call_command("tenant_stats", stdout=out)
    assert out.getvalue().splitlines()[0].split()[:2] == ["schema", "size"]
    assert any(line.startswith("acme ") for line in out.getvalue().splitlines())
    out = io.StringIO()
    call_command("tenant_stats", "--json", stdout=out)
    (entry,) = [entry for entry in json.loads(out.getvalue())["schemas"] if entry["schema"] == "acme"]
    assert entry["size"] > 0


def test_pools(make_alias: Any) -> None:
    """How it is used now; None where there is none."""
    assert monitoring.pool_stats() is None
    alias = make_alias("pooled", tenants={}, pool={"min_size": 1, "max_size": 3})
    with alias.cursor() as cursor:
        cursor.execute("SELECT 1")
        alias.pool.wait()
        stats = monitoring.pool_stats("pooled")
    assert stats is not None
    assert (stats["max_size"], stats["in_use"]) == (3, 1)
    assert stats["requests"] >= 1


def test_failed_connections_and_a_server_that_is_away(monitored: Any, make_alias: Any, server_params: Any) -> None:
    """They are counted, and metrics are given all the same."""
    alias = make_alias("wrong", params={**server_params, "password": "hunter2"})
    with pytest.raises(DatabaseError):
        alias.ensure_connection()
    found = monitoring.get_metrics("wrong")["databases"]["wrong"]
    assert found["failed_connections"] >= 1
    assert found["sessions"] is None
    assert found["server"] == {"cpu_percent": None, "memory_bytes": None}


def test_the_server(acme: Any) -> None:
    """Its processor and memory are known where it runs on this machine."""
    found = monitoring.get_metrics("default")["databases"]["default"]
    assert found["server"]["memory_bytes"] > 1_000_000
    assert found["server"]["cpu_percent"] >= 0
    assert isinstance(found["sessions"], dict)
    assert json.dumps(monitoring.get_metrics())


def test_prometheus(monitored: Any, acme: Any) -> None:
    """Its text format has each tenant's counters; registering twice is an error."""
    from prometheus_client import REGISTRY, CollectorRegistry

    from pg_tenants.contrib import prometheus

    with tenant_context(acme):
        Note.objects.count()
    collector = prometheus.register()
    try:
        with pytest.raises(ConfigurationError, match="registered already"):
            prometheus.register()
        text = prometheus.view(RequestFactory().get("/metrics")).content.decode()
        assert 'pg_tenants_queries_total{database="default",schema="acme"} 1.0' in text
        assert "pg_tenants_query_seconds_total" in text
    finally:
        REGISTRY.unregister(collector)
    other = CollectorRegistry()
    prometheus.register(other)
    assert other.get_sample_value("pg_tenants_queries_total", {"database": "default", "schema": "acme"}) == 1.0


def test_opentelemetry(acme: Any) -> None:
    """Each span names the tenant that was active when it began; the middleware marks the request's own."""
    from django.http import HttpResponse
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    from pg_tenants.contrib.opentelemetry import TenantSpanProcessor, span_middleware

    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(TenantSpanProcessor())
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("tests")
    with tracer.start_as_current_span("request"), tenant_context(acme):
        span_middleware(lambda request: HttpResponse())(RequestFactory().get("/"))
        with tracer.start_as_current_span("query"):
            pass
    with tracer.start_as_current_span("outside"):
        pass
    found = {span.name: dict(span.attributes or {}) for span in exporter.get_finished_spans()}
    expected = {"pg_tenants.schema": "acme", "pg_tenants.module": "tenant"}
    assert found == {"request": expected, "query": expected, "outside": {}}
