"""Parts and their makers."""

from __future__ import annotations

from django.db import models


class Maker(models.Model):
    """Who makes parts."""

    name = models.CharField(max_length=100)

    def __str__(self) -> str:
        return self.name


class Part(models.Model):
    """Something that is made."""

    name = models.CharField(max_length=200)
    maker = models.ForeignKey(Maker, null=True, on_delete=models.CASCADE)
    size = models.IntegerField(default=0)
    title = models.CharField(max_length=100, default="")
    weight = models.IntegerField(default=0)

    class Meta:
        indexes = [
            models.Index(fields=["size"], name="part_by_size"),
            models.Index(fields=["name"], name="part_by_name"),
            models.Index(fields=["weight"], name="part_by_weight"),
        ]

    def __str__(self) -> str:
        return self.name


class Supplier(models.Model):
    """Who sells what a maker makes."""

    maker = models.ForeignKey(Maker, on_delete=models.CASCADE)

    def __str__(self) -> str:
        return f"of {self.maker}"
