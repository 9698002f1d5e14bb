"""What the tests of the alarms and of the monitor's page share: Nagios, those whom it tells, and a browser."""

import concurrent.futures
import contextlib
import functools
import json
import re
import time
import types
import urllib.parse

import alarms
import pytest
from sinks import Sinks

from controller import browser

COMMANDS = "/var/lib/nagios4/rw/nagios.cmd"
SPOOL = "/var/lib/nagios-notify"
AGAIN = 6.0  # seconds after which what is awaited is looked at again
BUDGET = 200  # seconds that a wave's alarms may take, and as many its recoveries


class Nagios:
    """Nagios of the standing tier, and whom it tells."""

    def __init__(self, target, sinks, runbook):
        self.target, self.sinks, self.runbook = target, sinks, runbook
        self.host = target.groups["monitor"][0]

    def on(self, command, check=True):
        """Run a command on the monitor."""
        return self.target.on(self.host, command, check=check)

    def order(self, *commands):
        """Give Nagios commands, as its pages do."""
        now = int(time.time())
        lines = "".join(f"[{now}] {command}\\n" for command in commands)
        self.on(f"timeout 10 sh -c \"printf '{lines}' > {COMMANDS}\"")

    def look(self, *pairs):
        """Have it look at (host, service) now; ("db1", "") is the host itself."""
        now = int(time.time())
        self.order(
            *(
                f"SCHEDULE_FORCED_SVC_CHECK;{host};{service};{now}"
                if service
                else f"SCHEDULE_FORCED_HOST_CHECK;{host};{now}"
                for host, service in pairs
            )
        )

    def status(self):
        """{(host, service): what Nagios knows of it}, as of a few seconds ago; the service of a host itself is ""."""
        found = {}
        for kind, body in re.findall(
            r"(?m)^(host|service)status \{\n(.*?)^\t\}",
            self.on("cat /var/lib/nagios4/status.dat", check=False) or "",
            re.S,
        ):
            said = dict(line.strip().split("=", 1) for line in body.splitlines() if "=" in line)
            found[said["host_name"], said["service_description"] if kind == "service" else ""] = said
        return found

    @functools.cached_property
    def known(self):
        """Every (host, service) that is declared."""
        declared = re.findall(
            r"(?m)^define service \{\n\s+use +watched\n\s+host_name +(\S+)\n\s+service_description +(.+)$",
            self.on("cat /etc/nagios4/tier.cfg"),
        )
        return [(host, service) for hosts, service in declared for host in hosts.split(",")]

    def services(self, host, check):
        """The services of a check on a host, or the one of that name, as (host, service)."""
        if check in ("host", "tier"):
            return [(host, "")]
        found = [pair for pair in self.known if pair[0] == host and check in (pair[1], pair[1].split()[0])]
        assert found, f"nobody looks at {check} of {host}"
        return found

    def look_until_none(self, left, what, seconds=BUDGET):
        """Look at (host, service) at once and again and again, until left() has none of them: it is {(host, service): what is missing}."""
        deadline, asked = time.monotonic() + seconds, 0.0
        while waiting := left():
            assert time.monotonic() < deadline, f"no {what} within {seconds} s: {dict(list(waiting.items())[:20])}"
            if time.monotonic() - asked > AGAIN:
                self.look(*waiting)
                asked = time.monotonic()
            time.sleep(1)  # between two looks at a condition with a deadline

    def untold(self, wanted, since):
        """{(host, service): alarm} of alarms (contact, type, host, check) that nobody has heard since a moment."""
        heard = {(one.contact, one.type, one.host, one.check) for one in list(self.sinks.told) if one.at >= since}
        return {
            pair: f"{kind} to {contact}"
            for contact, kind, host, check in wanted - heard
            for pair in self.services(host, check)
        }

    def unsure(self, pairs):
        """{(host, service): what it knows} of those whose failure it does not know, or is not sure of."""
        status = self.status()
        return {
            pair: said.get("plugin_output")
            for pair in pairs
            if (said := status.get(pair, {})).get("current_state", "0") == "0" or said["state_type"] != "1"
        }

    def ailing(self):
        """{(host, service): complaint} of all that it has not found well, or has not looked at."""
        status = self.status()
        return {
            pair: status.get(pair, {}).get("plugin_output")
            for pair in {*self.known, *status}
            if status.get(pair, {}).get("current_state") != "0" or status[pair]["has_been_checked"] == "0"
        }

    def well(self):
        """Await that it finds nothing wrong."""
        self.look_until_none(self.ailing, "Nagios that finds all well")


