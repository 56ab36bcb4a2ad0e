"""What has to hold wherever the module billing lives. Run as a program, it prints each probe's name and its error."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from decimal import Decimal
from typing import Any

import django

from tests.projects.probe import main, probe

django.setup()

from django.contrib.auth.models import User  # noqa: E402
from django.core.management import CommandError, call_command  # noqa: E402
from django.db import connections, router, transaction  # noqa: E402
from django.db.utils import ProgrammingError  # noqa: E402
from django.test import Client  # noqa: E402

from example_project.billing.models import Invoice, InvoiceLine  # noqa: E402
from example_project.customers.models import Tenant  # noqa: E402
from example_project.notes.models import Note  # noqa: E402
from pg_tenants import schema_context, sql, tenant_context  # noqa: E402
from pg_tenants.exceptions import SchemaDoesNotExist, SqlTemplateError  # noqa: E402
from pg_tenants.migrations import required_registry  # noqa: E402

HOME = required_registry().modules["billing"].database
IS_OWN = HOME != "default"
PATH = "SELECT array_to_string(current_schemas(false), ',')"


def run(name: str, *args: str) -> str:
    out = io.StringIO()
    call_command(name, *args, stdout=out, stderr=out)
    return out.getvalue()


def fails(error: type[Exception], call: Any, *words: str) -> str:
    try:
        call()
    except error as exc:
        assert all(word in str(exc) for word in words), exc
        return str(exc)
    raise AssertionError(f"no {error.__name__}")


def value(statement: str, using: str) -> Any:
    with connections[using].cursor() as cursor:
        cursor.execute(statement)
        return cursor.fetchone()[0]


def bill(tenant: Any, number: str, price: int = 10) -> Invoice:
    days = {"issued_on": date(2026, 1, 1), "due_on": date(2026, 2, 1)}
    made = Invoice.objects.create(tenant_id=tenant.pk, number=number, customer_name="Ada", currency="EUR", **days)
    InvoiceLine.objects.create(invoice=made, description="work", quantity=2, unit_price=price)
    return made


@contextmanager
def no_invoices() -> Iterator[None]:
    try:
        yield
    finally:
        Invoice.objects.all().delete()


def tenants() -> tuple[Any, Any]:
    return Tenant.objects.get(schema_name="acme"), Tenant.objects.get(schema_name="globex")


def prepare() -> None:
    """One command migrates all databases, and shows what it would do; tenants are made."""
    call_command("check")
    fails(SystemExit, lambda: run("migrate_schemas", "--check"), "1")
    planned = run("migrate_schemas", "--plan")
    assert "customers.0001_initial" in planned, planned
    assert ("create the database" if IS_OWN else "billing.0001_initial") in planned, planned
    assert "2 migrated" in (done := run("migrate_schemas")) or done.count("1 migrated") == 2, done
    run("migrate_schemas", "--check")
    listed = run("migrate_schemas", "--list")
    assert "billing  billing" in listed, listed
    assert ("Database 'billing':" in listed) is IS_OWN, listed
    call_command("check", databases=list(dict.fromkeys(["default", HOME])))
    assert "tenant: 1 ready" in run("prepare_schemas")
    for name in ("acme", "globex"):
        run("create_tenant", name, "--set", f"name={name.title()}", "--domain", f"{name}.localhost")


@probe
def tables_are_in_their_database() -> None:
    """Those of billing where it lives, and the others' where they live; nothing of a tenant is elsewhere."""
    query = "SELECT string_agg(DISTINCT schemaname, ',' ORDER BY schemaname) FROM pg_tables WHERE tablename ~ '^{}_'"
    for alias in {"default", HOME}:
        assert value(query.format("billing"), alias) == ("billing" if alias == HOME else None)
        assert bool(value(query.format("customers"), alias)) is (alias == "default")
        assert bool(value(query.format("notes"), alias)) is (alias == "default")


@probe
def rows_are_written_and_read() -> None:
    """In tenants, in another schema and without one; each of the tables is found where it is."""
    acme, globex = tenants()
    with no_invoices():
        with tenant_context(acme):
            bill(acme, "1", 10)
            User.objects.create_user("ada")
            with tenant_context(globex):
                bill(globex, "1", 20)
            assert User.objects.get().username == "ada"
            assert Invoice.objects.for_tenant(acme).with_total().get().total == Decimal(20)  # type: ignore[attr-defined]
        bill(acme, "2")
        with schema_context("public"):
            assert Invoice.objects.for_tenant(acme).count() == 2
            assert Tenant.objects.count() == 2
        with schema_context("billing"):
            assert Invoice.objects.for_tenant(globex).get().lines.count() == 1
            assert Tenant.objects.count() == 2
        assert InvoiceLine.objects.filter(invoice__tenant_id=acme.pk).count() == 2
        Invoice.objects.for_tenant(acme).delete()
        assert InvoiceLine.objects.count() == 1


