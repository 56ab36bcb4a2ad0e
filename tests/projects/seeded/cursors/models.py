"""A raw cursor that defines something."""

from __future__ import annotations

from django.db import models


class Cursor(models.Model):  # noqa: DJ008
    """A row."""

    value = models.CharField(max_length=100)
