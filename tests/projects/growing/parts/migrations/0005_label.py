from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("parts", "0004_index")]
    operations = [
        migrations.AlterField("Part", "name", models.CharField(max_length=200)),
        migrations.AddField("Part", "label", models.CharField(max_length=100, default="")),
    ]
