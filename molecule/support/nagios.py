"""Nagios of a standing tier, and waves of faults that it has to alarm about."""

import concurrent.futures
import functools
import json
import re
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import alarms
from alarms import Alarm
from sinks import Notification, Sinks
from target import Target

COMMANDS = "/var/lib/nagios4/rw/nagios.cmd"
SPOOL = "/var/lib/nagios-notify"
CHECK_AGAIN_S = 6.0  # seconds after which what is awaited is checked again
BUDGET_S = 200  # seconds that a wave's alarms may take, and as many its recoveries

Service = tuple[str, str]  # (host, service); the service of a host itself is ""
Expected = tuple[str, str, str, str]  # an alarm: (contact, type, host, check)


class Nagios:
    """Nagios of the standing tier, and who receives its notifications."""

    def __init__(self, target: Target, sinks: Sinks, runbook: Mapping[str, str]) -> None:
        self.target, self.sinks, self.runbook = target, sinks, runbook
        self.host = target.groups["monitor"][0]

    def on(self, command: str) -> str:
        """Output of a shell command on the monitor. Exits where it fails."""
        return self.target.on(self.host, command)

    def command(self, *commands: str) -> None:
        """Give Nagios external commands, as its pages do."""
        now = int(time.time())
        lines = "".join(f"[{now}] {command}\\n" for command in commands)
        self.on(f"timeout 10 sh -c \"printf '{lines}' > {COMMANDS}\"")

    def check_now(self, *services: Service) -> None:
        """Have Nagios check (host, service) now; ("db1", "") is the host itself."""
        now = int(time.time())
        self.command(
            *(
                f"SCHEDULE_FORCED_SVC_CHECK;{host};{service};{now}"
                if service
                else f"SCHEDULE_FORCED_HOST_CHECK;{host};{now}"
                for host, service in services
            )
        )

    def status(self) -> dict[Service, dict[str, str]]:
        """{(host, service): its fields of status.dat}, as of a few seconds ago."""
        status = {}
        text = self.target.try_on(self.host, "cat /var/lib/nagios4/status.dat") or ""
        for kind, body in re.findall(r"(?m)^(host|service)status \{\n(.*?)^\t\}", text, re.S):
            fields = dict(line.strip().split("=", 1) for line in body.splitlines() if "=" in line)
            status[fields["host_name"], fields["service_description"] if kind == "service" else ""] = fields
        return status

    @functools.cached_property
    def declared(self) -> list[Service]:
        """Every (host, service) that is declared."""
        declared = re.findall(
            r"(?m)^define service \{\n\s+use +watched\n\s+host_name +(\S+)\n\s+service_description +(.+)$",
            self.on("cat /etc/nagios4/tier.cfg"),
        )
        return [(host, service) for hosts, service in declared for host in hosts.split(",")]

    def services(self, host: str, check: str) -> list[Service]:
        """The services of a check on a host, or the service of that name."""
        if check in ("host", "tier"):
            return [(host, "")]
        services = [pair for pair in self.declared if pair[0] == host and check in (pair[1], pair[1].split()[0])]
        assert services, f"nothing checks {check} of {host}"
        return services

    def check_until_none(
        self, remaining: Callable[[], Mapping[Service, Any]], what: str, seconds: float = BUDGET_S
    ) -> None:
        """Check again and again what remaining() has, {(host, service): what is missing}, until that is empty."""
        deadline, checked = time.monotonic() + seconds, 0.0
        while waiting := remaining():
            assert time.monotonic() < deadline, f"no {what} within {seconds} s: {dict(list(waiting.items())[:20])}"
            if time.monotonic() - checked > CHECK_AGAIN_S:
                self.check_now(*waiting)
                checked = time.monotonic()
            time.sleep(1)  # between two checks of a condition with a deadline

    def not_received(self, expected: set[Expected], since: float) -> dict[Service, str]:
        """{(host, service): alarm} of the expected alarms that have not arrived since a moment."""
        received = {(n.contact, n.type, n.host, n.check) for n in list(self.sinks.received) if n.at >= since}
        return {
            pair: f"{kind} to {contact}"
            for contact, kind, host, check in expected - received
            for pair in self.services(host, check)
        }

    def not_failed(self, services: Iterable[Service]) -> dict[Service, str | None]:
        """{(host, service): plugin output} of those that are no hard failure in Nagios."""
        status = self.status()
        return {
            pair: fields.get("plugin_output")
            for pair in services
            if (fields := status.get(pair, {})).get("current_state", "0") == "0" or fields["state_type"] != "1"
        }

    def problems(self) -> dict[Service, str | None]:
        """{(host, service): plugin output} of all services with a problem, or without a check."""
        status = self.status()
        return {
            pair: status.get(pair, {}).get("plugin_output")
            for pair in {*self.declared, *status}
            if status.get(pair, {}).get("current_state") != "0" or status[pair]["has_been_checked"] == "0"
        }

    def await_no_problems(self) -> None:
        """Await that Nagios has no problems."""
        self.check_until_none(self.problems, "Nagios without problems")


