"""A schema's name that another tenant has by now: nothing that means the first one reaches the second.

Other processes, which do not hear of the change at once, are played by this one with its ears shut.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.contrib.contenttypes.models import ContentType
from django.core.management import call_command
from django.db import connection, transaction
from django.http import HttpResponse
from django.test import RequestFactory
from psycopg import sql as psql
from psycopg.errors import UndefinedTable

from example_project.customers.models import Tenant
from example_project.notes.models import Note, Tag
from pg_tenants import lookups, schema_context, schemas, sql, tenant_context
from pg_tenants.exceptions import SchemaDoesNotExist, SchemaExists, WrongTenant
from pg_tenants.middleware import TenantMiddleware
from pg_tenants.names import marker_name
from tests.conftest import make_tenant
from tests.integration.test_migrate_schemas import physical
from tests.integration.test_statement_table import WAYS

SENT_AS_THEY_ARE = ("SAVEPOINT", "NOTIFY")
SECRET = "of the second"


def second(first: Any) -> Any:
    """Give the first tenant's name to another one, which has a note as well."""
    first_now = Tenant.objects.get(pk=first.pk)
    first_now.rename("hooli_old")
    made = make_tenant_without_domain("hooli")
    with tenant_context(made):
        user = Note._meta.get_field("author").related_model.objects.create(username="second")
        Note.objects.create(title=SECRET, body="", author=user)
        Tag.objects.create(name=SECRET)
    return made


def make_tenant_without_domain(name: str) -> Any:
    return Tenant.objects.create(schema_name=name, name="Second")


@pytest.fixture
def hooli(open_db: None) -> Any:
    """Return the first tenant of the name."""
    made = make_tenant("hooli")
    with tenant_context(made):
        user = Note._meta.get_field("author").related_model.objects.create(username="first")
        Note.objects.create(title="note of acme", body="", author=user)
    return made


