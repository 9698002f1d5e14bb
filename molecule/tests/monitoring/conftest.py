"""What the tests of the alarms share: Nagios, and those whom it tells."""

import contextlib
import json
import re
import time
import urllib.parse

import pytest

from sinks import Sinks

COMMANDS = "/var/lib/nagios4/rw/nagios.cmd"
SPOOL = "/var/lib/nagios-notify"
AGAIN = 6.0  # seconds after which a look that has not told yet is asked for again


class Nagios:
    """Nagios of the standing tier, and whom it tells."""

    def __init__(self, place, sinks, runbook):
        self.place, self.sinks, self.runbook = place, sinks, runbook
        self.host = place.groups["monitor"][0]

    def on(self, command, check=True):
        """Run a command on the monitor."""
        return self.place.on(self.host, command, check=check)

    def order(self, *commands):
        """Give Nagios commands, as its pages do."""
        now = int(time.time())
        lines = "".join(f"[{now}] {command}\\n" for command in commands)
        self.on(f"timeout 10 sh -c \"printf '{lines}' > {COMMANDS}\"")

    def look(self, *pairs):
        """Have it look at (host, service) now; ("db1", "") is the host itself."""
        now = int(time.time())
        self.order(*(f"SCHEDULE_FORCED_SVC_CHECK;{host};{service};{now}" if service else f"SCHEDULE_FORCED_HOST_CHECK;{host};{now}"
                     for host, service in pairs))

    def status(self):
        """{(host, service): what Nagios knows of it}, as of a few seconds ago; the service of a host itself is ""."""
        found = {}
        for kind, body in re.findall(r"(?m)^(host|service)status \{\n(.*?)^\t\}", self.on("cat /var/lib/nagios4/status.dat", check=False) or "", re.S):
            said = dict(line.strip().split("=", 1) for line in body.splitlines() if "=" in line)
            found[said["host_name"], said["service_description"] if kind == "service" else ""] = said
        return found

    def services(self, host, check):
        """The services of a check on a host, as (host, service)."""
        if check in ("host", "tier"):
            return [(host, "")]
        return [pair for pair in self.known if pair[0] == host and pair[1].split()[:1] == [check]]

    @property
    def known(self):
        """Every (host, service) that is declared."""
        declared = re.findall(r"(?m)^define service \{\n\s+use +watched\n\s+host_name +(\S+)\n\s+service_description +(.+)$",
                              self.on("cat /etc/nagios4/tier.cfg"))
        return [(host, service) for hosts, service in declared for host in hosts.split(",")]

    def failing(self, pairs):
        """Those of some (host, service) that Nagios knows to fail, and is sure of."""
        status = self.status()
        return [pair for pair in pairs if pair in status and status[pair]["current_state"] != "0" and status[pair]["state_type"] == "1"]

    def well(self, seconds=300, anew=False):
        """Await that it finds nothing wrong, having looked at everything anew where that is wanted."""
        since, asked = time.time() if anew else 1, 0.0

        def ailing():
            nonlocal asked
            status = self.status()
            late = [pair for pair, said in status.items() if int(said["last_check"]) < since or said["current_state"] != "0" or said["is_flapping"] != "0"]
            if late and time.monotonic() - asked > 4 * AGAIN:
                self.look(*late)
                asked = time.monotonic()
            return "; ".join(f"{host} {service}: {status[host, service]['plugin_output']}" for host, service in late[:20])
        self.place.await_nothing(ailing, "Nagios that finds all well", seconds)

    def await_told(self, wanted, what, since, seconds=200):
        """Await alarms (contact, type, host, check), and have it look at what has not told yet again and again."""
        asked = 0.0

        def missing():
            nonlocal asked
            heard = {(t.contact, t.type, t.host, t.check) for t in self.sinks.told if t.at >= since}
            left = [one for one in wanted if one not in heard]
            if left and time.monotonic() - asked > AGAIN:
                self.look(*{pair for _contact, _type, host, check in left for pair in self.services(host, check)})
                asked = time.monotonic()
            return str(left) if left else ""
        self.place.await_nothing(missing, what, seconds)

    def await_failing(self, pairs, seconds=200):
        """Await that it is sure of the failure of each (host, service)."""
        asked = 0.0

        def unsure():
            nonlocal asked
            left = set(pairs) - set(self.failing(pairs))
            if left and time.monotonic() - asked > AGAIN:
                self.look(*left)
                asked = time.monotonic()
            return str(sorted(left)) if left else ""
        self.place.await_nothing(unsure, "failure that nobody is told", seconds)

    def forget(self):
        """Begin with nobody told."""
        self.on(f"find {SPOOL} -type f -delete")
        self.sinks.told.clear()


@pytest.fixture(scope="session")
def sinks(tier):
    """Those whom the environment's relay, webhook and heartbeat name."""
    monitor = tier.hosts("monitor")[0]
    if not tier.value("monitor_relay", monitor):
        pytest.skip(f"{tier.name} tells nobody: there is no monitor_relay")
    addresses = [urllib.parse.urlsplit(tier.value(name, monitor)) for name in ("monitor_relay", "monitor_webhook", "monitor_heartbeat")]
    mail, web, beat = [(address.hostname, address.port) for address in addresses]
    assert web == beat
    with contextlib.closing(Sinks(mail, web)) as found:
        yield found


@pytest.fixture(scope="session")
def nagios(place, tier, sinks):
    """Nagios, with all well."""
    monitor = tier.hosts("monitor")[0]
    place.gateway = tier.value("monitor_gateway", monitor)
    place.whole()
    found = Nagios(place, sinks, json.loads(place.on(monitor, "cat /etc/nagios4/notify.json"))["runbook"])
    found.forget()
    found.well(anew=True)
    return found


@pytest.fixture(scope="session")
def web(tier):
    """The pages' address and login."""
    monitor = tier.hosts("monitor")[0]
    return f"https://{tier.address(monitor)}:{tier.value('monitor_port')}", ("munin", tier.value("munin_password", host=monitor))
