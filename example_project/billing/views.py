# mypy: disable-error-code="type-arg"
# Django's generic views take no type argument at run time.
"""Pages of the active tenant's invoices."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.views.generic import DetailView, ListView

from pg_tenants import current_tenant

from .models import Invoice

if TYPE_CHECKING:
    from django.db.models import QuerySet

__all__ = ["InvoiceDetailView", "InvoiceListView"]


class InvoiceListView(ListView):
    """The tenant's invoices, of one status with ``?status=``, and the totals of each status."""

    paginate_by = 20

    def get_queryset(self) -> QuerySet[Invoice]:
        invoices = Invoice.objects.for_tenant(current_tenant()).with_total()
        status = self.request.GET.get("status")
        return invoices.filter(status=status) if status in Invoice.Status.values else invoices

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        totals = Invoice.objects.for_tenant(current_tenant()).by_status()
        statuses = [(value, label, totals.get(value, [])) for value, label in Invoice.Status.choices]
        return super().get_context_data(**kwargs) | {
            "statuses": statuses,
            "status": self.request.GET.get("status", ""),
        }


class InvoiceDetailView(DetailView):
    """One invoice with its lines."""

    slug_field = slug_url_kwarg = "number"

    def get_queryset(self) -> QuerySet[Invoice]:
        return Invoice.objects.for_tenant(current_tenant()).with_total().prefetch_related("lines")
