import os
import signal

import django.db.models.deletion
from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models


def dies(place):
    """Return an operation that kills its process where a test wants it: at a place, in the third schema."""

    def die(apps, schema_editor):
        if os.environ.get("PARTS_DIE") == place:
            with schema_editor.connection.cursor() as cursor:
                cursor.execute("SELECT current_schema()")
                if cursor.fetchone() == ("tenant_2",):
                    os.kill(os.getpid(), signal.SIGKILL)

    return migrations.RunPython(die, migrations.RunPython.noop)


class Migration(migrations.Migration):
    """Not atomic, of several operations: a kill in between leaves some of them done."""

    atomic = False
    dependencies = [("parts", "0005_label")]
    operations = [
        migrations.CreateModel(
            "Supplier",
            [
                ("id", models.BigAutoField(primary_key=True)),
                ("maker", models.ForeignKey("parts.Maker", on_delete=django.db.models.deletion.CASCADE)),
            ],
        ),
        dies("early"),
        migrations.AddField("Part", "weight", models.IntegerField(default=0)),
        AddIndexConcurrently("Part", models.Index(fields=["weight"], name="part_by_weight")),
        migrations.RenameField("Part", "label", "title"),
        dies("late"),
    ]
