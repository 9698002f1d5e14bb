"""The monitor's page as people see it: whole, with a fault, old, on a phone; and the site, by somebody who signs in."""

import re
import secrets
import struct
import time

import pytest

import browser

# Whatever sticks out of the screen on either side, and the page itself if it can be pushed aside.
OVERFLOWS = """(() => {
  const wide = document.documentElement.clientWidth;
  const out = [...document.querySelectorAll('body *')].filter(one => {
    const place = one.getBoundingClientRect();
    return place.width > 0 && getComputedStyle(one).display !== 'none' && (place.right > wide + 1 || place.left < -1);
  }).map(one => one.tagName + '.' + one.getAttribute('class') + ': ' + one.textContent.trim().slice(0, 60));
  return document.documentElement.scrollWidth > wide ? out.concat('the page: ' + document.documentElement.scrollWidth) : out;
})()"""


AGE = r'<span id="age">, \d+ s ago</span>'


def verdict(shown):
    """(the page's first words, their class, its reasons as text)."""
    kind, words = re.search(r'<p class="verdict (\w+)" id="verdict">([^<]*)</p>', shown).groups()
    return words, kind, re.sub("<[^>]+>", "", re.search(r'<ul class="reasons told">(.*?)</ul>', shown, re.S)[1])


def await_page(page, condition, what, seconds=60):
    """The page's HTML, as a browser has it, once it is as it should be."""
    deadline = time.monotonic() + seconds
    while True:
        shown = browser.dom(page.opened)
        if condition(shown):
            return shown
        assert time.monotonic() < deadline, f"no {what} within {seconds} s: {verdict(shown)}"
        time.sleep(1)  # between two looks at a condition with a deadline


@pytest.mark.parametrize("path", ["", "status.json", "index.html", "munin/"])
def test_nobody_sees_it_without_the_password(visitor, page, path):
    assert visitor.get(page.url + path, timeout=10).status_code == 401
    assert visitor.get(page.url + path, auth=("munin", "wrong"), timeout=10).status_code == 401


def test_it_is_new_and_nobody_keeps_it(visitor, page, tier):
    answer = visitor.get(page.url, auth=page.auth, timeout=10)
    assert answer.status_code == 200 and answer.headers["Cache-Control"] == "no-store" and answer.headers["Content-Type"].startswith("text/html")
    told = visitor.get(page.url + "status.json", auth=page.auth, timeout=10).json()
    assert abs(time.time() - told["at"]) < 60 and set(told["hosts"]) == set(tier.hosts("all"))


def test_it_renders(page, tier, place):
    shown = await_page(page, lambda shown: verdict(shown)[:2] == ("All is well", "good") and re.search(AGE, shown), "well tier, and a script that runs")
    for name in tier.hosts("all"):
        assert f'id="{name}"' in shown and f">{name}</text>" in shown
    assert "primary" in shown and f"holds {place.facts['lb_vip']}" in shown
    path = tier.state / "page.png"
    path.unlink(missing_ok=True)
    browser.chromium("--window-size=1280,1600", "--virtual-time-budget=3000", f"--screenshot={path}", page.opened)
    picture = path.read_bytes()
    assert picture.startswith(b"\x89PNG") and struct.unpack(">I", picture[16:20]) == (1280,) and len(picture) > 20000


def test_it_asks_nobody_else(window, page):
    """Nothing comes from elsewhere, and what is shown is what is there now."""
    window.open(page.url)
    asked = window.value("new Promise(told => setTimeout(() => told(performance.getEntriesByType('resource').map(one => one.name)), 2000))")
    assert asked and set(asked) == {page.url}, asked
    assert window.value("document.querySelectorAll('[src], link[rel=stylesheet]').length") == 0


def test_its_links_lead_somewhere(visitor, page, place):
    place.on(page.host, "systemctl start goaccess")  # what its timer does every few minutes
    shown = visitor.get(page.url, auth=page.auth, timeout=10).text
    links = dict(re.findall(r'<a href="/([^"]+)">([^<]+)</a>', re.search("<nav>(.*?)</nav>", shown, re.S)[1]))
    assert sorted(links.values()) == ["Logs", "Munin", "Nagios"]
    assert {path: visitor.get(page.url + path, auth=page.auth, timeout=10).status_code for path in links} == dict.fromkeys(links, 200)


