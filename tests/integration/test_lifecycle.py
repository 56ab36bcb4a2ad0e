"""A tenant's life: its name, its signals, its status, and ways past save()."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.contrib.sessions.models import Session
from django.core.exceptions import ValidationError
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import connection, connections, models, transaction
from django.db.models.deletion import Collector
from django.db.utils import IntegrityError
from django.test import Client, override_settings
from django.test.utils import CaptureQueriesContext, isolate_apps
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import sql

from example_project.customers.models import Domain, Tenant
from example_project.notes.models import Note, Tag
from pg_tenants import conf, current_schema, schema_context, schemas, signals, tenant_context
from pg_tenants.exceptions import (
    InvalidSchemaName,
    SchemaDiffers,
    SchemaDoesNotExist,
    SchemaExists,
    UnsafeStatement,
    WrongStatus,
)
from pg_tenants.names import physical_name, validate_schema_name
from tests.conftest import make_tenant


def physical(name: str) -> str:
    return schemas.tenant_connection().physical_schema(name)


def there(raw: Any, name: str) -> tuple[bool, bool]:
    """Return whether the row is there, and whether the schema is."""
    found = raw.execute("SELECT count(*) FROM pg_namespace WHERE nspname = %s", [physical(name)]).fetchone()[0]
    return Tenant.objects.filter(schema_name=name).exists(), bool(found)


BOTH, NEITHER, ROW = (True, True), (False, False), (True, False)


@pytest.fixture
def told(open_db: None) -> Iterator[list[Any]]:
    """Return a list of what the signals tell."""
    seen: list[Any] = []
    connected = []

    def listen(name: str) -> None:
        def receive(sender: Any, tenant: Any, using: str, **kwargs: Any) -> None:
            seen.append((name.replace("_tenant", ""), tenant.status))
            assert (sender, using, current_schema()) == (Tenant, "default", None)
            assert connection.in_atomic_block

        signal = getattr(signals, name)
        signal.connect(receive, weak=False)
        connected.append((signal, receive))

    for name in signals.__all__:
        listen(name)
    yield seen
    for signal, receive in connected:
        signal.disconnect(receive)


class Boom(Exception):
    """Raised by receivers."""


@pytest.fixture
def fail(open_db: None) -> Iterator[Any]:
    """Return a function that makes the receivers of a signal raise."""
    failing = []

    def boom(**kwargs: Any) -> None:
        raise Boom

    def start(name: str) -> None:
        signal = getattr(signals, name)
        signal.connect(boom)
        failing.append(signal)

    yield start
    for signal in failing:
        signal.disconnect(boom)


# -- names ------------------------------------------------------------------------------------------------------------

WORKERS = ["", "test_gw0", "test_gw12", "test_master"]
NAMES = st.one_of(
    st.text(max_size=70),
    st.from_regex(r"[a-z][a-z0-9_]{0,62}", fullmatch=True),
    st.sampled_from(
        ["public", "pg_x", "user", "Acme", 'a"b', "a\0b", "a'b", "\uff41cme", "\u0430cme", "acme\u200b", "é" * 26]
    ),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(one=NAMES, two=NAMES, worker=st.sampled_from(WORKERS))
def test_accepted_names_are_schemas_of_their_own(raw: Any, one: str, two: str, worker: str) -> None:
    """PostgreSQL keeps them byte for byte, quoted or not, with and without a worker's prefix; no two become one."""
    names = set()
    for name in (one, two):
        try:
            names.add(physical_name(validate_schema_name(name), worker))
        except InvalidSchemaName as exc:
            assert repr(name) in str(exc)
    with raw.transaction(force_rollback=True):
        for name in names:
            raw.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(name)))
            found = raw.execute(
                "SELECT convert_to(nspname::text, 'UTF8') FROM pg_namespace WHERE oid = to_regnamespace(%s)", [name]
            ).fetchone()
            assert bytes(found[0]) == name.encode()


# -- signals ----------------------------------------------------------------------------------------------------------


