"""An app that moves."""

from __future__ import annotations

from django.db import models


class Tag(models.Model):
    """A word."""

    name = models.CharField(max_length=50, unique=True)

    def __str__(self) -> str:
        return self.name
