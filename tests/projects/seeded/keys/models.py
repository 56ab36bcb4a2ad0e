"""Rows that differ from run to run."""

from __future__ import annotations

from django.db import models


class Key(models.Model):  # noqa: DJ008
    """A row."""

    value = models.CharField(max_length=100)
