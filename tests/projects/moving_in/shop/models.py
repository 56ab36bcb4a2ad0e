"""A shop, as it is before there are tenants and afterwards."""

from __future__ import annotations

from django.conf import settings
from django.db import models


class Product(models.Model):
    name = models.CharField(max_length=50, unique=True)

    def __str__(self) -> str:
        return self.name


class Order(models.Model):
    buyer = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE)
    products = models.ManyToManyField(Product)
    note = models.TextField(blank=True)

    def __str__(self) -> str:
        return f"Order {self.pk}"
