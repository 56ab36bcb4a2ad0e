"""Addresses of the invoices."""

from __future__ import annotations

from django.urls import path

from .views import InvoiceDetailView, InvoiceListView

app_name = "billing"
urlpatterns = [
    path("", InvoiceListView.as_view(), name="list"),
    path("<slug:number>/", InvoiceDetailView.as_view(), name="detail"),
]
