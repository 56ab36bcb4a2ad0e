"""What a company sells."""

from __future__ import annotations

import uuid

from django.conf import settings
from django.db import models


class Group(models.Model):  # noqa: DJ008
    """A group of goods, in a tree."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    name = models.CharField(max_length=50)
    parent = models.ForeignKey("self", models.CASCADE, null=True)


class Good(models.Model):  # noqa: DJ008
    """Something that is sold."""

    name = models.CharField(max_length=50)
    note = models.TextField()
    group = models.ForeignKey(Group, models.CASCADE)
    rate = models.ForeignKey("companies.Rate", models.CASCADE, null=True)
    owner = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, null=True)
    created = models.DateTimeField(auto_now_add=True)
    day = models.DateField(null=True)
    until = models.DateTimeField(null=True)
    blob = models.BinaryField(default=b"")
    data = models.JSONField(default=dict)
    size = models.IntegerField(default=1)

    class Meta:
        permissions = [("sell_good", "Can sell good")]


class Change(models.Model):  # noqa: DJ008
    """Written by a trigger."""

    name = models.CharField(max_length=50)
