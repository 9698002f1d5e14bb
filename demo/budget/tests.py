import doctest
import shutil
import tempfile
import unittest
from io import BytesIO
from unittest import mock

from django.contrib.auth.models import Permission, User
from django.core import mail
from django.core.files.uploadedfile import SimpleUploadedFile
from django.http import HttpResponse
from django.test import TestCase, override_settings
from PIL import Image

from . import choices
from .models import STATUSES, Story

LIVE, DRAFT = STATUSES.code("Live"), STATUSES.code("Draft")


def load_tests(loader: unittest.TestLoader, tests: unittest.TestSuite, ignore: str | None) -> unittest.TestSuite:
    tests.addTests(doctest.DocTestSuite(choices))
    return tests


def photograph(size: tuple[int, int] = (40, 30), exif: bytes = b"", kind: str = "JPEG") -> bytes:
    content = BytesIO()
    Image.new("RGB", size, "teal").save(content, kind, **({"exif": exif} if exif else {}))
    return content.getvalue()


class BudgetTestCase(TestCase):
    fixtures = ["people", "newsbudget_test_data"]

    def setUp(self) -> None:
        self.story = Story.objects.get(pk=101)
        self.draft = Story.objects.get(pk=102)
        self.ada, self.bob = User.objects.get(pk=101), User.objects.get(pk=102)

    def filled_in(self, **changed: object) -> dict[str, object]:
        return {
            "title": "Hungry cat is hungry",
            "date": "2009-01-01",
            "status": LIVE,
            "text": "Again.",
            **changed,
        }


class StoryTests(BudgetTestCase):
    def test_a_story_keeps_its_address_when_its_title_changes(self) -> None:
        address = self.story.get_absolute_url()
        self.story.title = "Council met"
        self.story.save()
        self.assertEqual(self.story.get_absolute_url(), address)

    def test_a_title_without_latin_letters_has_an_address_too(self) -> None:
        story = Story.objects.create(title="新聞", text="…", status=LIVE)
        self.assertEqual(self.client.get(story.get_absolute_url()).status_code, 200)

    def test_byline(self) -> None:
        self.assertEqual(self.story.byline, "Ada Reporter")
        self.ada.delete()
        self.assertEqual(Story.objects.get(pk=101).byline, "the newsdesk")


class FrontPageTests(BudgetTestCase):
    def test_live_stories_newest_first_and_no_drafts(self) -> None:
        Story.objects.exclude(pk__in=[101, 102]).delete()
        newer = Story.objects.create(title="Newer", text="…", date="2009-02-01", status=LIVE)
        self.assertEqual(list(self.client.get("/").context["page"]), [newer, self.story])

    def test_the_first_page_has_something_to_read_from_the_first_migrate_on(self) -> None:
        self.assertContains(self.client.get("/"), "Hungry cat is hungry")

    def test_pages(self) -> None:
        Story.objects.bulk_create(Story(title=f"No. {n}", slug="no", text="…", status=LIVE) for n in range(25))
        self.assertContains(self.client.get("/"), "?page=2")
        self.assertContains(self.client.get("/?page=2"), "?page=1")
        self.assertEqual(self.client.get("/?page=nonsense").status_code, 200)

    def test_as_many_queries_for_many_stories_as_for_few(self) -> None:
        Story.objects.bulk_create(
            Story(title=f"No. {n}", slug="no", text="…", status=LIVE, author=self.ada) for n in range(30)
        )
        with self.assertNumQueries(3):  # what the ETag depends on, how many stories, the stories
            self.client.get("/")

    def test_no_reader_is_shown_markup_from_a_story(self) -> None:
        Story.objects.create(title="<script>", text="<script>", status=LIVE)
        self.assertNotContains(self.client.get("/"), "<script>")


