from __future__ import annotations

from typing import Any

from django.db import migrations, models


def write(apps: Any, schema_editor: Any) -> None:
    rate = apps.get_model("companies", "Rate").objects.get()
    apps.get_model("prices", "Price").objects.create(value=rate.value)


class Migration(migrations.Migration):
    dependencies = [("companies", "0002_rate")]
    operations = [
        migrations.CreateModel(
            "Price",
            [("id", models.BigAutoField(primary_key=True)), ("value", models.CharField(max_length=100))],
        ),
        migrations.RunPython(write),
    ]
