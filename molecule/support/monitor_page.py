"""The monitor's own page: what it says, and what can be seen of it in a browser."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import requests
from fixtures import Page
from target import Target

from controller.browser import Browser

# Whatever sticks out of the screen on either side, and the page itself if it can be scrolled sideways.
OVERFLOWS = """(() => {
  const wide = document.documentElement.clientWidth;
  const out = [...document.querySelectorAll('body *')].filter(element => {
    const box = element.getBoundingClientRect();
    return box.width > 0 && getComputedStyle(element).display !== 'none' && (box.right > wide + 1 || box.left < -1);
  }).map(element =>
    element.tagName + '.' + element.getAttribute('class') + ': ' + element.textContent.trim().slice(0, 60));
  const width = document.documentElement.scrollWidth;
  return width > wide ? out.concat('the page: ' + width) : out;
})()"""


def await_status(
    visitor: requests.Session,
    page: Page,
    target: Target,
    condition: Callable[[dict[str, Any]], bool],
    what: str,
) -> None:
    """Await that status.json, which is written with the page, is as it should be: condition(its content)."""

    def status() -> dict[str, Any]:
        content: dict[str, Any] = visitor.get(f"{page.url}status.json", auth=page.auth, timeout=10).json()
        return content

    target.wait(lambda: condition(status()), what, 60)


def html(window: Browser) -> str:
    """The page as the browser has it now."""
    return str(window.value("document.documentElement.outerHTML"))


def verdict(shown: str) -> tuple[str, str, str]:
    """(heading of the page, class of the heading, reasons as text)."""
    first = re.search(r'<p class="verdict (\w+)" id="verdict">([^<]*)</p>', shown)
    reasons = re.search(r'<ul class="reasons told">(.*?)</ul>', shown, re.S)
    assert first and reasons, shown
    return first[2], first[1], re.sub("<[^>]+>", "", reasons[1])


def assert_red(window: Browser, page: Page, problems: Mapping[str, str], off: str) -> None:
    """Assert how the page names and colours hosts with problems on a phone, and that nothing overflows.

    problems: {host: its problem}; off: the host that has another colour, since it does not answer.
    """
    window.size(390, 844)
    window.open(page.url)
    shown = html(window)
    _heading, kind, reasons = verdict(shown)
    assert kind == "bad"
    for host, problem in problems.items():
        state = "silent" if host == off else "wrong"
        assert f"{host}: {problem}" in reasons
        assert f'<article id="{host}" class="{state}">' in shown
        assert f'class="box {state}"><title>{host}: ' in shown
    assert window.value(OVERFLOWS) == []
    window.leave()
