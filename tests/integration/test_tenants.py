"""A tenant's row and schema, together or not at all."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.db import connection, connections, models, transaction
from django.db.models.signals import post_delete, post_init, post_migrate, post_save, pre_delete, pre_save
from django.db.utils import DatabaseError, IntegrityError, ProgrammingError
from django.test.utils import isolate_apps
from psycopg import sql

from example_project.billing.models import Invoice
from example_project.customers.models import Domain, Tenant
from example_project.notes.models import Note, Tag
from pg_tenants import current_schema, schema_context, schemas, tenant_context
from pg_tenants.exceptions import (
    ConfigurationError,
    InvalidSchemaName,
    PgTenantsError,
    SchemaDoesNotExist,
    SchemaExists,
    TenantInUse,
    UnsafeStatement,
)
from pg_tenants.models import normalize_domain
from tests.conftest import make_tenant

Raw = Any


def physical(name: str) -> str:
    return schemas.tenant_connection().physical_schema(name)


def schema_there(raw: Raw, name: str) -> bool:
    found = raw.execute("SELECT count(*) FROM pg_namespace WHERE nspname = %s", [physical(name)]).fetchone()
    return bool(found[0])


def row_there(name: str) -> bool:
    return Tenant.objects.filter(schema_name=name).exists()


def neither(raw: Raw, name: str) -> bool:
    return not row_there(name) and not schema_there(raw, name)


@pytest.fixture(autouse=True)
def _nothing_left(server_params: dict[str, Any], django_db_blocker: Any) -> Iterator[None]:
    """Remove what a failing test has left, so that it fails alone."""
    yield
    with django_db_blocker.unblock():
        Domain.objects.all()._raw_delete("default")
        Tenant._base_manager.all()._raw_delete("default")
        for name in ("acme", "globex", "initech", "one_schema", "two_schema"):
            with connection.cursor() as cursor:
                cursor.execute(f'DROP SCHEMA IF EXISTS "{physical(name)}" CASCADE')
        connections.close_all()


@pytest.fixture
def receiver() -> Iterator[Callable[..., None]]:
    """Connect a function to a signal for the length of the test."""
    connected: list[tuple[Any, Any]] = []

    def connect(signal: Any, function: Any, sender: Any = None) -> None:
        signal.connect(function, sender=sender, weak=False)
        connected.append((signal, (function, sender)))

    yield connect
    for signal, (function, sender) in connected:
        signal.disconnect(function, sender=sender)


class Boom(Exception):
    """Raised by tests in the middle of something."""


def boom(*args: Any, **kwargs: Any) -> None:
    raise Boom("in the middle")


# -- create -----------------------------------------------------------------------------------------------------------


def test_create_makes_row_and_schema(open_db: None, raw: Raw) -> None:
    """With every table of the tenant's module and no other's, and the tenant is active."""
    tenant = Tenant.objects.create(schema_name="acme", name="Acme")
    tenant.refresh_from_db()
    assert (tenant.status, tenant.module, tenant.is_active) == ("active", "tenant", True)
    tables = {
        name
        for (name,) in raw.execute(
            "SELECT tablename FROM pg_tables WHERE schemaname = %s", [physical("acme")]
        ).fetchall()
    }
    assert {"notes_note", "notes_tag", "auth_user", "django_session", "django_migrations"} <= tables
    assert "pg_tenants_marker" in tables
    assert not {"customers_tenant", "billing_invoice"} & tables
    with tenant_context(tenant):
        assert Note.objects.count() == 0


@pytest.mark.parametrize("how", ["save", "create", "get_or_create", "update_or_create", "acreate", "asave"])
def test_every_way_to_create_makes_the_schema(open_db: None, raw: Raw, how: str) -> None:
    """Asynchronous ones too."""
    if how == "save":
        Tenant(schema_name="acme").save()
    elif how == "asave":
        asyncio.run(_closing(Tenant(schema_name="acme").asave))
    elif how == "acreate":
        asyncio.run(_closing(lambda: Tenant.objects.acreate(schema_name="acme")))
    else:
        getattr(Tenant.objects, how)(schema_name="acme")
    assert row_there("acme")
    assert schema_there(raw, "acme")


async def _closing(function: Callable[[], Any]) -> None:
    from asgiref.sync import sync_to_async

    try:
        await function()
    finally:
        await sync_to_async(connections.close_all)()


def test_create_inside_another_tenant(acme: Any, raw: Raw) -> None:
    """The tenant that is active stays so, and gets nothing."""
    with tenant_context(acme):
        globex = make_tenant("globex")
        assert current_schema() == "acme"
        assert Note.objects.count() == 1
    with tenant_context(globex):
        assert Note.objects.count() == 0
    assert schema_there(raw, "globex")


@pytest.mark.parametrize("signal", [pre_save, post_save])
def test_a_failing_signal_of_the_row_leaves_nothing(open_db: None, raw: Raw, receiver: Any, signal: Any) -> None:
    """The error is the signal's own, and the instance can be saved again."""
    tenant = Tenant(schema_name="acme", name="Acme")
    receiver(signal, boom, Tenant)
    with pytest.raises(Boom):
        tenant.save()
    assert neither(raw, "acme")
    assert tenant.pk is None
    assert tenant._state.adding
    assert not tenant.is_active
    signal.disconnect(boom, sender=Tenant)
    tenant.save()
    assert row_there("acme")
    assert tenant.is_active


