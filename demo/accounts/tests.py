from io import StringIO
from unittest import mock

from django.contrib.auth import authenticate
from django.core.management import CommandError, call_command
from django.http import HttpResponse
from django.test import Client, TestCase, override_settings
from django.utils.crypto import get_random_string


# A hash that is quick to make: here it guards nothing.
@override_settings(PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"])
class AccountsTests(TestCase):
    def setUp(self) -> None:
        self.password = get_random_string(20)
        self.create_editor(self.password)

    def create_editor(self, password: str, **options: str) -> None:
        with mock.patch.dict("os.environ", EDITOR_PASSWORD=password):
            call_command("create_editor", stdout=StringIO(), **options)

    def sign_in(self, **more: str) -> HttpResponse:
        return self.client.post("/accounts/login/", {"username": "editor", "password": self.password, **more})

    def test_sign_in_and_out(self) -> None:
        self.assertRedirects(self.client.get("/accounts/"), "/accounts/login/?next=/accounts/")
        self.assertRedirects(self.sign_in(), "/")
        self.assertContains(self.client.get("/accounts/"), "Sign out")
        self.assertRedirects(self.client.post("/accounts/logout/"), "/")
        self.assertEqual(self.client.get("/accounts/").status_code, 302)

    def test_on_to_where_one_was_going_but_not_to_another_site(self) -> None:
        self.assertRedirects(self.sign_in(next="/budget/stories/add/"), "/budget/stories/add/")
        self.client.logout()
        self.assertRedirects(self.sign_in(next="https://elsewhere.example/"), "/")

    def test_a_wrong_password(self) -> None:
        self.password = "wrong"
        self.assertContains(self.sign_in(), "correct username and password")

    def test_a_form_from_elsewhere_is_refused(self) -> None:
        response = Client(enforce_csrf_checks=True).post("/accounts/login/", {"username": "editor"})
        self.assertContains(response, "This form is too old", status_code=403)

    def test_an_editor_may_work_on_everything_but_people(self) -> None:
        self.sign_in()
        for path, status in {"budget/story/add": 200, "ledger/entry": 200, "auth/user": 403}.items():
            self.assertEqual(self.client.get(f"/admin/{path}/").status_code, status, path)

    def test_run_again_the_command_keeps_a_password_or_sets_a_new_one(self) -> None:
        before = authenticate(username="editor", password=self.password).password
        self.create_editor(self.password)
        self.assertEqual(authenticate(username="editor", password=self.password).password, before)
        self.create_editor("another " + self.password)
        self.assertIsNone(authenticate(username="editor", password=self.password))

    def test_the_password_from_standard_input(self) -> None:
        with mock.patch("sys.stdin", StringIO(self.password + "\n")):
            self.create_editor("", username="grace")
        self.assertTrue(authenticate(username="grace", password=self.password))

    def test_a_poor_password_or_name_is_refused(self) -> None:
        for password, username in [("short", "grace"), (self.password, "no spaces")]:
            with self.assertRaises(CommandError):
                self.create_editor(password, username=username)
