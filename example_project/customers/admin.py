# mypy: disable-error-code="type-arg"
# Django's admin classes take no type argument at run time.
"""The public site's admin: the companies, their hosts, and who may manage them."""

from __future__ import annotations

from django.contrib import admin
from django.contrib.auth.admin import GroupAdmin, UserAdmin
from django.contrib.auth.models import Group, User

from pg_tenants.admin import DomainInline, TenantAdmin

from .models import Domain, Tenant

__all__ = ["CompanyAdmin", "CompanyDomainInline", "public_site"]


class PublicAdminSite(admin.AdminSite):
    """An admin apart from the companies' own: other models, other users."""

    site_header = "pg_tenants example administration"
    site_title = "pg_tenants example"
    index_title = "Companies and staff"


public_site = PublicAdminSite(name="public_admin")
public_site.register(User, UserAdmin)
public_site.register(Group, GroupAdmin)


class CompanyDomainInline(DomainInline):
    """The hosts on a company's page."""

    model = Domain


@admin.register(Tenant, site=public_site)
class CompanyAdmin(TenantAdmin):
    """The companies."""

    list_display = ("name", "status_label", "primary_domain", "plan", "created_at")
    list_filter = ("status", "plan", "created_at")
    search_fields = ("name", "schema_name", "city", "domains__domain")
    inlines = (CompanyDomainInline,)
