"""Orders, as each release knows them."""

from __future__ import annotations

from django.conf import settings
from django.db import models


class Order(models.Model):
    """An order."""

    if settings.RELEASE == 1:
        fax = models.CharField(max_length=20)
    else:
        email = models.CharField(max_length=100, db_default="")

    def __str__(self) -> str:
        return f"order {self.pk}"
