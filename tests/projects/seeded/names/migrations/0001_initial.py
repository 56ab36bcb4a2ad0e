from __future__ import annotations

from typing import Any

from django.db import migrations, models

from pg_tenants import current_tenant


def write(apps: Any, schema_editor: Any) -> None:
    tenant = current_tenant()
    apps.get_model("names", "Name").objects.create(value=getattr(tenant, "name", "none"))


class Migration(migrations.Migration):
    dependencies = [("companies", "0002_rate")]
    operations = [
        migrations.CreateModel(
            "Name",
            [("id", models.BigAutoField(primary_key=True)), ("value", models.CharField(max_length=100))],
        ),
        migrations.RunPython(write),
    ]