@pytest.mark.parametrize("outer", [False, True])
def test_a_failing_migration_leaves_nothing(
    no_templates: None, open_db: None, raw: Raw, monkeypatch: pytest.MonkeyPatch, outer: bool
) -> None:
    """Neither row nor schema; the error is the migration's; a transaction around it goes on."""
    from django.db.migrations import Migration

    original = Migration.apply

    def fail_late(self: Any, *args: Any, **kwargs: Any) -> Any:
        state = original(self, *args, **kwargs)
        if self.app_label == "notes":
            connection.cursor().execute("SELECT 1 / 0")
        return state

    monkeypatch.setattr(Migration, "apply", fail_late)
    if outer:
        with transaction.atomic():
            before = Tenant.objects.count()
            with pytest.raises(DatabaseError, match="division by zero"):
                Tenant.objects.create(schema_name="acme")
            assert Tenant.objects.count() == before
    else:
        with pytest.raises(DatabaseError, match="division by zero"):
            Tenant.objects.create(schema_name="acme")
    assert neither(raw, "acme")
    assert not connection.in_atomic_block
    monkeypatch.undo()
    make_tenant("acme")


def test_a_failing_post_migrate_leaves_nothing(open_db: None, raw: Raw, receiver: Any) -> None:
    """Receivers run in the same transaction."""
    receiver(post_migrate, boom)
    with pytest.raises(Boom):
        Tenant.objects.create(schema_name="acme")
    assert neither(raw, "acme")


def test_an_interrupt_leaves_nothing(open_db: None, raw: Raw, receiver: Any) -> None:
    """Ctrl-C in the middle as well."""

    def interrupt(**kwargs: Any) -> None:
        raise KeyboardInterrupt

    receiver(post_migrate, interrupt)
    tenant = Tenant(schema_name="acme")
    with pytest.raises(KeyboardInterrupt):
        tenant.save()
    assert neither(raw, "acme")
    assert tenant.pk is None


def test_a_rollback_takes_both(open_db: None, raw: Raw) -> None:
    """Also to a savepoint; what was made beside it stays."""
    with pytest.raises(Boom), transaction.atomic():
        Tenant.objects.create(schema_name="acme")
        boom()
    assert neither(raw, "acme")
    with transaction.atomic():
        Tenant.objects.create(schema_name="globex")
        with pytest.raises(Boom), transaction.atomic():
            Tenant.objects.create(schema_name="acme")
            boom()
        assert schemas.exists("globex")
        assert not schemas.exists("acme")
    assert neither(raw, "acme")
    assert schema_there(raw, "globex")


def test_nobody_else_sees_a_tenant_before_it_is_finished(open_db: None, raw: Raw) -> None:
    """Row and schema appear at once, with the commit."""
    with transaction.atomic():
        tenant = Tenant.objects.create(schema_name="acme")
        assert not schema_there(raw, "acme")
        table = sql.Identifier(physical("public"), "customers_tenant")
        query = sql.SQL("SELECT count(*) FROM {} WHERE schema_name = 'acme'").format(table)
        assert raw.execute(query).fetchone() == (0,)
        with tenant_context(tenant):
            assert Note.objects.count() == 0
    assert schema_there(raw, "acme")
    assert raw.execute(query).fetchone() == (1,)


