from __future__ import annotations

from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("shop", "0002_expand")]
    operations = [
        migrations.RunSQL(
            "ALTER TABLE shop_order DROP COLUMN fax", "ALTER TABLE shop_order ADD fax varchar(20) DEFAULT ''"
        ),
    ]
