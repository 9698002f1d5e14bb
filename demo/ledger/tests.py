from datetime import date
from decimal import Decimal
from typing import Any

from django.contrib.auth.models import Permission, User
from django.core.cache import cache
from django.test import TestCase

from .models import Bank, Entry


class BalanceSheetTests(TestCase):
    @classmethod
    def setUpTestData(cls) -> None:
        cls.bank = Bank.objects.get(name="Newsroom")
        cls.bank.entries.all().delete()
        cls.entry = Entry.objects.create(bank=cls.bank, text="Coffee", amount=Decimal("-0.10"))
        Entry.objects.create(bank=cls.bank, text="Subscription", amount=Decimal("0.30"))
        cls.user = User.objects.create_user("ada")

    def setUp(self) -> None:
        cache.clear()

    def sheet(self) -> dict[str, Any]:
        return self.client.get("/ledger/?format=json").json()

    def test_total_balance(self) -> None:
        self.assertEqual(str(self.bank.total_balance()), "0.20")
        self.assertEqual(Bank.objects.create(name="Empty").total_balance(), 0)

    def test_the_page(self) -> None:
        self.assertContains(self.client.get("/ledger/"), "Coffee")

    def test_the_second_reader_gets_it_from_the_cache(self) -> None:
        with self.assertNumQueries(3):  # bank, total, entries
            first = self.sheet()
        with self.assertNumQueries(1):  # bank
            second = self.sheet()
        self.assertEqual((first.pop("cached"), second.pop("cached")), (False, True))
        self.assertEqual(first, second)

    def test_an_empty_balance_is_cached_too(self) -> None:
        Entry.objects.all().delete()
        self.sheet()
        self.assertTrue(self.sheet()["cached"])

    def test_a_changed_ledger_is_added_up_anew(self) -> None:
        changes = {
            "added": lambda: Entry.objects.create(bank=self.bank, text="Prize", amount=5),
            "deleted": lambda: self.entry.delete(),
            "deleted as the admin site does": lambda: Entry.objects.all().delete(),
        }
        for (what, change), balance in zip(changes.items(), ["5.20", "5.30", "0.00"], strict=True):
            with self.subTest(what):
                self.sheet()
                with self.captureOnCommitCallbacks(execute=True):
                    change()
                self.assertEqual((self.sheet()["balance"], self.sheet()["cached"]), (balance, True))

    def test_nothing_is_forgotten_before_the_change_is_there_to_be_read(self) -> None:
        self.sheet()
        with self.captureOnCommitCallbacks(execute=False):
            self.entry.delete()
        self.assertTrue(self.sheet()["cached"])

    def test_no_bank_is_no_page(self) -> None:
        Bank.objects.all().delete()
        self.assertEqual(self.client.get("/ledger/").status_code, 404)


class EntryAddTests(TestCase):
    path = "/ledger/entries/add/"
    filled_in = {"date": "2009-07-22", "text": "Cat food", "amount": "-17.90"}

    def setUp(self) -> None:
        self.user = User.objects.create_user("ada")

    def test_not_for_everybody(self) -> None:
        self.assertRedirects(self.client.post(self.path, self.filled_in), f"/accounts/login/?next={self.path}")
        self.client.force_login(self.user)
        self.assertEqual(self.client.post(self.path, self.filled_in).status_code, 403)
        self.assertNotContains(self.client.get("/ledger/"), self.path)

    def test_by_an_editor(self) -> None:
        self.user.user_permissions.add(Permission.objects.get(codename="add_entry"))
        self.client.force_login(self.user)
        self.assertContains(self.client.get("/ledger/"), self.path)
        self.assertEqual(self.client.get(self.path).status_code, 200)
        self.assertRedirects(self.client.post(self.path, self.filled_in), "/ledger/")
        self.assertEqual(Entry.objects.latest("pk").date, date(2009, 7, 22))