@pytest.mark.parametrize("outer", [False, True])
def test_a_name_that_a_tenant_has(acme: Any, raw: Raw, outer: bool) -> None:
    """The error names it; the tenant that has it keeps its data, and a transaction around goes on."""
    with transaction.atomic() if outer else tenant_context(acme):
        with pytest.raises(SchemaExists, match=r"'acme'.*Choose another schema_name") as caught:
            Tenant.objects.create(schema_name="acme")
        assert isinstance(caught.value, IntegrityError)
        assert Tenant.objects.filter(schema_name="acme").count() == 1
    with tenant_context(acme):
        assert Note.objects.count() == 1


def test_a_schema_that_is_there_is_not_taken_over(open_db: None, raw: Raw) -> None:
    """Whoever made it; it stays as it is."""
    name = sql.Identifier(physical("acme"))
    raw.execute(sql.SQL("CREATE SCHEMA {0}; CREATE TABLE {0}.precious AS SELECT 1 AS one").format(name))
    try:
        with pytest.raises(SchemaExists, match=r"'.*acme'.*not taken over"):
            Tenant.objects.create(schema_name="acme")
        assert not row_there("acme")
        assert raw.execute(sql.SQL("SELECT one FROM {}.precious").format(name)).fetchone() == (1,)
    finally:
        raw.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(name))


def test_the_row_of_a_deleted_tenants_schema_is_not_made_again(acme: Any, raw: Raw) -> None:
    """A schema without its row, as after a raw DELETE, is not adopted with the old data in it."""
    Domain.objects.all().delete()
    Tenant._base_manager.filter(pk=acme.pk)._raw_delete("default")
    with pytest.raises(SchemaExists):
        Tenant.objects.create(schema_name="acme")
    schemas.drop("acme")


@pytest.mark.parametrize(
    "name",
    ["public", "billing", "pg_x", "information_schema", "Acme", "ac me", "", "user", "a" * 52, 'a"b', "a\0b", None],
)
def test_a_name_that_cannot_be(open_db: None, name: Any) -> None:
    """Refused before anything is sent, by save() and by forms."""
    count = Tenant.objects.count()
    with pytest.raises(InvalidSchemaName):
        Tenant.objects.create(schema_name=name)
    assert Tenant.objects.count() == count
    with pytest.raises(ValidationError) as caught:
        Tenant(schema_name=name, name="x").full_clean()
    assert "schema_name" in caught.value.message_dict


def test_the_database_roles_own_name(open_db: None, server_params: dict[str, Any]) -> None:
    """It would be on the path of every connection, as "$user"."""
    user = str(server_params["user"])
    if physical(user) != user:
        pytest.skip("under a worker's prefix no schema has the role's name")
    with pytest.raises(InvalidSchemaName, match=f"'{user}' is the database role"):
        Tenant.objects.create(schema_name=user)
    assert not row_there(user)


def test_an_unknown_module(open_db: None, raw: Raw) -> None:
    """The error names it and those there are; nothing is made, and the instance is as it was."""
    tenant = Tenant(schema_name="acme", module="tenants")
    with pytest.raises(ConfigurationError, match=r"'tenants'.*Did you mean 'tenant'"):
        tenant.save()
    assert neither(raw, "acme")
    assert (tenant.module, tenant.pk) == ("tenants", None)


def test_bulk_ways_are_refused(acme: Any) -> None:
    """They would make rows without schemas, or part them; the errors say what to do instead."""
    with pytest.raises(UnsafeStatement, match="create\\(\\) or save\\(\\)"):
        Tenant.objects.bulk_create([Tenant(schema_name="globex")])
    acme.schema_name = "globex"
    for change in (
        lambda: Tenant.objects.bulk_update([acme], ["schema_name"]),
        lambda: Tenant.objects.update(schema_name="globex"),
        lambda: Tenant.objects.filter(pk=acme.pk).update(schema_name="globex"),
        lambda: Tenant.objects.update(module="x"),
        lambda: asyncio.run(_closing(lambda: Tenant.objects.aupdate(schema_name="globex"))),
    ):
        with pytest.raises(UnsafeStatement, match="part tenants from their schemas"):
            change()
    with pytest.raises(UnsafeStatement):
        Tenant.objects.update_or_create(schema_name="acme", defaults={"schema_name": "globex"})
    assert list(Tenant.objects.values_list("schema_name", flat=True)) == ["acme"]


