"""A fixed module's table called item."""

from __future__ import annotations

from django.db import models


class Item(models.Model):
    """What is sold."""

    name = models.CharField(max_length=50, unique=True)
    price = models.IntegerField(default=0)
    parent = models.ForeignKey("self", models.CASCADE, null=True, related_name="children")
    others = models.ManyToManyField("self")

    class Meta:
        db_table = "item"

    def __str__(self) -> str:
        return self.name