def test_signals_of_a_life(told: list[Any]) -> None:
    """In order, with the status of the moment, inside the transaction, with no tenant active."""
    tenant = Tenant.objects.create(schema_name="acme")
    assert told == [
        ("pre_create", "provisioning"),
        ("post_create", "provisioning"),
        ("pre_activate", "provisioning"),
        ("post_activate", "active"),
    ]
    told.clear()
    with tenant_context(tenant):
        assert tenant.suspend()
        assert not tenant.suspend()
        assert tenant.resume()
        assert not tenant.resume()
    assert told == [
        ("pre_suspend", "active"),
        ("post_suspend", "suspended"),
        ("pre_activate", "suspended"),
        ("post_activate", "active"),
    ]
    told.clear()
    tenant.delete()
    assert told == [("pre_delete", "active"), ("post_delete", "active")]
    told.clear()
    Tenant.objects.create(schema_name="acme", status="suspended")
    assert [name for name, _ in told] == ["pre_create", "post_create"]
    told.clear()
    Tenant.objects.all().delete()
    assert [name for name, _ in told] == ["pre_delete", "post_delete"]


@pytest.mark.parametrize("when", ["pre", "post"])
@pytest.mark.parametrize("what", ["create", "activate"])
def test_a_receiver_stops_the_creation(open_db: None, raw: Any, fail: Any, when: str, what: str) -> None:
    """Nothing is left, and the instance is as before."""
    fail(f"{when}_tenant_{what}")
    tenant = Tenant(schema_name="acme")
    with pytest.raises(Boom):
        tenant.save()
    assert there(raw, "acme") == NEITHER
    assert (tenant.pk, tenant.status, tenant._state.adding) == (None, "provisioning", True)


@pytest.mark.parametrize("when", ["pre", "post"])
@pytest.mark.parametrize("what", ["suspend", "activate", "delete"])
def test_a_receiver_stops_a_change(open_db: None, raw: Any, fail: Any, when: str, what: str) -> None:
    """The tenant is as before."""
    tenant = make_tenant("acme")
    if what == "activate":
        tenant.suspend()
    before = tenant.status
    fail(f"{when}_tenant_{what}")
    with pytest.raises(Boom):
        {"suspend": tenant.suspend, "activate": tenant.resume, "delete": tenant.delete}[what]()
    assert tenant.status == before == Tenant.objects.get().status
    assert there(raw, "acme") == BOTH


def test_signals_of_a_subclass_come_once(told: list[Any], raw: Any) -> None:
    """Also where a cascade deletes it; deleting the subclass's row alone keeps the tenant."""
    with isolate_apps("example_project.customers"):

        class Group(models.Model):
            class Meta:
                app_label = "customers"

            def __str__(self) -> str:
                return "group"

        class Reseller(Tenant):
            group = models.ForeignKey(Group, on_delete=models.CASCADE)

            class Meta:
                app_label = "customers"

    with schema_context("public"), connection.schema_editor() as editor:
        editor.create_model(Group)
        editor.create_model(Reseller)
    try:
        group = Group.objects.create()
        Reseller.objects.create(schema_name="acme", group=group)
        assert len(told) == 4
        told.clear()
        group.delete()
        assert [name for name, _ in told] == ["pre_delete", "post_delete"]
        assert there(raw, "acme") == NEITHER
        told.clear()
        reseller = Reseller.objects.create(schema_name="acme", group=Group.objects.create())
        told.clear()
        reseller.delete(keep_parents=True)
        assert told == []
        assert there(raw, "acme") == BOTH
    finally:
        connection.check_constraints()
        with schema_context("public"), connection.schema_editor() as editor:
            editor.delete_model(Reseller)
            editor.delete_model(Group)


# -- status -----------------------------------------------------------------------------------------------------------


def test_suspended_tenants_are_not_served(acme: Any) -> None:
    """Until they are resumed; the queryset of active ones leaves them out."""
    stale = Tenant.objects.get(pk=acme.pk)
    acme.suspend()
    assert Client().get("/", headers={"host": "acme.localhost"}).status_code == 503
    assert not Tenant.objects.active().exists()
    assert not stale.suspend()
    assert stale.status == "suspended"
    stale.resume()
    assert Client().get("/", headers={"host": "acme.localhost"}).status_code == 200
    assert list(Tenant.objects.active()) == [acme]


