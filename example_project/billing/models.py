"""Invoices of all tenants, in one schema. A row names its tenant by key, without a constraint, so that this module
can live in another database, and invoices outlive the company they were written for."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

from django.core.validators import MinValueValidator, validate_slug
from django.db import models
from django.db.models import Count, F, OuterRef, Subquery, Sum
from django.db.models.functions import Coalesce

if TYPE_CHECKING:
    from pg_tenants.models import TenantMixin

__all__ = ["Invoice", "InvoiceLine", "InvoiceQuerySet"]

AMOUNT = models.DecimalField(max_digits=14, decimal_places=2)


class InvoiceQuerySet(models.QuerySet["Invoice"]):
    """Invoices of one tenant, and what they come to."""

    def for_tenant(self, tenant: TenantMixin | None) -> InvoiceQuerySet:
        """Return the invoices of ``tenant``; none where there is no tenant."""
        return self.none() if tenant is None else self.filter(tenant_id=tenant.pk)

    def with_total(self) -> InvoiceQuerySet:
        """Add ``total``, the sum of an invoice's lines."""
        lines = InvoiceLine.objects.filter(invoice=OuterRef("pk")).order_by().values("invoice")
        total = lines.values(total=Sum(F("quantity") * F("unit_price"), output_field=AMOUNT))
        # A subquery, not a join: GROUP BY would lose the order of Meta, and pages need few totals.
        return self.annotate(total=Coalesce(Subquery(total), Decimal(0), output_field=AMOUNT))

    def by_status(self) -> dict[str, list[tuple[str, int, Decimal]]]:
        """Return for each status a list of currency, number of invoices and total."""
        totals: dict[str, list[tuple[str, int, Decimal]]] = {}
        amount = F("lines__quantity") * F("lines__unit_price")
        count, total = Count("pk", distinct=True), Sum(amount, default=Decimal(0), output_field=AMOUNT)
        rows = self.order_by("status", "currency").values_list("status", "currency").annotate(count=count, total=total)
        for status, currency, invoices, sum_of_lines in rows:
            totals.setdefault(status, []).append((currency, invoices, sum_of_lines))
        return totals


class Invoice(models.Model):
    """A bill that a tenant wrote to one of its customers.

    It has no ``get_absolute_url``: by it the admin's "view on site" would tell any tenant any invoice's number.
    """

    class Status(models.TextChoices):
        DRAFT = "draft", "Draft"
        SENT = "sent", "Sent"
        PAID = "paid", "Paid"
        OVERDUE = "overdue", "Overdue"

    tenant_id = models.BigIntegerField(db_index=True)
    number = models.CharField(max_length=30, validators=[validate_slug])
    customer_name = models.CharField(max_length=200)
    issued_on = models.DateField()
    due_on = models.DateField()
    currency = models.CharField(max_length=3)
    status = models.CharField(max_length=10, choices=Status, default=Status.DRAFT)

    objects = InvoiceQuerySet.as_manager()

    class Meta:
        ordering = ("-issued_on", "-number")
        constraints = (models.UniqueConstraint(fields=["tenant_id", "number"], name="invoice_number_per_tenant"),)

    def __str__(self) -> str:
        return self.number


class InvoiceLine(models.Model):
    """One position of an invoice."""

    invoice = models.ForeignKey(Invoice, on_delete=models.CASCADE, related_name="lines")
    description = models.CharField(max_length=200)
    quantity = models.DecimalField(max_digits=9, decimal_places=2, validators=[MinValueValidator(Decimal("0.01"))])
    unit_price = models.DecimalField(max_digits=12, decimal_places=2)

    class Meta:
        ordering = ("pk",)

    def __str__(self) -> str:
        return self.description

    @property
    def amount(self) -> Decimal:
        """Quantity times price."""
        return self.quantity * self.unit_price
