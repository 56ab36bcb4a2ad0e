"""Rows that come from shared ones."""

from __future__ import annotations

from django.db import models


class Price(models.Model):  # noqa: DJ008
    """A row."""

    value = models.CharField(max_length=100)
