"""Another fixed module's table called item, which refers to the first."""

from __future__ import annotations

from django.db import models


class Item(models.Model):
    """How much of something there is."""

    sold = models.ForeignKey("shop.Item", models.CASCADE, db_constraint=False, related_name="stocks")
    amount = models.IntegerField(default=0)

    class Meta:
        db_table = "item"

    def __str__(self) -> str:
        return f"{self.amount} of {self.sold}"


class Hold(models.Model):
    """Something put aside; the database itself keeps this reference."""

    sold = models.ForeignKey("shop.Item", models.CASCADE, related_name="holds")

    class Meta:
        db_table = "hold"

    def __str__(self) -> str:
        return str(self.sold)