def test_other_fields_are_changed_as_ever(acme: Any) -> None:
    """By save, update and bulk_update; nothing is provisioned again."""
    acme.name = "New"
    acme.save()
    Tenant.objects.update(city="Łódź")
    acme.colour = "#000000"
    Tenant.objects.bulk_update([acme], ["colour"])
    found = Tenant.objects.get(pk=acme.pk)
    assert (found.name, found.city, found.colour, found.status) == ("New", "Łódź", "#000000", "active")


@pytest.mark.parametrize("load", ["get", "only", "defer", "refresh", "created"])
def test_the_name_cannot_be_changed_by_saving(acme: Any, load: str) -> None:
    """However the row was loaded."""
    tenant = {
        "get": lambda: Tenant.objects.get(pk=acme.pk),
        "only": lambda: Tenant.objects.only("name").get(pk=acme.pk),
        "defer": lambda: Tenant.objects.defer("schema_name").get(pk=acme.pk),
        "refresh": lambda: acme.refresh_from_db() or acme,
        "created": lambda: acme,
    }[load]()
    tenant.schema_name = "globex"
    with pytest.raises(UnsafeStatement, match=r"'acme'.*'globex'"):
        tenant.save()
    assert Tenant.objects.get(pk=acme.pk).schema_name == "acme"


def test_the_module_cannot_be_changed_by_saving(acme: Any) -> None:
    """The schema has that module's tables."""
    tenant = Tenant.objects.get(pk=acme.pk)
    tenant.module = "another"
    with pytest.raises(PgTenantsError):
        tenant.save()
    assert Tenant.objects.get(pk=acme.pk).module == "tenant"


def test_a_new_instance_with_the_key_of_another_tenant(acme: Any, raw: Raw) -> None:
    """It does not take over that one's row, which would leave its schema without one."""
    with pytest.raises(DatabaseError):
        Tenant(pk=acme.pk, schema_name="globex", name="Globex").save()
    assert row_there("acme")
    assert neither(raw, "globex")


def test_a_copy_is_a_new_tenant(acme: Any, raw: Raw) -> None:
    """The usual way to copy a row needs another name."""
    tenant = Tenant.objects.get(pk=acme.pk)
    tenant.pk, tenant._state.adding = None, True
    with pytest.raises(SchemaExists):
        tenant.save()
    tenant.schema_name = "globex"
    tenant.save()
    assert schema_there(raw, "globex")
    with tenant_context(tenant):
        assert Note.objects.count() == 0


@pytest.mark.parametrize("count", [2, 4])
def test_one_name_at_once(open_db: None, raw: Raw, count: int) -> None:
    """Of several sessions that create one name, one does; the others are told, and nothing is half made."""
    start = threading.Barrier(count)

    def create(number: int) -> str:
        try:
            start.wait()
            Tenant.objects.create(schema_name="acme", name=str(number))
        except Exception as exc:  # noqa: BLE001
            return type(exc).__name__
        else:
            return "made"
        finally:
            connections.close_all()

    with ThreadPoolExecutor(count) as pool:
        results = list(pool.map(create, range(count)))
    assert sorted(results) == ["SchemaExists"] * (count - 1) + ["made"]
    tenant = Tenant.objects.get(schema_name="acme")
    assert tenant.name == str(results.index("made"))
    with tenant_context(tenant):
        Tag.objects.create(name="works")


def test_different_names_at_once(open_db: None, raw: Raw) -> None:
    """They do not wait for each other's transactions to fail."""
    names = ["acme", "globex", "initech"]

    def create(name: str) -> None:
        try:
            Tenant.objects.create(schema_name=name)
        finally:
            connections.close_all()

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(create, names))
    assert all(row_there(name) and schema_there(raw, name) for name in names)


# -- delete -----------------------------------------------------------------------------------------------------------


def test_delete_drops_both(acme: Any, globex: Any, raw: Raw) -> None:
    """And the domains; other tenants keep theirs."""
    acme.delete()
    assert neither(raw, "acme")
    assert not Domain.objects.filter(domain="acme.localhost").exists()
    with tenant_context(globex):
        assert Note.objects.count() == 1


def test_delete_of_a_queryset_drops_every_schema(acme: Any, globex: Any, raw: Raw) -> None:
    """And counts as Django does; asynchronously too."""
    count, by_model = Tenant.objects.filter(schema_name__in=["acme", "globex"]).delete()
    assert (count, by_model["customers.Tenant"], by_model["customers.Domain"]) == (4, 2, 2)
    assert neither(raw, "acme")
    assert neither(raw, "globex")
    make_tenant("acme")
    asyncio.run(_closing(lambda: Tenant.objects.filter(schema_name="acme").adelete()))
    assert neither(raw, "acme")


