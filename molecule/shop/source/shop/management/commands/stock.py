"""Fill the shelves."""

from django.core.management.base import BaseCommand

from shop.models import Item


class Command(BaseCommand):
    """manage.py stock"""

    def handle(self, *args: object, **options: object) -> None:
        """Make the first item, once."""
        Item.objects.get_or_create(name="A jar of honey")
