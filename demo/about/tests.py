import doctest
import socket
import unittest
from unittest import mock

from django.test import SimpleTestCase

from . import identity


def load_tests(loader: unittest.TestLoader, tests: unittest.TestSuite, ignore: str | None) -> unittest.TestSuite:
    tests.addTests(doctest.DocTestSuite(identity))
    return tests


class AboutTests(SimpleTestCase):  # "simple": it may not use the database
    @mock.patch.dict("os.environ", SITE_RELEASE="2009.07", SITE_NODE="app1")
    def test_what_the_environment_says(self) -> None:
        self.assertEqual(self.client.get("/about/?format=json").json(), {"release": "2009.07", "node": "app1"})
        self.assertContains(self.client.get("/about/"), "2009.07")

    @mock.patch.dict("os.environ", SITE_RELEASE="", SITE_NODE="")
    def test_without_a_word_from_the_environment(self) -> None:
        answer = self.client.get("/about/?format=json").json()
        self.assertEqual(answer, {"release": "development", "node": socket.gethostname()})

    def test_nobody_keeps_it(self) -> None:
        self.assertIn("no-store", self.client.get("/about/")["Cache-Control"])