def test_a_status_is_not_changed_by_the_way(acme: Any) -> None:
    """update(), save(), forms and a stale instance would do so without a signal."""
    for change in (
        lambda: Tenant.objects.update(status="suspended"),
        lambda: Tenant.objects.update_or_create(schema_name="acme", defaults={"status": "suspended"}),
    ):
        with pytest.raises(UnsafeStatement, match=r"suspend\(\), resume\(\) or provision\(\)"):
            change()
    stale = Tenant.objects.get(pk=acme.pk)
    acme.suspend()
    stale.name = "New"
    with pytest.raises(UnsafeStatement, match=r"'suspended'; saving 'active'.*refresh_from_db"):
        stale.save()
    with pytest.raises(ValidationError, match="'suspended'; saving 'active'"):
        stale.full_clean()
    stale.save(update_fields=["name"])
    assert (Tenant.objects.get().status, Tenant.objects.get().name) == ("suspended", "New")


def test_raw_deletes_are_refused(acme: Any, raw: Any) -> None:
    """They would leave the schema."""
    with pytest.raises(UnsafeStatement, match="Use delete"):
        Tenant.objects.all()._raw_delete("default")
    assert there(raw, "acme") == BOTH


def test_a_stale_instance_deletes_no_other_tenant(open_db: None, raw: Any, told: list[Any]) -> None:
    """Neither the next tenant of its name, nor the one whose name was put into it."""
    stale = make_tenant("acme")
    Tenant.objects.get(pk=stale.pk).delete()
    again = make_tenant("acme")
    told.clear()
    stale.delete()
    assert there(raw, "acme") == BOTH
    assert told == []
    globex = make_tenant("globex")
    globex.schema_name = "acme"
    globex.delete()
    assert there(raw, "acme") == BOTH
    assert there(raw, "globex") == NEITHER
    with tenant_context(again):
        assert Note.objects.count() == 0


# -- a row before its schema ------------------------------------------------------------------------------------------


def test_a_tenant_saved_before_its_schema(told: list[Any], raw: Any) -> None:
    """It is not served, breaks no migration, and gets its schema once."""
    tenant = Tenant.objects.create_tenant("acme", "acme.localhost", provision=False, name="Acme")
    assert (tenant.status, tenant.module, told) == ("provisioning", "tenant", [])
    assert there(raw, "acme") == ROW
    assert Client().get("/", headers={"host": "acme.localhost"}).status_code == 503
    with tenant_context(tenant), pytest.raises(SchemaDoesNotExist):
        Note.objects.count()
    call_command("migrate_schemas", verbosity=0)
    call_command("migrate_schemas", "--check", verbosity=0)
    for refused in (tenant.suspend, tenant.resume):
        with pytest.raises(WrongStatus, match=r"'acme' has the status 'provisioning'.*provision\(\)"):
            refused()
    tenant.name = "New"
    tenant.save()
    assert tenant.provision()
    assert [name for name, _ in told] == ["pre_create", "post_create", "pre_activate", "post_activate"]
    assert there(raw, "acme") == BOTH
    assert not tenant.provision()
    assert Client().get("/", headers={"host": "acme.localhost"}).status_code == 200


def test_a_failed_provision(open_db: None, raw: Any, fail: Any) -> None:
    """The status says so; it can be tried again, or the tenant deleted."""
    tenant = Tenant(schema_name="acme")
    tenant.save(provision=False)
    fail("post_tenant_create")
    with pytest.raises(Boom):
        tenant.provision()
    assert tenant.status == Tenant.objects.get().status == "failed"
    assert there(raw, "acme") == ROW
    call_command("migrate_schemas", verbosity=0)
    with pytest.raises(CommandError, match="acme: Boom"):
        call_command("provision_tenants", verbosity=0)
    tenant.delete()
    assert there(raw, "acme") == NEITHER
    with pytest.raises(Tenant.DoesNotExist):
        Tenant(pk=tenant.pk or 1, schema_name="acme").provision()


