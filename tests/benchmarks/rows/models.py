"""A table of ten rows."""

from __future__ import annotations

from django.db import models


class Row(models.Model):
    """A row."""

    text = models.CharField(max_length=50)
    number = models.IntegerField()

    def __str__(self) -> str:
        return self.text
