"""Work across tenants: a function for each, and one query on all."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from django.db import connection, connections, transaction
from django.db.models import Count, F
from django.db.models.functions import Upper
from django.test.utils import CaptureQueriesContext

from example_project.customers.models import Domain, Tenant
from example_project.notes.models import Note, Tag
from pg_tenants import (
    across_tenants,
    afor_each_tenant,
    current_schema,
    current_tenant,
    for_each_tenant,
    schemas,
    tenant_context,
)
from pg_tenants.exceptions import SchemaDoesNotExist, UnsafeStatement, WrongTenant
from tests.conftest import set_status
from tests.fix_wire import Wire


@pytest.fixture
def many(open_db: None, raw: Any) -> Iterator[list[Any]]:
    """Return 120 tenants without rows of their own, whose schemas have tags alone: two each."""
    names = [f"many_{number:03}" for number in range(120)]
    physical = [schemas.tenant_connection().physical_schema(name) for name in names]
    for name, schema in zip(names, physical, strict=True):
        raw.execute(f"""
            CREATE SCHEMA {schema}; CREATE TABLE {schema}.pg_tenants_marker ();
            CREATE TABLE {schema}.notes_tag (id bigint PRIMARY KEY, name varchar(50));
            INSERT INTO {schema}.notes_tag VALUES (1, 'first of {name}'), (2, 'second of {name}')
        """)
    yield [SimpleNamespace(schema_name=name) for name in names]
    for schema in physical:
        raw.execute(f"DROP SCHEMA IF EXISTS {schema} CASCADE")


def test_a_chunk_of_tenants_takes_one_round_trip(wire: Wire, many: list[Any]) -> None:
    """Of 120 tenants, a hundred and then twenty, each in its own schema."""
    connection.ensure_connection()
    wire.reset()
    found = list(across_tenants(Tag.objects.filter(pk=2), many))
    assert wire.round_trips == 2
    assert [(tenant.schema_name, tag.name) for tenant, tag in found] == [
        (tenant.schema_name, f"second of {tenant.schema_name}") for tenant in many
    ]
    with CaptureQueriesContext(connection) as queries:
        assert len(list(across_tenants(Tag, many))) == 240
    assert len(queries) == 120
    assert current_schema() is None


def test_rows_come_chunk_by_chunk(wire: Wire, many: list[Any]) -> None:
    """Nothing is asked for before it is needed, and the tenants may come from a generator."""
    connection.ensure_connection()
    wire.reset()
    rows = across_tenants(Tag, (tenant for tenant in many), chunk=10)
    assert wire.round_trips == 0
    assert next(rows)[0].schema_name == "many_000"
    assert wire.round_trips == 1
    assert len(list(rows)) == 239
    assert wire.round_trips == 12


def test_querysets_of_every_kind(acme: Any, globex: Any) -> None:
    """Whatever the queryset makes of its rows, it makes of these."""

    def names(query: Any) -> list[tuple[str, Any]]:
        return [(tenant.schema_name, row) for tenant, row in across_tenants(query, [acme, globex])]

    notes = Note.objects.all()
    assert names(notes.values("title")) == [
        ("acme", {"title": "note of acme"}),
        ("globex", {"title": "note of globex"}),
    ]
    assert names(notes.values_list("title", flat=True).filter(title__endswith="acme")) == [("acme", "note of acme")]
    counted = notes.annotate(n=Count("tags"), loud=F("title")).values_list("loud", "n", named=True)
    assert [(row.loud, row.n) for _, row in names(counted)] == [("note of acme", 0), ("note of globex", 0)]
    assert names(notes.annotate(loud=Upper("author__username")).values_list("loud", flat=True)) == [
        ("acme", "ADA-ACME"),
        ("globex", "ADA-GLOBEX"),
    ]
    assert names(notes.none()) == []
    assert names(notes.filter(pk__in=[])) == []
    assert names(notes.order_by("-pk")[:1].values_list("pk", flat=True))
    assert names(notes.dates("created_at", "year"))
    assert names(notes.extra(select={"one": "1"}, order_by=["one"]).values_list("title", flat=True))
    assert len(names(notes.values_list("pk").union(Tag.objects.values_list("pk")).order_by())) == 2
    assert len(names(notes.filter(author__in=Note.objects.values("author")))) == 2
    assert [row.author.username for _, row in names(notes.select_related("author"))] == ["ada-acme", "ada-globex"]
    assert len(names(Note.objects)) == len(names(Note)) == 2


def test_prefetching(acme: Any, globex: Any) -> None:
    """It asks again, once for each tenant, in that tenant."""
    for tenant in (acme, globex):
        with tenant_context(tenant):
            Note.objects.get().tags.add(Tag.objects.create(name=tenant.schema_name))
    found = list(across_tenants(Note.objects.prefetch_related("tags")))
    assert [[tag.name for tag in note.tags.all()] for _, note in found] == [["acme"], ["globex"]]


def test_instances_belong_to_their_tenant(acme: Any, globex: Any) -> None:
    """They are refused in another one, and outside."""
    for tenant, note in across_tenants(Note):
        other = globex if tenant == acme else acme
        with pytest.raises(WrongTenant, match="no tenant is active"):
            note.save()
        with tenant_context(other), pytest.raises(WrongTenant):
            note.delete()
        with tenant_context(tenant):
            note.save()


def test_active_tenants_alone(acme: Any, globex: Any) -> None:
    """Suspended ones are left out unless they are named."""
    set_status(globex, "suspended")
    assert [tenant for tenant, _ in across_tenants(Note)] == [acme]
    assert [tenant for tenant, _ in across_tenants(Note, [acme, globex])] == [acme, globex]
    assert for_each_tenant(lambda tenant: tenant.name).results == {"acme": "Acme"}
    assert for_each_tenant(lambda tenant: tenant.name, Tenant.objects.order_by("-pk")).done == 2


def test_a_dropped_tenant_is_an_error(many: list[Any], raw: Any) -> None:
    """It is named, nothing of its chunk is returned, and the connection goes on."""
    schema = schemas.tenant_connection().physical_schema("many_005")
    raw.execute(f"DROP SCHEMA {schema} CASCADE")
    with pytest.raises(SchemaDoesNotExist, match=schema):
        list(across_tenants(Tag, many))
    assert len(list(across_tenants(Tag, many[6:]))) == 228


def test_inside_a_transaction(acme: Any, globex: Any) -> None:
    """It sees what the transaction has written, and leaves it as it was."""
    with transaction.atomic():
        with tenant_context(acme):
            Tag.objects.create(name="written")
        assert [(tenant, tag.name) for tenant, tag in across_tenants(Tag)] == [(acme, "written")]
        with tenant_context(globex):
            Tag.objects.create(name="after")
    with tenant_context(globex):
        assert Tag.objects.get().name == "after"


def test_server_side_binding(acme: Any, globex: Any, make_alias: Any) -> None:
    """With parameters that the server binds, each statement has its tenant too."""
    make_alias("bound", server_side_binding=True)
    query = Note.objects.using("bound").filter(title__startswith="note")
    assert [(tenant, note.title) for tenant, note in across_tenants(query)] == [
        (acme, "note of acme"),
        (globex, "note of globex"),
    ]


def test_what_is_refused(acme: Any) -> None:
    """Rows that all tenants share, locks, and what is no query."""
    with pytest.raises(UnsafeStatement, match=r"customers\.Domain"):
        across_tenants(Domain)
    with pytest.raises(UnsafeStatement, match="locks"):
        across_tenants(Note.objects.select_for_update())
    with pytest.raises(TypeError):
        across_tenants(Note.objects.raw("SELECT 1"))  # type: ignore[arg-type]


# -- for each ---------------------------------------------------------------------------------------------------------


def test_a_function_for_each_tenant(acme: Any, globex: Any) -> None:
    """It runs in the tenant's context, and what it returns is collected."""

    def count(tenant: Any) -> int | None:
        assert current_tenant() == tenant
        return Note.objects.filter(title__contains=tenant.schema_name).count()

    outcome = for_each_tenant(count)
    assert (outcome.done, outcome.results, outcome.errors) == (2, {"acme": 1, "globex": 1}, {})
    assert for_each_tenant(lambda tenant: None).results == {}
    assert current_schema() is None
    outcome.raise_errors()


