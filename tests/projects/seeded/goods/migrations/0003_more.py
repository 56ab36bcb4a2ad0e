from __future__ import annotations

from typing import Any

from django.db import migrations, models


def index(apps: Any, schema_editor: Any) -> None:
    schema_editor.execute("CREATE INDEX goods_by_note ON goods_good (lower(note))")


class Migration(migrations.Migration):
    dependencies = [("goods", "0002_rows")]
    operations = [
        migrations.AlterField("good", "name", models.CharField(max_length=50)),
        migrations.AddField("good", "size", models.IntegerField(default=1)),
        migrations.RunPython(index, migrations.RunPython.noop),
        migrations.RunSQL("UPDATE goods_good SET size = id", migrations.RunSQL.noop),
    ]
