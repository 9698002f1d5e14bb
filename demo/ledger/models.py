from decimal import Decimal
from typing import Any

from about.identity import node
from django.core.cache import cache
from django.db import models, transaction
from django.db.models.signals import post_delete, post_save
from django.dispatch import receiver
from django.utils import timezone

SECONDS_KEPT = 60


class Bank(models.Model):
    name = models.CharField(max_length=80, unique=True)

    def __str__(self) -> str:
        return self.name

    @property
    def cache_key(self) -> str:
        return f"ledger:balance-sheet:{self.pk}"

    def total_balance(self) -> Decimal:
        """Add up every entry there is: the slow part, and the database's work rather than ours."""
        total = self.entries.aggregate(total=models.Sum("amount", default=Decimal()))["total"]
        return round(total, 2)  # SQLite adds up in floating point

    def balance_sheet(self) -> dict[str, Any]:
        """
        The balance and the latest entries, from the cache when it has them.

        A module global would be faster still, and wrong from the second process on: the cache is
        the one memory that every server shares. The sheet says who added it up, and when.
        """
        sheet = cache.get(self.cache_key)
        cached = sheet is not None  # not "if not sheet": an empty bank may be cached too
        if not cached:
            sheet = {
                "balance": self.total_balance(),
                "entries": list(self.entries.values("date", "text", "amount")[:25]),
                "computed_at": timezone.now(),
                "computed_by": node(),
            }
            cache.set(self.cache_key, sheet, SECONDS_KEPT)
        return {**sheet, "cached": cached}


class Entry(models.Model):
    bank = models.ForeignKey(Bank, related_name="entries", on_delete=models.CASCADE)
    date = models.DateField(default=timezone.localdate)
    text = models.CharField(max_length=120)
    amount = models.DecimalField(max_digits=12, decimal_places=2, help_text="Less than nothing for what is spent.")

    class Meta:
        ordering = ["-date", "-pk"]
        verbose_name_plural = "entries"

    def __str__(self) -> str:
        return f"{self.date} {self.text}"


@receiver([post_save, post_delete], sender=Entry)
def forget_balance_sheet(sender: type[Entry], instance: Entry, **kwargs: object) -> None:
    """
    A changed ledger drops the sheet, once the change is there for others to read.

    A reader who began before the change can still store the old sheet just after: the timeout,
    not this function, is what bounds how long anybody sees it.
    """
    transaction.on_commit(lambda: cache.delete(Bank(pk=instance.bank_id).cache_key))