def test_it_turns_red_within_a_minute_of_a_fault_and_back(page, place):
    cache = place.groups["cache"][-1]
    place.on(cache, "systemctl stop memcached")
    try:
        shown = await_page(page, lambda shown: verdict(shown)[1] == "bad", "red page")
        assert f"{cache}: its memcached does not answer" in verdict(shown)[2]
        assert re.search(rf'<article id="{cache}" class="wrong">', shown)
        assert re.search(rf'class="box wrong"><title>{cache}: ', shown)
    finally:
        place.on(cache, "systemctl start memcached")
    await_page(page, lambda shown: verdict(shown)[1] == "good", "well tier")


def test_it_names_a_host_that_is_off_and_who_is_primary(page, place):
    media = place.groups["media"][-1]
    place.kill(media)
    try:
        shown = await_page(page, lambda shown: f'<article id="{media}" class="silent">' in shown, "silent host")
        assert f"{media}: does not answer at all" in verdict(shown)[2]
    finally:
        place.start(media)
    place.whole()
    shown = await_page(page, lambda shown: verdict(shown)[1] == "good", "well tier")
    assert re.search(rf'<article id="{place.primary()}" class="ok"><h3>{place.primary()} <small>primary</small>', shown)


def test_it_is_blind_when_it_is_old(page, place, window):
    """An open page notices by itself; so does one that is opened now."""
    window.open(page.url)
    place.on(page.host, "systemctl stop status-page.timer status-page.service && "
                        "sed -i 's/data-at=\"[0-9]*\"/data-at=\"1000000000\"/' /var/lib/status-page/index.html")
    try:
        await_page(page, lambda shown: verdict(shown)[:2] == ("Blind", "blind"), "blind page", 30)
        place.wait(lambda: window.value("document.title").startswith("Blind: "), "blind page", 30)
        assert window.value("getComputedStyle(document.querySelector('.blindness')).display") == "block"
    finally:
        place.on(page.host, "systemctl start status-page.timer")
    place.wait(lambda: not window.value("document.title").startswith("Blind: "), "page that sees again", 60)
    assert window.value("getComputedStyle(document.querySelector('.blindness')).display") == "none"


@pytest.mark.parametrize("width", [360, 390, 768, 1280])
def test_nothing_overflows(window, page, tier, width):
    window.size(width, 844)
    window.open(page.url)
    window.picture(tier.state / f"page-{width}.png")
    assert window.value(OVERFLOWS) == []
    shown = "narrow" if width <= 640 else "wide"
    pictures = "[...document.querySelectorAll('svg')].filter(one => one.getBoundingClientRect().width > 0)"
    assert window.value(f"{pictures}.map(one => one.getAttribute('class'))") == [shown]
    # The smallest letters of the picture, as large as they are on this screen.
    assert window.value("Math.min(...[...document.querySelectorAll('svg.%s .sub')].map(one => one.getBoundingClientRect().height))" % shown) >= 10


def test_nothing_overflows_when_much_is_wrong(window, page, place):
    """Reasons are longer than names."""
    stopped = {place.groups["cache"][-1]: "memcached", place.groups["media"][-1]: "lighttpd"}
    for host, unit in stopped.items():
        place.on(host, f"systemctl stop {unit}")
    try:
        await_page(page, lambda shown: all(f"{host}: its {unit} does not answer" in verdict(shown)[2] for host, unit in stopped.items()), "red page")
        window.size(390, 844)
        window.open(page.url)
        assert window.value(OVERFLOWS) == []
    finally:
        for host, unit in stopped.items():
            place.on(host, f"systemctl start {unit}")


def test_a_visitor_signs_in(tier, place):
    """With a browser's own forms, cookies and redirects, through every hop."""
    password = secrets.token_urlsafe(12)
    place.on(place.groups["app"][0], f"echo {password} | /usr/local/bin/manage create_editor --username browser")
    try:
        with browser.Browser() as one:
            one.open(f"{tier.url}/accounts/login/?next=/accounts/")
            one.value(f"document.querySelector('[name=username]').value = 'browser'; document.querySelector('[name=password]').value = '{password}'")
            one.go(lambda: one.value("document.querySelector('main form button').click()"))
            assert one.value("location.pathname") == "/accounts/" and "Sign out" in one.value("document.body.textContent")
            one.open(f"{tier.url}/budget/stories/")
            assert one.value("location.pathname") == "/budget/stories/", "still signed in, on whichever host"
            assert one.value("getComputedStyle(document.body).fontFamily") and one.value("document.styleSheets.length") >= 1
            one.open(f"{tier.url}/accounts/")
            one.go(lambda: one.value("document.querySelector('main form button').click()"))
            one.open(f"{tier.url}/accounts/")
            assert one.value("location.pathname") == "/accounts/login/"
    finally:
        place.manage(place.groups["app"][0], "from django.contrib.auth import get_user_model; get_user_model().objects.filter(username='browser').delete()")