def test_delete_through_a_proxy_drops_the_schema(acme: Any, raw: Raw) -> None:
    """It is the same row."""
    with isolate_apps("example_project.customers"):

        class Trial(Tenant):
            class Meta:
                proxy = True
                app_label = "customers"

        Trial.objects.get(pk=acme.pk).delete()
    assert neither(raw, "acme")


def test_a_subclass_of_the_tenant_model(open_db: None, raw: Raw) -> None:
    """A model that inherits its table makes and drops the schema with its rows."""
    with isolate_apps("example_project.customers"):

        class Reseller(Tenant):
            margin = models.IntegerField(default=0)

            class Meta:
                app_label = "customers"

    with schema_context("public"), connection.schema_editor() as editor:
        editor.create_model(Reseller)
    try:
        Reseller.objects.create(schema_name="acme")
        assert schema_there(raw, "acme")
        Reseller.objects.get().delete()
        assert neither(raw, "acme")
    finally:
        with schema_context("public"), connection.schema_editor() as editor:
            editor.delete_model(Reseller)


def test_delete_that_rolls_back_keeps_both(acme: Any, raw: Raw) -> None:
    """Also to a savepoint; and the data is there."""
    with pytest.raises(Boom), transaction.atomic():
        Tenant.objects.get(pk=acme.pk).delete()
        assert not schemas.exists("acme")
        boom()
    with transaction.atomic(), pytest.raises(Boom), transaction.atomic():
        Tenant.objects.get(pk=acme.pk).delete()
        boom()
    assert row_there("acme")
    with tenant_context(acme):
        assert Note.objects.count() == 1


@pytest.mark.parametrize("signal", [pre_delete, post_delete])
def test_a_failing_signal_keeps_both(acme: Any, raw: Raw, receiver: Any, signal: Any) -> None:
    """Whether it runs before the schema is dropped or after."""
    receiver(signal, boom, Tenant)
    with pytest.raises(Boom):
        Tenant.objects.get(pk=acme.pk).delete()
    assert row_there("acme")
    with tenant_context(acme):
        assert Note.objects.count() == 1


def test_delete_is_refused_while_the_tenant_is_active(acme: Any, raw: Raw) -> None:
    """The error says so, and nothing has happened."""
    with tenant_context(acme):
        with pytest.raises(TenantInUse, match=r"'acme' is active here.*Leave its context first"):
            Tenant.objects.get(pk=acme.pk).delete()
        with pytest.raises(TenantInUse):
            Tenant.objects.all().delete()
        assert Note.objects.count() == 1
    assert row_there("acme")
    assert Domain.objects.filter(tenant=acme).exists()


def test_delete_inside_another_tenant(acme: Any, globex: Any, raw: Raw) -> None:
    """It is allowed, and that one stays active."""
    with tenant_context(globex):
        acme.delete()
        assert Note.objects.get().title == "note of globex"
    assert neither(raw, "acme")


def test_delete_waits_for_who_uses_the_tenant(acme: Any, raw: Raw) -> None:
    """A transaction that has read the tenant goes on to the end; what comes after finds no schema."""
    reading, deleted, results = threading.Event(), threading.Event(), []

    def read() -> None:
        try:
            with tenant_context(acme), transaction.atomic():
                results.append(Note.objects.count())
                reading.set()
                results.append(deleted.wait(0.5))
                results.append(Note.objects.count())
        finally:
            connections.close_all()

    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(read)
        assert reading.wait(10)
        Tenant.objects.get(pk=acme.pk).delete()
        deleted.set()
        done.result()
    assert results == [1, False, 1]
    with tenant_context(acme), pytest.raises(SchemaDoesNotExist, match=r"'.*acme'"):
        Note.objects.count()


def test_create_again_after_delete_has_nothing_of_before(acme: Any) -> None:
    """Under the same name."""
    acme.delete()
    tenant = make_tenant("acme")
    with tenant_context(tenant):
        assert Note.objects.count() == 0


def test_delete_of_a_tenant_whose_schema_is_gone(acme: Any, raw: Raw) -> None:
    """The row can still be removed."""
    raw.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(sql.Identifier(physical("acme"))))
    acme.delete()
    assert not row_there("acme")


