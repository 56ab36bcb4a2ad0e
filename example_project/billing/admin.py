# mypy: disable-error-code="type-arg"
# Django's admin classes take no type argument at run time.
"""The invoices in a tenant's admin: its own, to look at."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.contrib import admin
from django.urls import reverse

from pg_tenants import current_tenant

from .models import Invoice, InvoiceLine

if TYPE_CHECKING:
    from django.db.models import QuerySet
    from django.http import HttpRequest

__all__ = ["InvoiceAdmin"]


class _ReadOnly:
    """Permits to look, and nothing else. Django gives the request, and for most the object."""

    def has_add_permission(self, *_: object) -> bool:
        return False

    def has_change_permission(self, *_: object) -> bool:
        return False

    def has_delete_permission(self, *_: object) -> bool:
        return False


class InvoiceLineInline(_ReadOnly, admin.TabularInline):
    """The lines on an invoice's page."""

    model = InvoiceLine


@admin.register(Invoice)
class InvoiceAdmin(_ReadOnly, admin.ModelAdmin):
    """Invoices of the active tenant."""

    list_display = ("number", "customer_name", "issued_on", "due_on", "status", "total", "currency")
    list_filter = ("status", "currency")
    search_fields = ("number", "customer_name")
    date_hierarchy = "issued_on"
    exclude = ("tenant_id",)
    inlines = (InvoiceLineInline,)

    def get_queryset(self, _request: HttpRequest) -> QuerySet[Invoice]:
        return Invoice.objects.for_tenant(current_tenant()).with_total()

    def view_on_site(self, invoice: Invoice) -> str:
        """Return the invoice's page."""
        return reverse("billing:detail", args=[invoice.number])

    @admin.display(ordering="total")
    def total(self, invoice: Invoice) -> str:
        """Return the sum of the lines, which the queryset adds."""
        return f"{getattr(invoice, 'total', 0):,.2f}"