def at_once(act, pairs):
    """Do act(alarm, host) for all of them at the same time. Raises the first that failed, once all have ended."""
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        ended = [threads.submit(act, *pair) for pair in pairs]
    for one in ended:
        one.result()


class Wave:
    """The faults of a wave, and who is told of them."""

    def __init__(self, nagios, name):
        self.nagios, self.target, self.alarms = nagios, nagios.target, alarms.WAVES[name]
        target = self.target
        self.where = {alarm: alarm.where(target) for alarm in self.alarms}  # who has what moves while it is broken
        self.problems, self.recoveries = self.told("PROBLEM"), self.told("RECOVERY")
        self.silent = self.services(pair for alarm in self.alarms if alarm.silent for pair in alarm.silent(target))
        self.loud = self.services((host, check) for _contact, _type, host, check in self.problems)
        self.deaf = any(alarm.deaf for alarm in self.alarms)
        self.faults = [
            (alarm, host) for alarm in self.alarms if alarm.fault for host in (alarm.at or alarm.where)(target)
        ]
        self.done, self.begun, self.mended = [], time.time(), None

    def told(self, kind):
        """Its alarms of a type, as (contact, type, host, check)."""
        return {(alarm.tells, kind, host, alarm.check) for alarm in self.alarms for host in self.where[alarm]}

    def services(self, pairs):
        """The services of some (host, check)."""
        return {pair for host, check in pairs for pair in self.nagios.services(host, check)}

    def inject(self):
        """Break it all, and have Nagios look."""

        def break_it(alarm, host):
            alarm.fault(self.target, host)
            self.done.append((alarm, host))

        at_once(break_it, self.faults)
        self.nagios.look(*self.loud)

    def mend(self):
        """Mend what was broken."""
        done, self.done = self.done, []
        at_once(lambda alarm, host: alarm.mend(self.target, host), done)

    def await_alarms(self):
        """Await that everybody is told, and that what has to be silent fails, and Nagios knows it."""
        if self.deaf:
            self.nagios.look_until_none(lambda: self.nagios.unsure(self.loud), "failure that nobody can be told")
        else:
            self.nagios.look_until_none(lambda: self.nagios.untold(self.problems, self.begun), "alarm")
        self.nagios.look_until_none(lambda: self.nagios.unsure(self.silent), "failure that nobody is told")

    def await_recoveries(self):
        """Await that everybody is told that all is well, and that it is."""
        since = self.mended = time.time()
        self.mend()
        if self.deaf:
            self.nagios.on(
                "systemctl start nagios-heartbeat.service"
            )  # delivers what was kept, as its timer does every minute
            self.nagios.look_until_none(lambda: self.nagios.untold(self.problems, self.begun), "alarm that was kept")
        self.nagios.look_until_none(
            lambda: self.nagios.ailing() | self.nagios.untold(self.recoveries, since), "recovery"
        )

    def strangers(self, told):
        """Alarms among those told that its faults should not have caused."""
        may, after = ({check for alarm in self.alarms for check in getattr(alarm, kind)} for kind in ("may", "after"))
        known = {(host, check) for _contact, _type, host, check in self.problems}
        contacts = {(contact, host, check) for contact, _type, host, check in self.problems}
        return sorted(
            {
                f"{one.contact} {one.type} {one.service or 'host'} on {one.host}: {one.text[:300]}"
                for one in told
                if one.check not in may
                and not (one.check in after and one.at >= self.mended)
                and not (one.contact == "lead" and (one.host, one.check) in known)
                and (one.contact, one.host, one.check) not in contacts
            }
        )

    def judge(self, contacts):
        """The right contacts were told the right thing, by every way they have, and nobody else was told anything."""
        told = [one for one in list(self.nagios.sinks.told) if one.at >= self.begun]
        assert self.strangers(told) == []
        for contact, kind, host, check in self.problems | self.recoveries:
            mine = [one for one in told if (one.contact, one.type, one.host, one.check) == (contact, kind, host, check)]
            assert {one.way for one in mine} >= {way for way in ("email", "webhook") if contacts[contact].get(way)}, (
                contact,
                kind,
                host,
                check,
            )
            for one in mine:
                text = json.loads(one.text)["runbook"] if one.way == "webhook" else " ".join(one.text.split())
                assert f"docs/monitoring.md, {check}: {self.nagios.runbook[check]}" in text, one.text
                assert f"/runbook#{check}" in one.text