def in_parallel(act: Callable[[Alarm, str], object], pairs: Iterable[tuple[Alarm, str]]) -> None:
    """Do act(alarm, host) for all pairs in parallel. Raises the first error, once all have ended."""
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        futures = [threads.submit(act, *pair) for pair in pairs]
    for future in futures:
        future.result()


class Wave:
    """The faults of a wave, and the alarms that have to arrive."""

    def __init__(self, nagios: Nagios, name: str) -> None:
        self.nagios, self.target, self.alarms = nagios, nagios.target, alarms.WAVES[name]
        target = self.target
        self.where = {alarm: alarm.where(target) for alarm in self.alarms}  # before a role moves, while it is broken
        self.problems, self.recoveries = self.expected("PROBLEM"), self.expected("RECOVERY")
        self.silent = self.services(pair for alarm in self.alarms if alarm.silent for pair in alarm.silent(target))
        self.alarming = self.services((host, check) for _contact, _type, host, check in self.problems)
        self.undeliverable = any(alarm.undeliverable for alarm in self.alarms)
        self.faults = [
            (alarm, host) for alarm in self.alarms if alarm.fault for host in (alarm.at or alarm.where)(target)
        ]
        self.injected: list[tuple[Alarm, str]] = []
        self.started, self.repaired = time.time(), float("inf")

    def expected(self, kind: str) -> set[Expected]:
        """The alarms of a type that have to arrive."""
        return {(alarm.contact, kind, host, alarm.check) for alarm in self.alarms for host in self.where[alarm]}

    def services(self, pairs: Iterable[tuple[str, str]]) -> set[Service]:
        """The services of some (host, check)."""
        return {pair for host, check in pairs for pair in self.nagios.services(host, check)}

    def inject(self) -> None:
        """Inject all faults, and have Nagios check."""

        def inject(alarm: Alarm, host: str) -> None:
            assert alarm.fault
            alarm.fault(self.target, host)
            self.injected.append((alarm, host))

        in_parallel(inject, self.faults)
        self.nagios.check_now(*self.alarming)

    def repair(self) -> None:
        """Repair what was broken."""

        def repair(alarm: Alarm, host: str) -> None:
            assert alarm.repair
            alarm.repair(self.target, host)

        injected, self.injected = self.injected, []
        in_parallel(repair, injected)

    def await_alarms(self) -> None:
        """Await that all alarms arrive, and that what has to be silent has failed in Nagios."""
        if self.undeliverable:
            self.nagios.check_until_none(lambda: self.nagios.not_failed(self.alarming), "failure that cannot be sent")
        else:
            self.nagios.check_until_none(lambda: self.nagios.not_received(self.problems, self.started), "alarm")
        self.nagios.check_until_none(lambda: self.nagios.not_failed(self.silent), "failure without an alarm")

    def await_recoveries(self) -> None:
        """Repair, and await that all recoveries arrive and Nagios has no problems."""
        since = self.repaired = time.time()
        self.repair()
        if self.undeliverable:
            # Delivers what was kept, as its timer does every minute.
            self.nagios.on("systemctl start nagios-heartbeat.service")
            self.nagios.check_until_none(
                lambda: self.nagios.not_received(self.problems, self.started), "alarm that was kept"
            )
        self.nagios.check_until_none(
            lambda: {**self.nagios.problems(), **self.nagios.not_received(self.recoveries, since)}, "recovery"
        )

    def unexpected(self, received: Iterable[Notification]) -> list[str]:
        """Notifications among those received that the faults should not have caused, as sentences."""
        may = {check for alarm in self.alarms for check in alarm.may}
        after = {check for alarm in self.alarms for check in alarm.after}
        known = {(host, check) for _contact, _type, host, check in self.problems}
        contacts = {(contact, host, check) for contact, _type, host, check in self.problems}
        return sorted(
            {
                f"{n.contact} {n.type} {n.service or 'host'} on {n.host}: {n.text[:300]}"
                for n in received
                if n.check not in may
                and not (n.check in after and n.at >= self.repaired)
                and not (n.contact == "lead" and (n.host, n.check) in known)
                and (n.contact, n.host, n.check) not in contacts
            }
        )

    def assert_notified(self, contacts: Mapping[str, Mapping[str, Any]]) -> None:
        """Assert that the right contacts received the right text, by every way they have, and nothing else was sent."""
        received = [n for n in list(self.nagios.sinks.received) if n.at >= self.started]
        assert self.unexpected(received) == []
        for expected in self.problems | self.recoveries:
            contact, _type, _host, check = expected
            matching = [n for n in received if (n.contact, n.type, n.host, n.check) == expected]
            ways = {way for way in ("email", "webhook") if contacts[contact].get(way)}
            assert {n.way for n in matching} >= ways, expected
            for n in matching:
                text = json.loads(n.text)["runbook"] if n.way == "webhook" else " ".join(n.text.split())
                assert f"docs/monitoring.md, {check}: {self.nagios.runbook[check]}" in text, n.text
                assert f"/runbook#{check}" in n.text
