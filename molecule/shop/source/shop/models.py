"""What is for sale."""

from django.db import models


class Item(models.Model):
    """A thing and what it looks like."""

    name = models.CharField(max_length=80, unique=True)
    photo = models.FileField(upload_to="items", blank=True)
