"""Tenants of django-tenants."""

from __future__ import annotations

from django.db import models
from django_tenants.models import DomainMixin, TenantMixin


class Client(TenantMixin):
    """A tenant, whose schema is made by the benchmark."""

    name = models.CharField(max_length=100)
    auto_create_schema = False

    def __str__(self) -> str:
        return self.name


class Domain(DomainMixin):
    """A domain of one."""

    def __str__(self) -> str:
        return self.domain
