from django.test import Client, TestCase


class VisitsTests(TestCase):
    def test_every_visit_counts_and_every_visitor_alone(self) -> None:
        for visits in [1, 2, 3]:
            self.assertEqual(self.client.get("/visits/?format=json").json(), {"visits": visits})
        self.assertEqual(Client().get("/visits/?format=json").json(), {"visits": 1})

    def test_the_page_and_that_nobody_keeps_it(self) -> None:
        response = self.client.get("/visits/")
        self.assertContains(response, "first visit")
        self.assertIn("no-store", response["Cache-Control"])
