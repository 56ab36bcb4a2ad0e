from __future__ import annotations

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("shop", "0001_initial")]
    operations = [
        migrations.AddField("order", "email", models.CharField(max_length=100, db_default="")),
        migrations.AlterField("order", "fax", models.CharField(max_length=20, db_default="")),
        migrations.SeparateDatabaseAndState(state_operations=[migrations.RemoveField("order", "fax")]),
    ]
