"""The first table."""

from django.db import migrations, models


class Migration(migrations.Migration):
    """Create Item."""

    initial = True
    operations = [migrations.CreateModel("Item", [
        ("id", models.BigAutoField(primary_key=True, serialize=False, auto_created=True, verbose_name="ID")),
        ("name", models.CharField(max_length=80, unique=True)),
        ("photo", models.FileField(upload_to="items", blank=True)),
    ])]
