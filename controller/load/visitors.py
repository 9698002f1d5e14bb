"""Visitors, for Locust. What they ask for is in the file that LOAD_PLAN names: controller/commands/load.py writes it.

A visitor asks for one thing, reads for a while, and asks for the next, over connections that stay open. All who are signed in share a session:
signing in costs the site more than anything else, on purpose, and is not what is measured.
"""

import datetime
import json
import os
import pathlib
import random
import re
import urllib.parse
from typing import Any

import gevent.socket
from locust import FastHttpUser, between, events, task

PLAN = json.loads(pathlib.Path(os.environ["LOAD_PLAN"]).read_text(encoding="utf-8"))
KINDS, WEIGHTS = zip(*PLAN["mix"].items())
resolve = gevent.socket.getaddrinfo


def at_the_virtual_ip(host: str, *arguments: Any, **options: Any) -> Any:
    """The site's name is the virtual IP's, whatever a resolver knows."""
    return resolve(PLAN["address"] if host == PLAN["name"] else host, *arguments, **options)


gevent.socket.getaddrinfo = at_the_virtual_ip


@events.init.add_listener
def of_each_tier(environment: Any, **_more: Any) -> None:
    """Count each request once more, for the tier that answers it: the percentiles of several kinds cannot be put together afterwards."""

    def count(name: str, response_time: float, response_length: int, exception: Exception | None, **_more: Any) -> None:
        row = environment.stats.get(PLAN["tiers"][name], "tier")
        row.log(response_time, response_length)
        if exception:
            row.log_error(exception)

    environment.events.request.add_listener(count)


class Visitor(FastHttpUser):
    """One visitor."""

    host = PLAN["origin"]
    wait_time = between(*PLAN["pause"])
    connection_timeout = network_timeout = PLAN["patience"]

    @task
    def visit(self) -> None:
        """Ask for one thing."""
        getattr(self, random.choices(KINDS, WEIGHTS)[0])()

    def get(self, kind: str, path: str, **headers: str) -> None:
        """Ask for a path. Anything but the thing itself is a failure."""
        with self.client.get(path, name=kind, headers=headers, allow_redirects=False, catch_response=True) as answer:
            if answer.status_code != 200:
                answer.failure(f"{answer.status_code} {path}")

    def page(self) -> None:
        """A page, as anybody sees it."""
        self.get("page", random.choice(PLAN["pages"]))

    def static(self) -> None:
        """A static file."""
        self.get("static", random.choice(PLAN["statics"]))

    def media(self) -> None:
        """An upload."""
        self.get("media", random.choice(PLAN["uploads"]))

    def session(self) -> None:
        """A page for those who are signed in."""
        self.get("session", random.choice(PLAN["session"]), Cookie=PLAN["cookies"])
        self.client.cookiejar.clear()

    def change(self) -> None:
        """A form that is sent."""
        change = PLAN["change"]
        today = datetime.date.today().isoformat()
        fields = {name: str(value).replace("{today}", today) for name, value in change["fields"].items()}
        token = re.search(r"csrftoken=(\w+)", PLAN["cookies"])
        fields["csrfmiddlewaretoken"] = token[1] if token else ""
        headers = {
            "Cookie": PLAN["cookies"],
            "Referer": f"{self.host}{change['page']}",
            "Content-Type": "application/x-www-form-urlencoded",
        }
        with self.client.post(
            change["page"],
            urllib.parse.urlencode(fields),
            name="change",
            headers=headers,
            allow_redirects=False,
            catch_response=True,
        ) as answer:
            # A form that is not taken is shown again.
            if answer.status_code not in (302, 303) or PLAN["sign_in_page"] in (answer.headers.get("Location") or ""):
                answer.failure(f"{answer.status_code} {change['page']}")
            else:
                answer.success()
        self.client.cookiejar.clear()
