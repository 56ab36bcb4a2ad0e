# mypy: disable-error-code="type-arg"
# Django's generic views take no type argument at run time.
"""The public site: who is here and where, and signing up."""

from __future__ import annotations

from django.db import IntegrityError
from django.db.models import Prefetch, QuerySet
from django.http import HttpResponse, HttpResponseRedirect
from django.views.generic import FormView, ListView

from pg_tenants.exceptions import SchemaExists

from .forms import SignUpForm
from .models import Domain, Tenant
from .public import port_of

__all__ = ["LandingView", "SignUpView"]


class LandingView(ListView):
    """List the active tenants with links to their hosts."""

    template_name = "public/landing.html"
    context_object_name = "tenants"

    def get_queryset(self) -> QuerySet[Tenant]:
        """Return the active tenants, each with its domains, the primary one first."""
        domains = Prefetch("domains", Domain.objects.order_by("-is_primary", "domain"))
        return Tenant.objects.filter(status="active").order_by("name").prefetch_related(domains)


class SignUpView(FormView):
    """Make a company, and lead its first user to its login.

    The schema is made while the browser waits. With many tables, save the row alone and let a job make the schema.
    """

    template_name = "public/sign_up.html"
    form_class = SignUpForm

    def form_valid(self, form: SignUpForm) -> HttpResponse:
        try:
            tenant = form.save()
        except (SchemaExists, IntegrityError):
            form.add_error("schema_name", "This address was taken at the same moment. Choose another one.")
            return self.form_invalid(form)
        host = tenant.domains.get().domain
        return HttpResponseRedirect(f"{self.request.scheme}://{host}{port_of(self.request)}/login/")
