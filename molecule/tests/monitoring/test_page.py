"""The monitor's page as people see it: whole, old, on a phone; and the site, by somebody who signs in. With faults: test_monitoring.py."""

import re
import secrets
import struct
import time
from typing import Any

import monitor_page
import pytest
import requests
from fixtures import Page
from target import Target
from tier import Tier, search

from controller.browser import Browser

AGE = r'<span id="age">, \d+ s ago</span>'


@pytest.mark.parametrize("path", ["", "status.json", "index.html", "munin/"])
def test_the_page_requires_the_password(visitor: requests.Session, page: Page, path: str) -> None:
    assert visitor.get(page.url + path, timeout=10).status_code == 401
    assert visitor.get(page.url + path, auth=("munin", "wrong"), timeout=10).status_code == 401


def test_the_page_is_current_and_not_cached(visitor: requests.Session, page: Page, tier: Tier) -> None:
    answer = visitor.get(page.url, auth=page.auth, timeout=10)
    assert (
        answer.status_code == 200
        and answer.headers["Cache-Control"] == "no-store"
        and answer.headers["Content-Type"].startswith("text/html")
    )
    told = visitor.get(page.url + "status.json", auth=page.auth, timeout=10).json()
    assert abs(time.time() - told["at"]) < 60 and set(told["hosts"]) == set(tier.hosts("all"))


def test_the_page_renders_and_loads_no_external_resource(
    window: Browser, page: Page, tier: Tier, target: Target
) -> None:
    """Its script runs under its policy; nothing comes from elsewhere."""
    target.await_healthy()
    window.size(1280, 1600)
    window.open(page.url)

    def well() -> Any:
        shown = monitor_page.html(window)
        return monitor_page.verdict(shown)[:2] == ("All is well", "good") and re.search(AGE, shown) and shown

    shown = target.wait(well, "well tier, and a script that runs", 60)
    for name in tier.hosts("all"):
        assert f'id="{name}"' in shown and f">{name}</text>" in shown
    assert f"holds {target.facts['lb_vip']}" in shown
    assert re.search(
        rf'<article id="{target.primary()}" class="ok"><h3>{target.primary()} <small>primary</small>', shown
    )
    asked = target.wait(
        lambda: window.value("performance.getEntriesByType('resource').map(one => one.name)"),
        "question of the script",
        10,
    )
    assert set(asked) == {page.url}, asked
    assert window.value("document.querySelectorAll('[src], link[rel=stylesheet]').length") == 0
    path = tier.state / "page.png"
    path.unlink(missing_ok=True)
    window.picture(path)
    picture = path.read_bytes()
    assert picture.startswith(b"\x89PNG") and struct.unpack(">I", picture[16:20]) == (1280,) and len(picture) > 20000


def test_links_of_the_page_answer(visitor: requests.Session, page: Page, target: Target) -> None:
    target.on(target.groups["monitor"][0], "systemctl start goaccess")  # what its timer does every few minutes
    shown = visitor.get(page.url, auth=page.auth, timeout=10).text
    links = dict(re.findall(r'<a href="/([^"]+)">([^<]+)</a>', search("<nav>(.*?)</nav>", shown, re.S)[1]))
    assert sorted(links.values()) == ["Logs", "Munin", "Nagios"]
    assert {
        path: visitor.get(page.url + path, auth=page.auth, timeout=10).status_code for path in links
    } == dict.fromkeys(links, 200)


def test_an_outdated_page_is_marked_as_blind(page: Page, target: Target, window: Browser) -> None:
    """An open page notices by itself; so does one that is opened now."""
    monitor = target.groups["monitor"][0]
    window.open(page.url)
    target.on(
        monitor,
        "systemctl stop status-page && "
        'sed -i \'s/data-at="[0-9]*"/data-at="1000000000"/\' /var/lib/status-page/index.html',
    )
    try:
        target.wait(lambda: window.value("document.title").startswith("Blind: "), "blind page", 30)
        window.open(page.url)
        target.wait(lambda: monitor_page.verdict(monitor_page.html(window))[:2] == ("Blind", "blind"), "blind page", 30)
        assert window.value("getComputedStyle(document.querySelector('.blindness')).display") == "block"
    finally:
        target.on(monitor, "systemctl start status-page")
    target.wait(lambda: not window.value("document.title").startswith("Blind: "), "page that sees again", 60)
    assert window.value("getComputedStyle(document.querySelector('.blindness')).display") == "none"


@pytest.mark.parametrize("width", [360, 390, 768, 1280])
def test_no_element_overflows_the_screen(window: Browser, page: Page, tier: Tier, width: int) -> None:
    window.size(width, 844)
    window.open(page.url)
    window.picture(tier.state / f"page-{width}.png")
    assert window.value(monitor_page.OVERFLOWS) == []
    shown = "narrow" if width <= 640 else "wide"
    pictures = "[...document.querySelectorAll('svg')].filter(one => one.getBoundingClientRect().width > 0)"
    assert window.value(f"{pictures}.map(one => one.getAttribute('class'))") == [shown]
    # The smallest letters of the picture, as large as they are on this screen.
    assert (
        window.value(
            "Math.min(...[...document.querySelectorAll('svg.%s .sub')].map(one => one.getBoundingClientRect().height))"
            % shown
        )
        >= 10
    )


def test_a_visitor_signs_in(tier: Tier, target: Target, chromium: Browser) -> None:
    """With a browser's own forms, cookies and redirects, through every hop."""
    password = secrets.token_urlsafe(12)
    target.on(target.groups["app"][0], f"echo {password} | /usr/local/bin/manage create_editor --username browser")
    try:
        chromium.open(f"{tier.url}/accounts/login/?next=/accounts/")
        chromium.value(
            f"document.querySelector('[name=username]').value = 'browser'; document.querySelector('[name=password]').value = '{password}'"
        )
        chromium.go(lambda: chromium.value("document.querySelector('main form button').click()"))
        assert chromium.value("location.pathname") == "/accounts/" and "Sign out" in chromium.value(
            "document.body.textContent"
        )
        chromium.open(f"{tier.url}/budget/stories/")
        assert chromium.value("location.pathname") == "/budget/stories/", "still signed in, on whichever host"
        assert (
            chromium.value("getComputedStyle(document.body).fontFamily")
            and chromium.value("document.styleSheets.length") >= 1
        )
        chromium.open(f"{tier.url}/accounts/")
        chromium.go(lambda: chromium.value("document.querySelector('main form button').click()"))
        chromium.open(f"{tier.url}/accounts/")
        assert chromium.value("location.pathname") == "/accounts/login/"
    finally:
        target.manage(
            target.groups["app"][0],
            "from django.contrib.auth import get_user_model; get_user_model().objects.filter(username='browser').delete()",
        )
