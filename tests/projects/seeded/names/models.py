"""Rows that come from the tenant."""

from __future__ import annotations

from django.db import models


class Name(models.Model):  # noqa: DJ008
    """A row."""

    value = models.CharField(max_length=100)
