"""Whose goods they are."""

from __future__ import annotations

from django.db import models

from pg_tenants.models import DomainMixin, TenantMixin


class Company(TenantMixin):
    """A tenant."""

    name = models.CharField(max_length=100)


class Domain(DomainMixin):
    """A domain of one."""


class Rate(models.Model):  # noqa: DJ008
    """What all share."""

    value = models.IntegerField()
