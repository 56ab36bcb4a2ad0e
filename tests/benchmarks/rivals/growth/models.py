"""An app whose second migration is what the benchmark measures."""

from __future__ import annotations

from django.conf import settings
from django.db import models


class Product(models.Model):
    """What is there before; the second migration adds to it."""

    name = models.CharField(max_length=200)
    price = models.DecimalField(max_digits=12, decimal_places=2)
    stock = models.IntegerField(default=0)
    note = models.CharField(max_length=100, blank=True, default="")

    def __str__(self) -> str:
        return self.name


class Order(models.Model):
    """What is new."""

    product = models.ForeignKey(Product, on_delete=models.CASCADE)
    buyer = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE)
    page = models.ForeignKey("wagtailcore.Page", null=True, on_delete=models.SET_NULL)
    number = models.CharField(max_length=20, unique=True)
    amount = models.PositiveIntegerField()
    placed_at = models.DateTimeField()
    extra = models.JSONField(default=dict)

    class Meta:
        indexes = [models.Index(fields=["placed_at", "number"], name="order_by_time")]
        constraints = [models.CheckConstraint(condition=models.Q(amount__gt=0), name="order_of_something")]

    def __str__(self) -> str:
        return self.number
