"""What each tenant has."""

from __future__ import annotations

from django.db import models

__all__ = ["Thing"]


class Thing(models.Model):
    """Something."""

    name = models.CharField(max_length=50, unique=True)
    owner = models.ForeignKey("auth.User", models.CASCADE, null=True)

    class Meta:
        ordering = ("pk",)

    def __str__(self) -> str:
        return self.name