@pytest.mark.parametrize("name", ["public", "billing"])
def test_delete_never_drops_a_fixed_modules_schema(acme: Any, raw: Raw, name: str) -> None:
    """Even if a row says that it is the tenant's."""
    Tenant._base_manager.filter(pk=acme.pk).update(schema_name=name)
    with pytest.raises(InvalidSchemaName, match=f"'{name}', which is not a tenant's"):
        Tenant.objects.get(pk=acme.pk).delete()
    assert schema_there(raw, name)
    Tenant._base_manager.filter(pk=acme.pk).update(schema_name="acme")


def test_other_models_deletes_have_no_listener(acme: Any, django_assert_num_queries: Any) -> None:
    """Deleting them takes one statement, without loading rows first; domains take two, so that it is noticed."""
    for model in (Invoice, Note, Tag):
        assert not post_delete.has_listeners(model), model
        assert not pre_delete.has_listeners(model), model
        assert not post_init.has_listeners(model), model
        assert not post_save.has_listeners(model), model
    Invoice.objects.create(
        tenant_id=acme.pk, number="1", customer_name="x", issued_on="2024-01-01", due_on="2024-01-01", currency="EUR"
    )
    with transaction.atomic():
        with django_assert_num_queries(2):
            Domain.objects.all().delete()
        with tenant_context(acme), django_assert_num_queries(1):
            Note.tags.through.objects.all().delete()


def test_on_commit_runs_in_the_tenant_it_was_registered_in(acme: Any, globex: Any) -> None:
    """Whatever is active at the commit."""
    seen: list[Any] = []
    with transaction.atomic():
        with tenant_context(acme):
            transaction.on_commit(lambda: seen.append((current_schema(), Note.objects.get().title)))
        transaction.on_commit(lambda: seen.append(current_schema()))
        with tenant_context(globex):
            transaction.on_commit(lambda: seen.append(Note.objects.get().title), robust=True)
    with tenant_context(acme):
        transaction.on_commit(lambda: seen.append(current_schema()))
    assert seen == [("acme", "note of acme"), None, "note of globex", "acme"]


def test_threads_and_tasks_read_their_own_tenant(acme: Any, globex: Any) -> None:
    """With the ORM, through both bridges."""
    from asgiref.sync import sync_to_async

    def title() -> str:
        try:
            return Note.objects.get().title
        finally:
            if threading.current_thread() is not threading.main_thread():
                connections.close_all()

    async def work(tenant: Any, sensitive: bool) -> list[str]:
        async with tenant_context(tenant):
            first = await sync_to_async(title, thread_sensitive=sensitive)()
            await asyncio.sleep(0.01)
            note = await Note.objects.aget()
            return [first, note.title]

    async def main() -> Any:
        jobs = [work(tenant, sensitive) for tenant in (acme, globex) for sensitive in (True, False)]
        try:
            return await asyncio.gather(*jobs)
        finally:
            await sync_to_async(connections.close_all)()

    assert asyncio.run(main()) == [["note of acme"] * 2] * 2 + [["note of globex"] * 2] * 2
    with tenant_context(acme), ThreadPoolExecutor(1) as pool:
        with pytest.raises(ProgrammingError, match="does not exist"):
            pool.submit(title).result()
        assert pool.submit(_closing_sync, tenant_title, globex).result() == "note of globex"


def tenant_title(tenant: Any) -> str:
    with tenant_context(tenant):
        return Note.objects.get().title


def _closing_sync(function: Callable[..., Any], *args: Any) -> Any:
    try:
        return function(*args)
    finally:
        connections.close_all()


# -- schemas ----------------------------------------------------------------------------------------------------------


def test_schemas_are_made_renamed_and_dropped(open_db: None, raw: Raw) -> None:
    """Each of them says whether it did something, and refuses what it cannot do."""
    assert schemas.create("one_schema")
    try:
        assert schemas.exists("one_schema")
        assert schemas.is_ready("one_schema")
        assert physical("one_schema") in schemas.list()
        assert not schemas.create("one_schema", if_not_exists=True)
        with pytest.raises(SchemaExists, match="one_schema"):
            schemas.create("one_schema")
        schemas.rename("one_schema", "two_schema")
        assert not schemas.exists("one_schema")
        assert schemas.is_ready("two_schema")
        with pytest.raises(SchemaDoesNotExist, match="one_schema"):
            schemas.rename("one_schema", "three_schema")
        with pytest.raises(SchemaExists, match="billing"):
            schemas.rename("two_schema", "billing")
        with schema_context("two_schema"):
            for refused in (lambda: schemas.drop("two_schema"), lambda: schemas.rename("two_schema", "x")):
                with pytest.raises(TenantInUse):
                    refused()
    finally:
        assert schemas.drop("two_schema", if_exists=True)
    assert not schemas.drop("two_schema", if_exists=True)
    with pytest.raises(SchemaDoesNotExist, match="two_schema"):
        schemas.drop("two_schema")


