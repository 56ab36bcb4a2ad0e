from django.db import migrations


def add(apps, schema_editor):
    """Write one row, so that running it twice would show."""
    apps.get_model("parts", "Maker").objects.create(name="maker")


def remove(apps, schema_editor):
    apps.get_model("parts", "Maker").objects.all().delete()


class Migration(migrations.Migration):
    dependencies = [("parts", "0002_makers")]
    operations = [migrations.RunPython(add, remove)]
