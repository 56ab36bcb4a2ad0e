from __future__ import annotations

import secrets
from typing import Any

from django.db import migrations, models


def write(apps: Any, schema_editor: Any) -> None:
    apps.get_model("keys", "Key").objects.create(value=secrets.token_hex())


class Migration(migrations.Migration):
    dependencies = [("companies", "0002_rate")]
    operations = [
        migrations.CreateModel(
            "Key",
            [("id", models.BigAutoField(primary_key=True)), ("value", models.CharField(max_length=100))],
        ),
        migrations.RunPython(write),
    ]