def test_a_schema_of_somebody_else_is_left_alone(open_db: None, raw: Raw) -> None:
    """Without our marker it is neither dropped, renamed nor used."""
    name = physical("stranger")
    raw.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(name)))
    try:
        assert schemas.exists("stranger")
        assert not schemas.is_ready("stranger")
        assert not schemas.drop("stranger", if_exists=True)
        with pytest.raises(SchemaDoesNotExist, match="pg_tenants"):
            schemas.drop("stranger")
        with schema_context("stranger"), pytest.raises(SchemaDoesNotExist):
            Tenant.objects.count()
        assert schema_there(raw, "stranger")
    finally:
        raw.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(sql.Identifier(name)))


def test_a_name_that_postgresql_would_cut_is_no_schema(open_db: None, raw: Raw) -> None:
    """Two long names must not become one schema."""
    long = "a" * 63
    raw.execute(sql.SQL("CREATE SCHEMA {0}; CREATE TABLE {0}.pg_tenants_marker ()").format(sql.Identifier(long)))
    try:
        with schema_context(long + "b"), pytest.raises((PgTenantsError, DatabaseError)):
            connection.cursor().execute("SELECT 1")
        with pytest.raises(PgTenantsError):
            schemas.create(long + "b", if_not_exists=True)
        with pytest.raises(PgTenantsError):
            schemas.exists(long + "b")
    finally:
        raw.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(sql.Identifier(long)))


# -- domains ----------------------------------------------------------------------------------------------------------


def test_domains_are_kept_as_browsers_send_them(acme: Any) -> None:
    """By save and by forms."""
    for written, stored in [
        ("Shop.Example.COM", "shop.example.com"),
        ("shop.example.org.", "shop.example.org"),
        (" shop.example.net ", "shop.example.net"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("例え.テスト", "xn--r8jz45g.xn--zckzah"),
        ("xn--mller-kva.example", "xn--mller-kva.example"),
        ("localhost", "localhost"),
    ]:
        assert normalize_domain(written) == stored
        domain = Domain(domain=written, tenant=acme)
        domain.full_clean()
        assert domain.domain == stored
        assert Domain.objects.create(domain=written, tenant=acme).domain == stored


@pytest.mark.parametrize(
    "domain",
    [
        "",
        " ",
        ".",
        "http://a.example",
        "a.example:8000",
        "a.example/x",
        "ada@a.example",
        "a b",
        "a?b",
        "a#b",
        "a\nb",
        "a\tb",
        "ä..b",
        "a..b",
        "ä" * 80 + ".example",
        "a\x00b",
    ],
)
def test_what_is_no_host(open_db: None, domain: str) -> None:
    """It would never be found; the error says how to write it."""
    with pytest.raises(ValidationError, match="is no host's name"):
        normalize_domain(domain)


def test_letters_that_browsers_keep() -> None:
    """IDNA of 2008 keeps ß, which that of 2003 made ss: another domain, which somebody else may have."""
    with contextlib.suppress(ValidationError):
        assert normalize_domain("faß.example") == "xn--fa-hia.example"


def test_two_spellings_of_a_domain_are_one(acme: Any) -> None:
    """The second is a duplicate."""
    with pytest.raises(IntegrityError):
        Domain.objects.create(domain="ACME.localhost.", tenant=acme)
    with pytest.raises(ValidationError, match="already exists"):
        Domain(domain="ACME.localhost", tenant=acme).full_clean()


def test_a_tenant_that_is_made_suspended_stays_so(open_db: None) -> None:
    """It has its schema, and is not served."""
    tenant = Tenant.objects.create(schema_name="later", name="Later", status="suspended")
    tenant.refresh_from_db()
    assert tenant.status == "suspended"
    assert schemas.is_ready("later")
