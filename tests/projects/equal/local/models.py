"""Each tenant's table called item. The app has no migrations."""

from __future__ import annotations

from django.conf import settings
from django.db import models


class Item(models.Model):
    """What a tenant has of something."""

    name = models.CharField(max_length=50)
    sold = models.ForeignKey("shop.Item", models.CASCADE, null=True, db_constraint=False, related_name="locals")
    owner = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, null=True, related_name="items")

    class Meta:
        db_table = "item"

    def __str__(self) -> str:
        return self.name


class Wish(models.Model):
    """Something wanted; the database itself keeps this reference."""

    sold = models.ForeignKey("shop.Item", models.CASCADE, related_name="wishes")

    class Meta:
        db_table = "wish"

    def __str__(self) -> str:
        return str(self.sold)