@pytest.fixture(scope="session")
def sinks(tier):
    """Those whom the environment's relay, webhook and heartbeat name."""
    monitor = tier.hosts("monitor")[0]
    if not tier.value("monitor_relay", monitor):
        pytest.skip(f"{tier.name} tells nobody: there is no monitor_relay")
    addresses = [
        urllib.parse.urlsplit(tier.value(name, monitor))
        for name in ("monitor_relay", "monitor_webhook", "monitor_heartbeat")
    ]
    mail, web, beat = [(address.hostname, address.port) for address in addresses]
    assert web == beat
    with contextlib.closing(Sinks(mail, web)) as found:
        yield found


@pytest.fixture(scope="session")
def nagios(target, tier, sinks):
    """Nagios, with all well. What breaks wave after wave does not flap: that has a test of its own."""
    monitor = tier.hosts("monitor")[0]
    target.gateway = tier.value("monitor_gateway", monitor)
    target.await_healthy()
    found = Nagios(target, sinks, json.loads(target.on(monitor, "cat /etc/nagios4/notify.json"))["runbook"])
    found.order("DISABLE_FLAP_DETECTION")
    found.well()
    found.on(f"find {SPOOL} -type f -delete")
    sinks.told.clear()
    yield found
    found.order("ENABLE_FLAP_DETECTION")


@pytest.fixture
def raised(nagios, tier):
    """with raised("between hosts") as wave: its faults are there; afterwards they are mended, and those were told who should be."""

    @contextlib.contextmanager
    def raised(name):
        nagios.well()
        wave = Wave(nagios, name)
        try:
            wave.inject()
            yield wave
        except BaseException:
            wave.mend()
            raise
        wave.await_recoveries()
        wave.judge(tier.value("nagios_contacts", nagios.host))
        nagios.target.await_healthy()

    return raised


@pytest.fixture(scope="session")
def web(tier):
    """The pages' address and login."""
    monitor = tier.hosts("monitor")[0]
    port = tier.value("monitor_port")
    address = tier.address(monitor) + ("" if port == 443 else f":{port}")  # as a browser spells it
    return f"https://{address}", ("munin", tier.value("monitor_password", host=monitor))


@pytest.fixture(scope="session")
def page(web):
    """The monitor's own page: url, auth for requests."""
    return types.SimpleNamespace(url=f"{web[0]}/", auth=web[1])


@pytest.fixture(scope="session")
def chromium(request, tier):
    """Debian's Chromium, installed if it is not there: one for all tests. It finds the site and the monitor."""
    browser.install(request.config.get_terminal_writer().line)
    monitor = tier.address(tier.hosts("monitor")[0])
    vip, name = tier.value("lb_vip", "lb[0]"), urllib.parse.urlsplit(tier.url).hostname
    with browser.Browser(
        browser.trusted(monitor, monitor, int(tier.value("monitor_port")), tier.authority),
        browser.trusted(name, vip, int(tier.value("lb_https_port", "lb[0]")), tier.authority),
    ) as one:
        yield one


@pytest.fixture
def window(chromium, page):
    """The browser, which knows the page's password meanwhile."""
    chromium.login(*page.auth)
    yield chromium
    chromium.logout()
