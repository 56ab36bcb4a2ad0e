from __future__ import annotations

from typing import Any

from django.db import migrations, models


def write(apps: Any, schema_editor: Any) -> None:
    apps.get_model("companies", "Rate").objects.create(value=7)


class Migration(migrations.Migration):
    dependencies = [("companies", "0001_initial")]
    operations = [
        migrations.CreateModel(
            "Rate", [("id", models.BigAutoField(primary_key=True)), ("value", models.IntegerField())]
        ),
        migrations.RunPython(write),
    ]