class ConditionTests(BudgetTestCase):
    """304 while nothing has changed for this reader; 200 as soon as anything has."""

    def ask_again(self, path: str, response: HttpResponse) -> int:
        return self.client.get(path, headers={"If-None-Match": response["ETag"]}).status_code

    def test_not_modified(self) -> None:
        for path in ["/", "/?page=2", self.story.get_absolute_url()]:
            with self.subTest(path):
                response = self.client.get(path)
                self.assertEqual(self.ask_again(path, response), 304)
                self.assertIn("Cookie", response["Vary"])
                self.assertEqual(response["Cache-Control"], "no-cache")

    def test_not_modified_costs_one_query(self) -> None:
        response = self.client.get("/")
        with self.assertNumQueries(1):
            self.ask_again("/", response)

    def test_last_modified(self) -> None:
        path = self.story.get_absolute_url()
        response = self.client.get(path)
        self.assertEqual(response["Last-Modified"], "Thu, 01 Jan 2009 12:00:00 GMT")
        for since, status in [(12, 304), (11, 200)]:
            date = f"Thu, 01 Jan 2009 {since}:00:00 GMT"
            self.assertEqual(self.client.get(path, headers={"If-Modified-Since": date}).status_code, status)

    def test_whatever_a_reader_could_see_makes_a_new_page(self) -> None:
        path = self.story.get_absolute_url()
        changes = {
            "edited": lambda: self.story.save(),
            "signed in": lambda: self.client.force_login(self.bob),
            "another reader": lambda: self.client.force_login(self.ada),
            "deployed": mock.patch.dict("os.environ", SITE_RELEASE="next").start,
        }
        self.addCleanup(mock.patch.stopall)
        for what, change in changes.items():
            with self.subTest(what):
                front, detail = self.client.get("/"), self.client.get(path)
                change()
                self.assertEqual(self.ask_again("/", front), 200)
                self.assertEqual(self.ask_again(path, detail), 200)

    def test_no_condition_tells_of_a_story_that_is_not_for_this_reader(self) -> None:
        for path in [self.draft.get_absolute_url(), "/budget/stories/101-other/"]:
            with self.subTest(path):
                since = "Fri, 01 Jan 2100 00:00:00 GMT"
                response = self.client.get(path, headers={"If-Modified-Since": since})
                self.assertEqual(response.status_code, 404)
                self.assertNotIn("Last-Modified", response)

    def test_an_older_story_taken_down(self) -> None:
        response = self.client.get("/")
        self.story.delete()
        self.assertEqual(self.ask_again("/", response), 200)


class StoryDetailTests(BudgetTestCase):
    def test_a_draft_is_for_those_who_are_signed_in(self) -> None:
        self.assertEqual(self.client.get(self.draft.get_absolute_url()).status_code, 404)
        self.client.force_login(self.bob)
        self.assertContains(self.client.get(self.draft.get_absolute_url()), "Draft")

    def test_a_wrong_address_is_not_found(self) -> None:
        self.assertEqual(self.client.get("/budget/stories/101-other/").status_code, 404)
        self.assertEqual(self.client.get("/budget/stories/999-council-meets/").status_code, 404)

    def test_an_edit_link_for_those_who_may(self) -> None:
        path, link = self.story.get_absolute_url(), "/edit/"
        self.assertNotContains(self.client.get(path), link)
        self.client.force_login(self.bob)
        self.assertNotContains(self.client.get(path), link)
        self.client.force_login(self.ada)
        self.assertContains(self.client.get(path), link)

    def test_a_story_of_the_newsdesk_is_not_everybodys(self) -> None:
        Story.objects.update(author=None)
        self.assertNotContains(self.client.get(self.story.get_absolute_url()), "/edit/")


class StoryListTests(BudgetTestCase):
    def test_drafts_too_in_as_many_queries_for_many_stories_as_for_few(self) -> None:
        self.client.force_login(self.bob)
        Story.objects.bulk_create(Story(title=f"No. {n}", slug="no", text="…", author=self.ada) for n in range(20))
        with self.assertNumQueries(4):  # session, user, how many stories, the stories
            self.assertContains(self.client.get("/budget/stories/"), "Draft")


class StoryAddViewTests(BudgetTestCase):
    path = "/budget/stories/add/"

    def test_only_for_those_who_are_signed_in(self) -> None:
        for response in [self.client.get(self.path), self.client.post(self.path, self.filled_in())]:
            self.assertRedirects(response, f"/accounts/login/?next={self.path}")
        self.assertFalse(Story.objects.filter(text="Again.").exists())

    def test_story_add_get(self) -> None:
        self.client.force_login(self.bob)
        self.assertEqual(self.client.get(self.path).status_code, 200)

    def test_story_add_post(self) -> None:
        self.client.force_login(self.bob)
        response = self.client.post(self.path, self.filled_in())
        story = Story.objects.get(text="Again.")
        self.assertRedirects(response, story.get_absolute_url())
        self.assertEqual((story.author, story.slug), (self.bob, "hungry-cat-is-hungry"))

    def test_a_mistake_is_named_and_nothing_saved(self) -> None:
        self.client.force_login(self.bob)
        response = self.client.post(self.path, self.filled_in(title=""))
        self.assertFormError(response.context["form"], "title", "This field is required.")
        self.assertFalse(Story.objects.filter(text="Again.").exists())

    @override_settings(MANAGERS=[("Editor", "editor@example.com")])
    def test_the_editors_are_told(self) -> None:
        self.client.force_login(self.ada)
        with self.captureOnCommitCallbacks(execute=True):
            self.client.post(self.path, self.filled_in())
        [message] = mail.outbox
        self.assertIn("New story: Hungry cat is hungry", message.subject)
        self.assertIn("Ada Reporter filed", message.body)

    @override_settings(MANAGERS=[("Editor", "editor@example.com")])
    def test_a_broken_mail_server_is_logged_and_refuses_no_story(self) -> None:
        self.client.force_login(self.ada)
        with (
            mock.patch("budget.views.mail_managers", side_effect=ConnectionRefusedError),
            self.assertLogs("django.test", "ERROR"),
            self.captureOnCommitCallbacks(execute=True),
        ):
            self.assertEqual(self.client.post(self.path, self.filled_in()).status_code, 302)


