from __future__ import annotations

from typing import Any

from django.db import migrations, models


def write(apps: Any, schema_editor: Any) -> None:
    with schema_editor.connection.cursor() as cursor:
        cursor.execute("CREATE INDEX by_value ON cursors_cursor (value)")


class Migration(migrations.Migration):
    dependencies = [("companies", "0002_rate")]
    operations = [
        migrations.CreateModel(
            "Cursor",
            [("id", models.BigAutoField(primary_key=True)), ("value", models.CharField(max_length=100))],
        ),
        migrations.RunPython(write),
    ]
