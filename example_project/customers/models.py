"""The companies that use the site, and the hosts where each is found."""

from __future__ import annotations

from django.core.validators import RegexValidator
from django.db import models

from pg_tenants.models import DomainMixin, TenantMixin

__all__ = ["Domain", "Tenant"]


class Tenant(TenantMixin):
    """A company. Its notes and users live in its own schema."""

    class Plan(models.TextChoices):
        STARTER = "starter", "Starter"
        TEAM = "team", "Team"
        ENTERPRISE = "enterprise", "Enterprise"

    name = models.CharField(max_length=100)
    slogan = models.CharField(max_length=200, blank=True)
    city = models.CharField(max_length=100, blank=True)
    colour = models.CharField(
        max_length=7,
        default="#3b5bdb",
        validators=[RegexValidator(r"^#[0-9a-fA-F]{6}\Z", "Write the colour as #rrggbb.")],
        help_text="Accent of the company's pages, as #rrggbb.",
    )
    plan = models.CharField(max_length=16, choices=Plan, default=Plan.STARTER)

    def __str__(self) -> str:
        return self.name


class Domain(DomainMixin):
    """A host name that leads to a company's pages."""

    def __str__(self) -> str:
        return str(self.domain)
