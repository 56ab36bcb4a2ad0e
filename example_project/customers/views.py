"""The public site: who is here, and where."""

from __future__ import annotations

from typing import Any

from django.db.models import Prefetch, QuerySet
from django.views.generic import TemplateView

from .models import Domain, Tenant

__all__ = ["LandingView"]


class LandingView(TemplateView):
    """List the active tenants with links to their hosts."""

    template_name = "public/landing.html"

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        port = self.request.get_port()
        usual = {"http": "80", "https": "443"}.get(self.request.scheme or "")
        return super().get_context_data(**kwargs) | {
            "tenants": self.get_tenants(),
            "port": "" if port == usual else f":{port}",
        }

    def get_tenants(self) -> QuerySet[Tenant]:
        """Return the active tenants, each with its domains, the primary one first."""
        domains = Prefetch("domains", Domain.objects.order_by("-is_primary", "domain"))
        return Tenant.objects.filter(status="active").order_by("name").prefetch_related(domains)