def test_many_are_provisioned_by_several_connections(open_db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that has made many is slow, so another goes on."""
    from pg_tenants.management.commands import provision_tenants

    monkeypatch.setattr(provision_tenants, "AT_MOST", 2)
    made_by = []

    def note(**kwargs: Any) -> None:
        made_by.append(connection.connection.info.backend_pid)

    for name in ("a1", "a2", "a3", "a4"):
        Tenant(schema_name=name).save(provision=False)
    signals.post_tenant_create.connect(note)
    try:
        call_command("provision_tenants", verbosity=0)
    finally:
        signals.post_tenant_create.disconnect(note)
    assert len(made_by) == 4
    assert len(set(made_by)) == 3
    assert set(Tenant.objects.values_list("status", flat=True)) == {"active"}


def test_names_of_tenants_without_a_schema(open_db: None, raw: Any) -> None:
    """They are checked as others are, and taken."""
    with pytest.raises(InvalidSchemaName):
        Tenant(schema_name="public").save(provision=False)
    Tenant(schema_name="acme").save(provision=False)
    with pytest.raises(SchemaExists, match="'acme'"):
        Tenant.objects.create(schema_name="acme")
    with pytest.raises(SchemaExists, match="'acme'"):
        Tenant(schema_name="acme").save(provision=False)
    assert there(raw, "acme") == ROW


def test_create_tenant_with_a_domain(acme: Any, raw: Any) -> None:
    """Both, or nothing."""
    with pytest.raises(IntegrityError):
        Tenant.objects.create_tenant("globex", "ACME.localhost", name="Globex")
    with pytest.raises(ValidationError):
        Tenant.objects.create_tenant("globex", "no host", name="Globex")
    assert there(raw, "globex") == NEITHER
    Tenant.objects.create_tenant("globex", "Globex.localhost.", name="Globex")
    assert Domain.objects.get(tenant__schema_name="globex", is_primary=True).domain == "globex.localhost"


# -- adopting ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def orphan(acme: Any) -> Any:
    """Return the name of a schema with data whose tenant's row is gone, and that lost its marker."""
    Domain.objects.all().delete()
    Tenant._base_manager.filter(pk=acme.pk)._raw_delete("default")
    name = physical("acme")
    with connection.cursor() as cursor:
        cursor.execute(f'DROP TABLE "{name}".pg_tenants_marker CASCADE')
    yield name
    with connection.cursor() as cursor:
        cursor.execute(f'DROP SCHEMA IF EXISTS "{name}" CASCADE')
    Tenant._base_manager.filter(schema_name="acme")._raw_delete("default")


@pytest.mark.parametrize("how", ["save", "manager", "command", "pending"])
def test_adopting(orphan: str, raw: Any, how: str) -> None:
    """A schema that is what the migrations say is taken over with its data; nothing else is left behind."""
    before = raw.execute("SELECT count(*) FROM pg_namespace").fetchone()
    if how == "save":
        Tenant(schema_name="acme").save(adopt=True)
    elif how == "manager":
        Tenant.objects.create_tenant("acme", adopt=True)
    elif how == "command":
        call_command("create_tenant", "acme", "--adopt", "--set", "name=Acme", verbosity=0)
    else:
        Tenant(schema_name="acme").save(provision=False)
        call_command("provision_tenants", "--adopt", verbosity=0)
    tenant = Tenant.objects.get()
    assert tenant.status == "active"
    with tenant_context(tenant):
        assert Note.objects.get().title == "note of acme"
    assert raw.execute("SELECT count(*) FROM pg_namespace").fetchone() == before
    tenant.delete()
    assert there(raw, "acme") == NEITHER


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("ALTER TABLE {s}.notes_note ALTER title TYPE text", r"column notes_note\.title is 'text not null'"),
        ("ALTER TABLE {s}.notes_note ADD extra int", r"column notes_note\.extra is not wanted"),
        ("DROP TABLE {s}.django_session", "table django_session is missing"),
        ("DELETE FROM {s}.django_migrations WHERE app = 'notes'", r"migration notes\.0001_initial is missing"),
        ("DROP TABLE {s}.django_migrations", r"migration notes\.0001_initial is missing"),
        ("DROP SCHEMA {s} CASCADE; CREATE SCHEMA {s}", "and [0-9]+ more"),
    ],
)
def test_a_schema_that_differs_is_not_adopted(orphan: str, raw: Any, change: str, message: str) -> None:
    """The error lists what differs; nothing is changed."""
    raw.execute(change.replace("{s}", f'"{orphan}"'))
    tables = raw.execute("SELECT tablename FROM pg_tables WHERE schemaname = %s", [orphan]).fetchall()
    before = raw.execute("SELECT count(*) FROM pg_namespace").fetchone()
    with pytest.raises(SchemaDiffers, match=message) as caught:
        Tenant(schema_name="acme").save(adopt=True)
    assert caught.value.differences
    assert not Tenant.objects.exists()
    assert raw.execute("SELECT tablename FROM pg_tables WHERE schemaname = %s", [orphan]).fetchall() == tables
    assert raw.execute("SELECT count(*) FROM pg_namespace").fetchone() == before