def test_an_error_does_not_stop_the_others(acme: Any, globex: Any) -> None:
    """It is kept with its tenant's name, unless one asks to stop."""

    def fail(tenant: Any) -> str:
        if tenant == acme:
            Note.objects.create(title="x" * 500, author_id=1)
        return "done"

    outcome = for_each_tenant(fail)
    assert (outcome.done, outcome.results) == (1, {"globex": "done"})
    assert outcome.errors["acme"].__notes__[-1] == "While the tenant 'acme' was active."
    with pytest.raises(ExceptionGroup, match="1 of 2 tenants failed: acme"):
        outcome.raise_errors()
    with pytest.raises(Exception, match="too long"):
        for_each_tenant(fail, stop_on_error=True)
    assert current_schema() is None


def test_tenants_are_read_in_pages(acme: Any, globex: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """So memory does not grow with their number, and none is missed or met twice."""
    monkeypatch.setattr("pg_tenants.across._PAGE", 1)
    with CaptureQueriesContext(connection) as queries:
        assert list(for_each_tenant(lambda tenant: tenant.pk).results) == ["acme", "globex"]
    assert len(queries) == 3


def test_an_asynchronous_function_for_each_tenant(acme: Any, globex: Any) -> None:
    """As the synchronous one."""

    async def count(tenant: Any) -> int:
        if tenant == globex:
            raise ValueError("no")
        return await Note.objects.acount()

    async def main() -> Any:
        from asgiref.sync import sync_to_async

        try:
            return await afor_each_tenant(count)
        finally:
            await sync_to_async(connections.close_all)()

    outcome = asyncio.run(main())
    assert (outcome.done, outcome.results, list(outcome.errors)) == (1, {"acme": 1}, ["globex"])