@probe
def the_path_is_right() -> None:
    """In a database without tenants only its fixed modules are seen, whatever is active elsewhere."""
    acme, _ = tenants()
    with tenant_context(acme):
        assert value(PATH, HOME) == ("billing,public" if IS_OWN else "acme,public,billing")
        assert value(PATH, "default") == ("acme,public" if IS_OWN else "acme,public,billing")
    assert value(PATH, HOME) == ("billing,public" if IS_OWN else "public,billing")
    with schema_context("billing"):
        assert value(PATH, HOME) == ("billing,public")
        assert value(PATH, "default") == ("public" if IS_OWN else "billing,public")


@probe
def a_missing_schema_is_an_error() -> None:
    """Where tenants live. Elsewhere there is nothing that could be missing."""
    with schema_context("nowhere"):
        fails(SchemaDoesNotExist, lambda: value("SELECT 1", "default"), "nowhere")
        if IS_OWN:
            assert value("SELECT 1", HOME) == 1


@probe
def a_tenants_table_is_not_there() -> None:
    """In the module's own database it is an error to ask for one, by SQL, by a template, and by the ORM."""
    acme, _ = tenants()
    if not IS_OWN:
        return
    with tenant_context(acme):
        fails(ProgrammingError, lambda: value("SELECT count(*) FROM notes_note", HOME), "notes_note")
        fails(ProgrammingError, lambda: Note.objects.using(HOME).count(), "notes_note")
        for text in ("{{tables.notes_note}}", "{{tables.tenant.notes_note}}", "{{schema.tenant}}"):
            fails(SqlTemplateError, lambda text=text: sql.render(text, using=HOME), "'default'")  # type: ignore[misc]
        assert sql.render("{{schema}}", using=HOME) == '"billing"'
        assert Note.objects.count() == 0


@probe
def raw_sql() -> None:
    """With templates, in a tenant and without one, asynchronous too; on another alias the error says which one."""
    acme, _ = tenants()
    home = router.db_for_read(Invoice)
    count = "SELECT count(*) FROM {{tables.billing_invoice}}"
    with no_invoices():
        bill(acme, "7")
        assert sql.fetch_value(count, using=home) == 1
        with tenant_context(acme):
            assert sql.fetch_value(count, using=home) == 1
            assert sql.fetch_value("SELECT number FROM {{tables.billing.billing_invoice}}", using=home) == "7"
            assert sql.fetch_value("SELECT count(*) FROM billing_invoiceline", using=home) == 1
            assert asyncio.run(sql.afetch_value(count, using=home)) == 1
            if IS_OWN:
                fails(SqlTemplateError, lambda: sql.fetch_value(count), "'billing'", "using='billing'")
                fails(SqlTemplateError, lambda: sql.render("{{schema.billing}}"), "using='billing'")
    with connections["default"].cursor() as cursor:
        if IS_OWN:
            fails(ProgrammingError, lambda: cursor.execute("SELECT FROM billing_invoice"), "billing_invoice")


@probe
def the_router() -> None:
    """It follows the settings; a relation between databases is refused."""
    acme, _ = tenants()
    for context in (schema_context("public"), schema_context("billing"), tenant_context(acme)):
        with context:
            assert router.db_for_read(Invoice) == router.db_for_write(Invoice) == HOME
            for model in (Tenant, Note, User):
                assert router.db_for_read(model) == router.db_for_write(model) == "default"
    assert router.allow_relation(Invoice(), Tenant()) is not IS_OWN
    with schema_context("billing"):
        assert [alias for alias in connections if router.allow_migrate(alias, "billing")] == [HOME]


