from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models


class Migration(migrations.Migration):
    atomic = False
    dependencies = [("parts", "0003_rows")]
    operations = [AddIndexConcurrently("Part", models.Index(fields=["name"], name="part_by_name"))]
