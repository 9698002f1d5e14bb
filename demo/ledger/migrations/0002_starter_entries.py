"""A bank to look at from the first migrate on."""

from datetime import timedelta
from decimal import Decimal

from django.db import migrations
from django.utils import timezone

ENTRIES = [
    (-6, "Carried forward", "1250.00"),
    (-5, "Subscriptions", "480.00"),
    (-4, "More memory, always the first thing to buy", "-320.00"),
    (-3, "Coffee", "-64.20"),
    (-2, "Advertisement, half a page", "210.00"),
    (-1, "Cat food", "-17.90"),
]


def add_entries(apps, schema_editor):
    database = schema_editor.connection.alias
    bank = apps.get_model("ledger", "Bank").objects.using(database).create(name="Newsroom")
    today = timezone.localdate()
    for days, text, amount in ENTRIES:
        apps.get_model("ledger", "Entry").objects.using(database).create(
            bank=bank, date=today + timedelta(days=days), text=text, amount=Decimal(amount)
        )


class Migration(migrations.Migration):
    dependencies = [("ledger", "0001_initial")]
    operations = [migrations.RunPython(add_entries, migrations.RunPython.noop)]
