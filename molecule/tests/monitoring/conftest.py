"""What the tests of the alarms and of the monitor's page share: Nagios, who receives its notifications, and a browser."""

import contextlib
import json
import urllib.parse
from collections.abc import Iterator

import pytest
from fixtures import Inject, Page, Web
from nagios import SPOOL, Nagios, Wave
from sinks import Sinks
from target import Target
from tier import Tier

from controller import browser


@pytest.fixture(scope="session")
def sinks(tier: Tier) -> Iterator[Sinks]:
    """The servers that the environment's relay, webhook and heartbeat name."""
    monitor = tier.hosts("monitor")[0]
    if not tier.value("monitor_relay", monitor):
        pytest.skip(f"{tier.name} tells nobody: there is no monitor_relay")
    addresses = [
        urllib.parse.urlsplit(tier.value(name, monitor))
        for name in ("monitor_relay", "monitor_webhook", "monitor_heartbeat")
    ]
    mail, web, beat = [(address.hostname or "", address.port or 0) for address in addresses]
    assert web == beat
    with contextlib.closing(Sinks(mail, web)) as servers:
        yield servers


@pytest.fixture(scope="session")
def nagios(target: Target, tier: Tier, sinks: Sinks) -> Iterator[Nagios]:
    """Nagios without problems. What breaks wave after wave does not flap: that has a test of its own."""
    monitor = tier.hosts("monitor")[0]
    target.gateway = tier.value("monitor_gateway", monitor)
    target.await_healthy()
    nagios = Nagios(target, sinks, json.loads(target.on(monitor, "cat /etc/nagios4/notify.json"))["runbook"])
    nagios.command("DISABLE_FLAP_DETECTION")
    nagios.await_no_problems()
    nagios.on(f"find {SPOOL} -type f -delete")
    sinks.received.clear()
    yield nagios
    nagios.command("ENABLE_FLAP_DETECTION")


@pytest.fixture
def inject(nagios: Nagios, tier: Tier) -> Inject:
    """with inject("between hosts") as wave: its faults are there; afterwards they are repaired, and the alarms were right."""

    @contextlib.contextmanager
    def inject(name: str) -> Iterator[Wave]:
        nagios.await_no_problems()
        wave = Wave(nagios, name)
        try:
            wave.inject()
            yield wave
        except BaseException:
            wave.repair()
            raise
        wave.await_recoveries()
        wave.assert_notified(tier.value("nagios_contacts", nagios.host))
        nagios.target.await_healthy()

    return inject


@pytest.fixture(scope="session")
def web(tier: Tier) -> Web:
    """The pages' address and login."""
    monitor = tier.hosts("monitor")[0]
    port = tier.value("monitor_port")
    address = tier.address(monitor) + ("" if port == 443 else f":{port}")  # as a browser spells it
    return f"https://{address}", ("munin", tier.value("monitor_password", host=monitor))


@pytest.fixture(scope="session")
def page(web: Web) -> Page:
    """The monitor's own page."""
    return Page(url=f"{web[0]}/", auth=web[1])


@pytest.fixture(scope="session")
def chromium(request: pytest.FixtureRequest, tier: Tier) -> Iterator[browser.Browser]:
    """Debian's Chromium, installed if it is not there: one for all tests. It finds the site and the monitor."""
    browser.install(request.config.get_terminal_writer().line)
    monitor = tier.address(tier.hosts("monitor")[0])
    vip, name = tier.value("lb_vip", "lb[0]"), urllib.parse.urlsplit(tier.url).hostname or ""
    with browser.Browser(
        browser.trusted(monitor, monitor, int(tier.value("monitor_port")), tier.authority),
        browser.trusted(name, vip, int(tier.value("lb_https_port", "lb[0]")), tier.authority),
    ) as chromium:
        yield chromium


@pytest.fixture
def window(chromium: browser.Browser, page: Page) -> Iterator[browser.Browser]:
    """The browser, which knows the page's password meanwhile."""
    chromium.login(*page.auth)
    yield chromium
    chromium.logout()