@pytest.fixture
def deaf(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Keep lookups from hearing of changes, as in another process."""
    monkeypatch.setattr(lookups, "changed", lambda using: None)
    monkeypatch.setattr(lookups, "publish", lambda: None)
    yield
    monkeypatch.undo()
    lookups.forget()


@pytest.mark.parametrize("way", [way for way in WAYS if not any(name in way for name in SENT_AS_THEY_ARE)])
def test_each_way_of_sending(hooli: Any, globex: Any, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By an instance that was loaded before: refused, and nothing was written."""
    if "server_side_binding" in way or "prepared" in way:
        monkeypatch.setitem(connection.settings_dict["OPTIONS"], "server_side_binding", True)
    if "prepared" in way:
        monkeypatch.setitem(connection.settings_dict["OPTIONS"], "prepare_threshold", 0)
    connection.close()
    with tenant_context(hooli):
        WAYS[way]()
    other = second(hooli)
    # What only psycopg's cursors have raises psycopg's errors.
    psycopgs = way in ("`copy` out", "`copy` in", "`stream`")
    error, text = (
        (UndefinedTable, marker_name(str(hooli.pk))) if psycopgs else (SchemaDoesNotExist, f"key '{hooli.pk}'")
    )
    with tenant_context(hooli), pytest.raises(error, match=text):
        if "transaction" in way:
            with transaction.atomic():
                WAYS[way]()
        else:
            WAYS[way]()
    with tenant_context(other):
        assert [tag.name for tag in Tag.objects.all()] == [SECRET]
        assert [note.title for note in Note.objects.all()] == [SECRET]
    with tenant_context(Tenant.objects.get(pk=hooli.pk)):
        assert [note.title for note in Note.objects.all()] == ["note of acme"]


def test_asynchronous_sql(hooli: Any) -> None:
    """Alike, on the connections of the event loop."""

    async def titles() -> list[Any]:
        async with tenant_context(hooli):
            return [row["title"] for row in await sql.afetch_all("SELECT title FROM {{tables.notes_note}}")]

    assert async_to_sync(titles)() == ["note of acme"]
    second(hooli)
    with pytest.raises(SchemaDoesNotExist):
        async_to_sync(titles)()


def test_requests_of_a_process_that_has_not_heard(hooli: Any, deaf: None) -> None:
    """One fails, and has it look again; none reads what is the second's."""

    def view(request: Any) -> HttpResponse:
        return HttpResponse(" ".join(Note.objects.values_list("title", flat=True)))

    middleware = TenantMiddleware(view)

    def ask() -> str:
        request = RequestFactory().get("/", headers={"host": "hooli.localhost"})
        try:
            return middleware(request).content.decode()
        except SchemaDoesNotExist as exc:
            middleware.process_exception(request, exc)
            raise

    assert ask() == "note of acme"
    second(hooli)
    with pytest.raises(SchemaDoesNotExist):
        ask()
    assert ask() == "note of acme"


def test_an_instance_of_a_tenant_that_was_deleted(hooli: Any) -> None:
    """Django takes its key; it is not the next one of the name all the same."""
    hooli.delete()
    assert hooli.pk is None
    with tenant_context(hooli), pytest.raises(SchemaDoesNotExist):
        Note.objects.count()
    other = make_tenant_without_domain("hooli")
    with tenant_context(hooli), pytest.raises(SchemaDoesNotExist):
        Note.objects.count()
    with pytest.raises(SchemaExists):
        hooli.save()
    with tenant_context(hooli), pytest.raises(SchemaDoesNotExist):
        Note.objects.count()
    other.delete()
    hooli.save()
    with tenant_context(hooli):
        assert Note.objects.count() == 0


def test_the_name_alone_means_whoever_has_it(hooli: Any) -> None:
    """So do the commands, which are told names by people."""
    second(hooli)
    with schema_context("hooli"):
        assert Note.objects.get().title == SECRET
    with tenant_context(Tenant(schema_name="hooli")):
        assert Note.objects.get().title == SECRET


def test_instances_of_models(hooli: Any) -> None:
    """Those of the first are not saved into the second, nor used in its queries; pickled ones neither."""
    with tenant_context(hooli):
        note = Note.objects.get()
        kept = pickle.dumps(note)
    other = second(hooli)
    with tenant_context(other):
        for one in (note, pickle.loads(kept)):
            with pytest.raises(WrongTenant, match=r"another tenant's: its key is '\d+', not '\d+'"):
                one.save()
            with pytest.raises(WrongTenant):
                list(Tag.objects.filter(notes=one))
        assert Note.objects.get().title == SECRET
    # Who names the schema alone does not say whose it is.
    with schema_context("hooli"):
        again = Note.objects.get()
    with tenant_context(other):
        again.save()


def test_content_types(hooli: Any) -> None:
    """The ids that are kept are those of one tenant."""
    with tenant_context(hooli):
        first = ContentType.objects.get_for_model(Note)
        assert ContentType.objects.get_for_model(Note) is first
    with tenant_context(second(hooli)):
        assert ContentType.objects.get_for_model(Note) is not first


def inherited(name: str, raw: Any) -> list[str]:
    query = psql.SQL(
        "SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = {}::regclass"
    )
    marker = psql.Identifier(physical(name), marker_name()).as_string()
    return [one for (one,) in raw.execute(query.format(psql.Literal(marker))).fetchall()]


@pytest.mark.parametrize(
    "make",
    [
        lambda acme: acme.clone("initech"),
        lambda acme: acme.clone("initech", data=True),
        lambda acme: acme.rename("initech") and acme,
        lambda acme: Tenant.objects.create_tenant("initech", name="Initech"),
        lambda acme: adopted(),
        lambda acme: provisioned_later(),
    ],
    ids=["clone", "clone with data", "rename", "create", "adopt", "provision"],
)
def test_each_way_of_making_one(acme: Any, raw: Any, make: Callable[[Any], Any]) -> None:
    """The schema says whose it is, once."""
    made = make(acme)
    assert inherited("initech", raw) == [marker_name(made.schema_identity)]
    with tenant_context(made):
        Note.objects.count()


def adopted() -> Any:
    tenant = make_tenant_without_domain("initech")
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM customers_tenant WHERE id = %s", [tenant.pk])
    return Tenant.objects.create_tenant("initech", adopt=True, name="Initech")


def provisioned_later() -> Any:
    tenant = Tenant.objects.create_tenant("initech", provision=False, name="Initech")
    tenant.provision()
    return tenant


def test_rows_that_were_made_by_other_means(hooli: Any, raw: Any) -> None:
    """Their schemas are nobody's until the next migrate_schemas; one that is somebody's stays so."""
    schemas.assign("hooli", None)
    assert inherited("hooli", raw) == []
    with tenant_context(hooli), pytest.raises(SchemaDoesNotExist, match="Run migrate_schemas"):
        Note.objects.count()
    call_command("migrate_schemas", plan=True, verbosity=0)
    assert inherited("hooli", raw) == []
    call_command("migrate_schemas", verbosity=0)
    with tenant_context(hooli):
        assert Note.objects.count() == 1
    schemas.assign("hooli", "another")
    call_command("migrate_schemas", verbosity=0)
    assert inherited("hooli", raw) == [marker_name("another")]
    schemas.assign("hooli", hooli.schema_identity)
    with pytest.raises(SchemaDoesNotExist):
        schemas.assign("nowhere", "1")