class StoryEditViewTests(BudgetTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.path = self.story.get_absolute_url() + "edit/"

    def test_by_its_author(self) -> None:
        self.client.force_login(self.ada)
        self.assertContains(self.client.get(self.path), "Council meets")
        self.assertRedirects(self.client.post(self.path, self.filled_in()), self.story.get_absolute_url())
        self.story.refresh_from_db()
        self.assertEqual((self.story.title, self.story.author), ("Hungry cat is hungry", self.ada))

    def test_not_by_somebody_else(self) -> None:
        self.client.force_login(self.bob)
        self.assertContains(self.client.post(self.path, self.filled_in()), "Not yours to do", status_code=403)
        self.story.refresh_from_db()
        self.assertEqual(self.story.title, "Council meets")

    def test_by_an_editor(self) -> None:
        self.bob.user_permissions.add(Permission.objects.get(codename="change_story"))
        self.client.force_login(self.bob)
        self.assertEqual(self.client.post(self.path, self.filled_in()).status_code, 302)
        self.story.refresh_from_db()
        self.assertEqual(self.story.author, self.ada)


class PictureTests(BudgetTestCase):
    def setUp(self) -> None:
        super().setUp()
        media = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, media)
        self.enterContext(self.settings(MEDIA_ROOT=media))
        self.client.force_login(self.ada)

    def upload(self, content: bytes, name: str = "Holiday (1).jpg") -> HttpResponse:
        picture = SimpleUploadedFile(name, content, "image/jpeg")
        return self.client.post("/budget/stories/add/", self.filled_in(picture=picture, caption="The cat"))

    def test_a_page_shows_it_with_its_size_and_what_it_shows(self) -> None:
        story_page = self.client.get(self.upload(photograph()).url)
        picture = Story.objects.get(text="Again.").picture
        self.assertRegex(picture.name, r"^stories/\d{4}/\d{2}/[0-9a-f]{32}\.webp$")
        self.assertContains(story_page, f'src="{picture.url}" width="40" height="30" alt="The cat"')

    def test_a_page_does_not_open_the_file(self) -> None:
        address = self.upload(photograph()).url
        with mock.patch("django.core.files.storage.FileSystemStorage._open", side_effect=AssertionError):
            self.assertContains(self.client.get(address), 'width="40"')

    def test_it_is_made_upright_and_smaller_and_tells_nothing_about_the_camera(self) -> None:
        exif = Image.Exif()
        exif[0x0112] = 6  # taken with the camera on its side
        exif[0x010F] = "Camera"
        self.upload(photograph((3200, 1600), exif))
        with Image.open(Story.objects.get(text="Again.").picture) as picture:
            self.assertEqual((picture.format, picture.size), ("WEBP", (800, 1600)))
            self.assertFalse(picture.getexif())

    def test_other_formats(self) -> None:
        for kind in ["PNG", "GIF", "WEBP"]:
            with self.subTest(kind):
                self.assertEqual(self.upload(photograph(kind=kind)).status_code, 302)

    def test_what_is_no_picture_is_refused(self) -> None:
        whole = photograph((400, 300))
        for content in [b"#!/bin/sh", whole[: len(whole) // 2], b""]:
            response = self.upload(content)
            self.assertTrue(response.context["form"].errors["picture"])

    def test_too_many_pixels_are_refused_before_they_are_drawn(self) -> None:
        with mock.patch("budget.forms.MOST_PIXELS", 1000):
            self.assertContains(self.upload(photograph()), "too many pixels")

    def test_an_edit_keeps_it_or_takes_it_away(self) -> None:
        address = self.upload(photograph()).url
        name = Story.objects.get(text="Again.").picture.name
        self.client.post(address + "edit/", self.filled_in())
        self.assertEqual(Story.objects.get(text="Again.").picture.name, name)
        self.client.post(address + "edit/", self.filled_in(**{"picture-clear": "on"}))
        self.assertFalse(Story.objects.get(text="Again.").picture)