@probe
def what_the_host_opened_stays_open() -> None:
    """Transactions, connections and contexts of the host are the host's."""
    acme, _ = tenants()
    with no_invoices(), tenant_context(acme), transaction.atomic():
        session = value("SELECT pg_backend_pid()", "default")
        note = Note.objects.create(title="a", body="b", author=User.objects.create_user("host"))
        try:
            with transaction.atomic(using=HOME):
                bill(acme, "8")
                raise LookupError
        except LookupError:
            pass
        assert not Invoice.objects.exists()
        if IS_OWN:
            connections[HOME].close()
        bill(acme, "9")
        assert value("SELECT pg_backend_pid()", "default") == session
        assert connections["default"].in_atomic_block
        assert Note.objects.get() == note
        transaction.set_rollback(True)
    with tenant_context(acme):
        assert not Note.objects.exists()
        session = value("SELECT pg_backend_pid()", "default")
        run("migrate_schemas", "billing")
        assert value("SELECT pg_backend_pid()", "default") == session
        assert User.objects.count() == 1


@probe
def callbacks_run_in_their_tenant() -> None:
    """Those that wait for the commit of the module's database, too."""
    acme, globex = tenants()
    seen: list[str] = []
    with transaction.atomic(using=HOME):
        for tenant in (acme, globex):
            with tenant_context(tenant):
                transaction.on_commit(lambda: seen.append(str(value(PATH, "default"))), using=HOME)
    assert [path.partition(",")[0] for path in seen] == ["acme", "globex"]


@probe
def pages() -> None:
    """A tenant's list of invoices and its admin show its own."""
    acme, globex = tenants()
    with no_invoices():
        for tenant in (acme, globex):
            bill(tenant, f"{tenant.schema_name}-1")
        with tenant_context(acme):
            User.objects.create_superuser("boss", password="boss")
        client = Client(headers={"host": "acme.localhost"})
        assert client.post("/admin/login/", {"username": "boss", "password": "boss"}).status_code == 302
        for path in ("/invoices/", "/invoices/acme-1/", "/admin/billing/invoice/"):
            answer = client.get(path)
            assert answer.status_code == 200, (path, answer.status_code)
            assert "acme-1" in answer.content.decode()
            assert "globex-1" not in answer.content.decode()
        assert client.get("/invoices/globex-1/").status_code == 404
        key = Invoice.objects.get(number="acme-1").pk
        assert client.get(f"/admin/billing/invoice/{key}/change/").status_code == 200


@probe
def migrations_of_the_module() -> None:
    """Backwards and forwards by its name, in its database alone."""
    assert "1 schema: 1 migrated" in run("migrate_schemas", "billing", "zero")
    document = json.loads(run("migrate_schemas", "--plan", "--json"))
    assert document["changed"] == 1, document
    (pending,) = [entry for entry in document["schemas"] if entry["migrations"]]
    assert (pending["schema"], pending["database"]) == ("billing", HOME)
    assert "billing" in run("migrate_schemas", "--module", "billing", "--dry-run")
    assert "1 schema: 1 migrated" in run("migrate_schemas", "--schema", "billing")
    assert "billing" not in run("migrate_schemas", "--list", "--exclude", "billing", "--verbosity", "0")
    assert "acme" in run("migrate_schemas", "--list", "--schema", "acme")
    fails(CommandError, lambda: run("migrate_schemas", "--schema", "acmee"), "'acmee'", "'acme'")
    fails(CommandError, lambda: run("migrate_schemas", "billing", "--schema", "acme"), "(acme)", "'billing'")
    fails(CommandError, lambda: run("migrate_schemas", "--module", "biling"), "'biling'", "'billing'")
    assert "as their migrations make them" in run("migrate_schemas", "--verify")
    assert "[X] 0001_initial" in run("showmigrations", "billing", "--database", HOME)


@probe
def rows_as_files() -> None:
    """dumpdata says where the app's tables are; loaddata puts rows back."""
    acme, _ = tenants()
    with no_invoices():
        bill(acme, "5")
        if IS_OWN:
            fails(CommandError, lambda: run("dumpdata", "billing"), "--database billing")
        assert '"number": "5"' in run("dumpdata", "billing", "--database", HOME)


@probe
def a_deleted_tenant() -> None:
    """Its schema is gone, and its invoices are still there."""
    doomed = Tenant.objects.create(schema_name="doomed", name="Doomed")
    with no_invoices():
        bill(doomed, "1")
        doomed.delete()
        assert Invoice.objects.count() == 1
    assert not value("SELECT to_regnamespace('doomed') IS NOT NULL", "default")


@probe
def the_demo() -> None:
    """It serves each company its own invoices. It begins by removing the tenants of its names."""
    shown = run("demo", "--check", "--reset")
    assert shown.count(" invoices, search") == 4, shown
    assert "All is well" in shown


if __name__ == "__main__":
    main(prepare)
