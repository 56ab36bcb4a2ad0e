import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("parts", "0001_initial")]
    operations = [
        migrations.CreateModel(
            "Maker", [("id", models.BigAutoField(primary_key=True)), ("name", models.CharField(max_length=100))]
        ),
        migrations.AddField(
            "Part", "maker", models.ForeignKey("parts.Maker", null=True, on_delete=django.db.models.deletion.CASCADE)
        ),
        migrations.AddField("Part", "size", models.IntegerField(default=0)),
        migrations.AddIndex("Part", models.Index(fields=["size"], name="part_by_size")),
    ]
