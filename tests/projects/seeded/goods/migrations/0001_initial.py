from __future__ import annotations

import uuid

from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):
    initial = True
    dependencies = [("companies", "0002_rate"), migrations.swappable_dependency(settings.AUTH_USER_MODEL)]
    operations = [
        migrations.CreateModel(
            "Group",
            [
                ("id", models.UUIDField(primary_key=True, default=uuid.uuid4)),
                ("name", models.CharField(max_length=50)),
                ("parent", models.ForeignKey("goods.Group", models.CASCADE, null=True)),
            ],
        ),
        migrations.CreateModel(
            "Good",
            [
                ("id", models.BigAutoField(primary_key=True)),
                ("name", models.CharField(max_length=40)),
                ("note", models.TextField()),
                ("group", models.ForeignKey("goods.Group", models.CASCADE)),
                ("rate", models.ForeignKey("companies.Rate", models.CASCADE, null=True)),
                ("owner", models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, null=True)),
                ("created", models.DateTimeField(auto_now_add=True)),
                ("day", models.DateField(null=True)),
                ("until", models.DateTimeField(null=True)),
                ("blob", models.BinaryField(default=b"")),
                ("data", models.JSONField(default=dict)),
            ],
            options={"permissions": [("sell_good", "Can sell good")]},
        ),
        migrations.CreateModel(
            "Change", [("id", models.BigAutoField(primary_key=True)), ("name", models.CharField(max_length=50))]
        ),
    ]