def test_adopting_needs_a_schema(open_db: None, raw: Any, acme: Any) -> None:
    """One that is there, and is no tenant's; and it is not done unasked."""
    with pytest.raises(SchemaDoesNotExist, match=r"globex.*take over"):
        Tenant(schema_name="globex").save(adopt=True)
    with pytest.raises(SchemaExists):
        Tenant(schema_name="acme").save(adopt=True)
    assert there(raw, "globex") == NEITHER


# -- loaddata ---------------------------------------------------------------------------------------------------------


def fixture(folder: Path, **fields: Any) -> str:
    row = {"schema_name": "acme", "module": "", "status": "active", "created_at": "2024-01-01T00:00:00Z", "name": "A"}
    entry = {"model": "customers.tenant", "pk": fields.pop("pk", 7001), "fields": {**row, **fields}}
    path = folder / "tenants.json"
    path.write_text(json.dumps([entry]))
    return str(path)


def test_loaddata_makes_schemas(told: list[Any], raw: Any, tmp_path: Path) -> None:
    """With the status of the fixture; one of tenants that are there already changes nothing of their schemas."""
    path = fixture(tmp_path)
    call_command("loaddata", path, verbosity=0)
    tenant = Tenant.objects.get(pk=7001)
    assert (tenant.status, tenant.module) == ("active", "tenant")
    with tenant_context(tenant):
        Tag.objects.create(name="kept")
    assert [name for name, _ in told] == ["pre_create", "post_create", "pre_activate", "post_activate"]
    call_command("loaddata", fixture(tmp_path, name="B", module="tenant"), verbosity=0)
    with tenant_context(Tenant.objects.get(name="B")):
        assert Tag.objects.get().name == "kept"
    tenant.delete()
    call_command("loaddata", fixture(tmp_path, status="suspended"), verbosity=0)
    assert there(raw, "acme") == BOTH
    assert Tenant.objects.get().status == "suspended"
    Tenant.objects.get().delete()
    call_command("loaddata", fixture(tmp_path, status="provisioning"), verbosity=0)
    assert there(raw, "acme") == ROW


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"schema_name": "public"}, InvalidSchemaName),
        ({"schema_name": "Globex"}, InvalidSchemaName),
        ({"schema_name": "taken"}, SchemaExists),
        ({"pk": None, "schema_name": "globex"}, UnsafeStatement),
        ({"pk": None, "status": "suspended"}, UnsafeStatement),
    ],
)
def test_loaddata_that_cannot_be(acme: Any, raw: Any, tmp_path: Path, fields: dict[str, Any], error: Any) -> None:
    """Nothing of it is left."""
    if "pk" in fields:
        fields = {**fields, "pk": acme.pk}
    raw.execute(f'CREATE SCHEMA "{physical("taken")}"')
    try:
        with pytest.raises(CommandError) as refused:
            call_command("loaddata", fixture(tmp_path, **fields), verbosity=0)
        assert isinstance(refused.value.__cause__, error)
    finally:
        raw.execute(f'DROP SCHEMA "{physical("taken")}"')
    assert list(Tenant.objects.values_list("schema_name", "status")) == [("acme", "active")]


