import tempfile
from io import StringIO
from pathlib import Path

from django.core.management import call_command
from django.http import HttpRequest
from django.test import Client, SimpleTestCase, TestCase, override_settings
from django.urls import path
from django.utils.crypto import get_random_string

from .urls import urlpatterns as site_urls


def broken(request: HttpRequest) -> None:
    raise RuntimeError("on purpose")


urlpatterns = [*site_urls, path("broken/", broken)]


@override_settings(ROOT_URLCONF="newsbudget.tests")
class ErrorPageTests(TestCase):
    def test_not_found(self) -> None:
        self.assertContains(self.client.get("/nowhere/"), "Not in print", status_code=404)

    def test_broken(self) -> None:
        with self.assertLogs("django.request", "ERROR"):
            response = Client(raise_request_exception=False).get("/broken/")
        self.assertContains(response, "The press has stopped", status_code=500)


class ProjectTests(TestCase):
    def test_no_migration_is_missing(self) -> None:
        call_command("makemigrations", check=True, dry_run=True, stdout=StringIO())

    @override_settings(
        DEBUG=False,
        SECRET_KEY=get_random_string(50),
        ALLOWED_HOSTS=["news.example"],
        SECURE_SSL_REDIRECT=True,
        SECURE_HSTS_SECONDS=3600,
        SECURE_HSTS_INCLUDE_SUBDOMAINS=True,
        SECURE_HSTS_PRELOAD=True,
        SESSION_COOKIE_SECURE=True,
        CSRF_COOKIE_SECURE=True,
    )
    def test_nothing_speaks_against_production(self) -> None:
        call_command("check", deploy=True, fail_level="WARNING", stdout=StringIO(), stderr=StringIO())


class StaticFilesTests(SimpleTestCase):
    def test_pages_name_static_files_by_their_content(self) -> None:
        with (
            tempfile.TemporaryDirectory() as collected,
            self.settings(
                STATIC_ROOT=collected,
                STORAGES={
                    "default": {"BACKEND": "django.core.files.storage.InMemoryStorage"},
                    "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.ManifestStaticFilesStorage"},
                },
            ),
        ):
            call_command("collectstatic", interactive=False, verbosity=0)
            self.assertRegex(self.client.get("/about/").content.decode(), r"/static/newsbudget/site\.[0-9a-f]{12}\.css")
            self.assertTrue((Path(collected) / "staticfiles.json").exists())
