"""Puts the example's companies into the database: tenants, people, notes and invoices."""

from __future__ import annotations

import json
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, TypedDict, cast

from django.contrib.auth.hashers import PBKDF2PasswordHasher
from django.contrib.auth.models import User
from django.db import transaction
from django.utils.crypto import get_random_string

from example_project.billing.models import Invoice, InvoiceLine
from example_project.customers.models import Domain, Tenant
from example_project.notes.models import Note, Tag
from pg_tenants import schema_context, tenant_context

__all__ = [
    "COMPANIES",
    "STAFF_PASSWORD",
    "Company",
    "demo_password",
    "load_companies",
    "load_company",
    "load_staff",
    "read_companies",
]

COMPANIES = Path(__file__).parent / "data" / "companies.json"
"""The data file that comes with the example."""

STAFF_PASSWORD = "demo-public"  # noqa: S105  # the demo prints it
"""Password of the user ``admin`` of the public site."""


class PersonData(TypedDict):
    """A user of a company."""

    username: str
    first_name: str
    last_name: str
    email: str


class NoteData(TypedDict):
    """A note; ``author`` is a username, ``created_at`` ISO 8601 with its offset."""

    title: str
    body: str
    language: str
    author: str
    tags: list[str]
    pinned: bool
    created_at: str


class LineData(TypedDict):
    """A line of an invoice; numbers are decimal strings."""

    description: str
    quantity: str
    unit_price: str


class InvoiceData(TypedDict):
    """An invoice; dates are ISO 8601."""

    number: str
    customer_name: str
    issued_on: str
    due_on: str
    currency: str
    status: str
    lines: list[LineData]


class Company(TypedDict):
    """A company; ``label`` names its schema and the first part of its host."""

    label: str
    name: str
    slogan: str
    city: str
    colour: str
    plan: str
    users: list[PersonData]
    notes: list[NoteData]
    invoices: list[InvoiceData]


def read_companies(path: Path = COMPANIES) -> list[Company]:
    """Return the companies of a data file."""
    return cast("list[Company]", json.loads(path.read_text(encoding="utf-8"))["companies"])


def load_companies(path: Path = COMPANIES) -> list[Tenant]:
    """Load every company of a data file and return their tenants, in its order."""
    return [load_company(company) for company in read_companies(path)]


def load_company(company: Company, *, base_domain: str = "localhost") -> Tenant:
    """Load one company, unless it is there, and return its tenant.

    What is there already stays as it is: a company is filled once, completely or not at all.

    Args:
        company: what to load.
        base_domain: the host will be the company's label before this.
    """
    host = f"{company['label']}.{base_domain}"
    domain = Domain.objects.select_related("tenant").filter(domain=host).first()
    tenant = cast("Tenant", domain.tenant) if domain else _create_tenant(company, host)
    with tenant_context(tenant):
        if not User.objects.filter(username="admin").exists():
            with transaction.atomic():
                _load_users(company)
                _load_notes(company)
                _load_invoices(company, tenant)
    return tenant


def load_staff() -> None:
    """Make the user ``admin`` of the public site, unless it is there."""
    with schema_context("public"):
        if not User.objects.filter(username="admin").exists():
            User.objects.create_superuser("admin", "admin@example.com", STAFF_PASSWORD)


def demo_password(tenant: Tenant) -> str:
    """Return the password that every user of the example's companies has."""
    return f"demo-{tenant.schema_name}"


def _create_tenant(company: Company, host: str) -> Tenant:
    with transaction.atomic():
        fields: dict[str, Any] = {key: company[key] for key in ("name", "slogan", "city", "colour", "plan")}
        tenant, _ = Tenant.objects.get_or_create(schema_name=company["label"], defaults=fields)
        Domain.objects.create(domain=host, tenant=tenant, is_primary=True)
    return tenant


def _load_users(company: Company) -> None:
    # The password is no secret, so one cheap hash does for all; Django makes a full one when somebody signs in.
    password = PBKDF2PasswordHasher().encode(f"demo-{company['label']}", get_random_string(22), iterations=1000)
    users = [User(**person, password=password) for person in company["users"]]
    admin = User(username="admin", email="admin@example.com", password=password, is_staff=True, is_superuser=True)
    User.objects.bulk_create([*users, admin])


def _load_notes(company: Company) -> None:
    authors = {user.username: user for user in User.objects.all()}
    names = dict.fromkeys(name for note in company["notes"] for name in note["tags"])
    tags = {tag.name: tag for tag in Tag.objects.bulk_create([Tag(name=name) for name in names])}
    notes = Note.objects.bulk_create([_note(data, authors) for data in company["notes"]])
    links = [
        Note.tags.through(note_id=note.pk, tag_id=tags[name].pk)
        for note, data in zip(notes, company["notes"], strict=True)
        for name in data["tags"]
    ]
    Note.tags.through.objects.bulk_create(links)


def _note(data: NoteData, authors: dict[str, User]) -> Note:
    written = datetime.fromisoformat(data["created_at"])
    return Note(
        title=data["title"],
        body=data["body"],
        language=data["language"],
        author=authors[data["author"]],
        pinned=data["pinned"],
        created_at=written,
        updated_at=written,
    )


def _load_invoices(company: Company, tenant: Tenant) -> None:
    invoices = Invoice.objects.bulk_create([_invoice(data, tenant) for data in company["invoices"]])
    lines = [
        InvoiceLine(
            invoice=invoice,
            description=line["description"],
            quantity=Decimal(line["quantity"]),
            unit_price=Decimal(line["unit_price"]),
        )
        for invoice, data in zip(invoices, company["invoices"], strict=True)
        for line in data["lines"]
    ]
    InvoiceLine.objects.bulk_create(lines)


def _invoice(data: InvoiceData, tenant: Tenant) -> Invoice:
    return Invoice(
        tenant_id=tenant.pk,
        number=data["number"],
        customer_name=data["customer_name"],
        issued_on=date.fromisoformat(data["issued_on"]),
        due_on=date.fromisoformat(data["due_on"]),
        currency=data["currency"],
        status=data["status"],
    )