def test_a_raw_save_outside_a_transaction(open_db: None, raw: Any) -> None:
    """A failure could leave the row alone, so it is refused."""
    with pytest.raises(UnsafeStatement, match=r"transaction\.atomic"):
        Tenant(schema_name="acme", name="A").save_base(raw=True)
    assert there(raw, "acme") == NEITHER


# -- what others pay --------------------------------------------------------------------------------------------------


def test_deletes_of_other_models_cost_what_they_did(acme: Any) -> None:
    """As many queries as with an alias of Django's own backend, and one where Django needs one."""
    for model in (Session, Note.tags.through):
        assert Collector(using="default").can_fast_delete(model._base_manager.all()), model
    assert not Collector(using="default").can_fast_delete(Tenant._base_manager.all())
    counts = []
    for detached in (False, True):
        before = {signal: signal.receivers for signal in (models.signals.pre_delete, models.signals.post_delete)}
        if detached:
            for signal in before:
                signal.receivers = []
                signal.sender_receivers_cache.clear()
        try:
            with tenant_context(acme), transaction.atomic(), CaptureQueriesContext(connection) as queries:
                Note.objects.bulk_create(Note(title=str(i), author_id=acme_author()) for i in range(20))
                Note.objects.all().delete()
                transaction.set_rollback(True)
            counts.append(len(queries))
        finally:
            for signal, receivers in before.items():
                signal.receivers = receivers
                signal.sender_receivers_cache.clear()
    assert counts[0] == counts[1]


def acme_author() -> Any:
    return Note.objects.values_list("author_id", flat=True).first()


# -- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", conf.KEYS)
def test_overridden_settings_take_effect(open_db: None, key: str) -> None:
    """Each key of PG_TENANTS, at once and no longer than it is overridden."""
    from django.conf import settings as project

    values: dict[str, Any] = {
        "TENANT_MODEL": "customers.Other",
        "DOMAIN_MODEL": "customers.OtherDomain",
        "MODULES": {"only": {"apps": ["notes"]}},
        "EXTENSIONS_SCHEMA": "extensions",
        "RESOLVERS": ["pg_tenants.resolvers.Other"],
        "PUBLIC_HOSTS": ["www.example.com"],
        "PUBLIC_URLCONF": "example_project.other",
        "PGSERVER": {"port": 1},
    }
    if key not in values:
        pytest.skip(f"{key} has a test of its own")
    field = key.lower()
    before = getattr(conf.require(), field)
    with override_settings(PG_TENANTS={**project.PG_TENANTS, key: values[key]}):
        changed = getattr(conf.require(), field)
        assert changed != before
    assert getattr(conf.require(), field) == before


def test_overridden_settings_reach_what_uses_them(acme: Any) -> None:
    """The search path, the accepted names, the hosts and the resolvers follow, without a restart."""
    from django.conf import settings as project

    from pg_tenants.resolvers import is_public_host, resolvers

    wrapper = connections["default"]
    with tenant_context(acme):
        assert any("billing" in name for name in wrapper.search_path("acme"))
        modules = {name: entry for name, entry in project.PG_TENANTS["MODULES"].items() if name != "billing"}
        with override_settings(PG_TENANTS={**project.PG_TENANTS, "MODULES": modules, "EXTENSIONS_SCHEMA": "more"}):
            assert wrapper.search_path("acme")[-1] == "more"
            assert not any("billing" in name for name in wrapper.search_path("acme"))
            Tenant(schema_name="billing", name="x").clean()
            with pytest.raises(ValidationError, match="another part of the project"):
                Tenant(schema_name="more", name="x").clean()
        assert "more" not in wrapper.search_path("acme")
    other = {"PUBLIC_HOSTS": ["www.example.com"], "RESOLVERS": ["tests.integration.test_lifecycle.nobody"]}
    with override_settings(PG_TENANTS={**project.PG_TENANTS, **other}):
        assert is_public_host("www.example.com")
        assert resolvers() == (nobody,)
        assert Client().get("/", headers={"host": "acme.localhost"}).status_code == 404
    assert not is_public_host("www.example.com")
    assert Client().get("/", headers={"host": "acme.localhost"}).status_code == 200


def nobody(request: Any) -> None:
    """Find no tenant."""
