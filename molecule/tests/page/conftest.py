"""What the tests in a browser share."""

import types
import urllib.parse

import pytest

import browser


@pytest.fixture(scope="session", autouse=True)
def chromium(request):
    """Debian's Chromium, installed if it is not there."""
    browser.install(request.config.get_terminal_writer().line)


@pytest.fixture(scope="module")
def page(tier):
    """The monitor's page: url, the same with the password in it, auth for requests, host."""
    monitor = tier.hosts("monitor")[0]
    port, password = tier.value("monitor_port"), tier.value("munin_password", host=monitor)
    place = tier.address(monitor) + ("" if port == 443 else f":{port}")  # as a browser spells it
    return types.SimpleNamespace(url=f"https://{place}/", opened=f"https://munin:{urllib.parse.quote(password, safe='')}@{place}/",
                                 auth=("munin", password), host=monitor)


@pytest.fixture
def window(page):
    """A browser that knows the page's password."""
    with browser.Browser() as one:
        one.login(*page.auth)
        yield one


@pytest.fixture(autouse=True)
def unbroken(place):
    """Whole before and after."""
    place.whole()
    yield
    place.whole()
