"""A row of a shared table that tenants' tables refer to: the error names where the references are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from django.db import IntegrityError, connection, transaction
from psycopg import sql

from example_project.customers.models import Domain, Tenant
from example_project.notes.models import Tag
from pg_tenants import schemas, tenant_context
from pg_tenants.exceptions import PgTenantsError, RowInUse


@pytest.fixture
def shared(acme: Any, globex: Any, raw: Any) -> Iterator[Domain]:
    """Return a shared row that each of two tenants may refer to, as a foreign key of Django's would."""
    domain = Domain.objects.create(domain="shared.localhost", tenant=acme, is_primary=False)
    for tenant in (acme, globex):
        refer(raw, tenant.schema_name, "visit", "DEFERRABLE INITIALLY DEFERRED")
    yield domain
    for tenant in (acme, globex):
        raw.execute(sql.SQL("DROP TABLE IF EXISTS {}.visit, {}.strict").format(*[place(tenant.schema_name)] * 2))
    domain.delete()


def place(schema: str) -> sql.Identifier:
    return sql.Identifier(schemas.tenant_connection().physical_schema(schema))


def refer(raw: Any, schema: str, table: str, how: str) -> None:
    raw.execute(
        sql.SQL("CREATE TABLE {}.{} (domain_id bigint CONSTRAINT to_domain REFERENCES {}.customers_domain {})").format(
            place(schema), sql.Identifier(table), place("public"), sql.SQL(how)
        )
    )


def visit(tenant: Any, domain: Domain, table: str = "visit") -> None:
    with tenant_context(tenant), connection.cursor() as cursor:
        cursor.execute(f"INSERT INTO {table} VALUES (%s)", [domain.pk])


def assert_names(error: RowInUse, schema: str, table: str) -> None:
    assert isinstance(error, IntegrityError)
    assert isinstance(error, PgTenantsError)
    assert isinstance(error.__cause__, psycopg.errors.ForeignKeyViolation)
    for part in (f"the table '{table}'", f"the schema '{schema}'", "to_domain", "customers_domain"):
        assert part in str(error)


def test_deleting_a_shared_row_that_a_tenant_refers_to(shared: Domain, globex: Any) -> None:
    """Found at COMMIT, because Django's foreign keys are deferred; the row stays and the connection works."""
    visit(globex, shared)
    with pytest.raises(RowInUse) as caught:
        shared.delete()
    assert_names(caught.value, "globex", "visit")
    shared.pk = Domain.objects.get(domain="shared.localhost").pk
    with tenant_context(globex):
        assert Tag.objects.count() == 0


def test_inside_a_transaction(shared: Domain, acme: Any, globex: Any, raw: Any) -> None:
    """At the statement where the constraint is immediate, with another tenant active as well as without one."""
    refer(raw, "globex", "strict", "")
    visit(globex, shared, "strict")
    with pytest.raises(RowInUse) as caught, transaction.atomic():
        Domain.objects.filter(pk=shared.pk).delete()
    assert_names(caught.value, "globex", "strict")
    with tenant_context(acme):
        with pytest.raises(RowInUse) as caught:
            Domain.objects.filter(pk=shared.pk).delete()
        assert_names(caught.value, "globex", "strict")
        with pytest.raises(RowInUse), transaction.atomic():
            Domain.objects.filter(pk=shared.pk).update(id=shared.pk + 1000)
    with pytest.raises(RowInUse), connection.cursor() as cursor:
        cursor.executemany("DELETE FROM customers_domain WHERE id = %s", [[0], [shared.pk]])
    assert Domain.objects.filter(pk=shared.pk).exists()


def test_at_set_constraints(shared: Domain, globex: Any) -> None:
    """`connection.check_constraints()`, as tests call it, says the same."""
    visit(globex, shared)
    with pytest.raises(RowInUse) as caught, transaction.atomic():
        Domain.objects.filter(pk=shared.pk).delete()
        connection.check_constraints()
    assert_names(caught.value, "globex", "visit")


def test_other_violations(shared: Domain, acme: Any, globex: Any) -> None:
    """References of the active schema, and rows that refer to nothing, are Django's ordinary error."""
    visit(acme, shared)
    with tenant_context(acme):
        with pytest.raises(IntegrityError) as caught:
            Domain.objects.filter(pk=shared.pk).delete()
        assert not isinstance(caught.value, RowInUse)
    for tenant in (acme, globex):
        with pytest.raises(IntegrityError) as caught:
            visit(tenant, Domain(pk=shared.pk + 1000))
        assert not isinstance(caught.value, RowInUse)
    with pytest.raises(IntegrityError) as caught:
        Domain.objects.create(domain="nobody.localhost", tenant_id=0)
    assert not isinstance(caught.value, RowInUse)
    assert Tenant.objects.count() == 2


def test_when_the_references_are_gone(shared: Domain, globex: Any) -> None:
    """The row can be deleted."""
    visit(globex, shared)
    with tenant_context(globex), connection.cursor() as cursor:
        cursor.execute("DELETE FROM visit")
    Domain.objects.filter(pk=shared.pk).delete()
    assert not Domain.objects.filter(pk=shared.pk).exists()
    shared.pk = 0
