"""Tenants of django-pgschemas."""

from __future__ import annotations

from django.db import models
from django_pgschemas.models import TenantModel
from django_pgschemas.routing.models import DomainModel


class Client(TenantModel):
    """A tenant, whose schema is made by the benchmark."""

    name = models.CharField(max_length=100)
    auto_create_schema = False

    def __str__(self) -> str:
        return self.name


class Domain(DomainModel):
    """A domain of one."""

    def __str__(self) -> str:
        return self.domain
