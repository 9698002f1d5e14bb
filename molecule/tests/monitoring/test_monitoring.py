"""Nagios watches what the inventory has, tells the right people what is wrong and nobody anything else, and is missed when it does not."""

import re
import time

import alarms
import monitor_page
import pytest
import requests
from fixtures import Inject, Page, Web
from nagios import Nagios, Service
from sinks import Notification
from target import Target
from tier import Tier

from controller.browser import Browser

SINGLE, CUT_OFF = "of single hosts", "of the monitor"  # waves with more to see than their alarms


def services(nagios: Nagios) -> dict[str, set[str]]:
    """{host: its checks}."""
    found: dict[str, set[str]] = {}
    for host, service in nagios.declared:
        found.setdefault(host, set()).add(service.split()[0])
    return found


def test_nagios_checks_the_hosts_of_the_inventory(nagios: Nagios, target: Target, tier: Tier) -> None:
    declared = tier.value("nagios_checks", nagios.host)
    known = services(nagios)
    assert set(known) == {"tier", *target.groups["all"]}
    for host in target.groups["all"]:
        tiers = {group for group, members in target.groups.items() if host in members} | {"all"}
        assert known[host] == {name for name, check in declared.items() if check["of"] in tiers}, host
    assert known["tier"] == {name for name, check in declared.items() if check["of"] == "tier"}


def test_every_check_of_a_healthy_environment_is_ok(nagios: Nagios) -> None:
    """Every check asks what it should, or it could not be content."""
    assert nagios.problems() == {}
    assert set(nagios.status()) == {*nagios.declared, *((host, "") for host in services(nagios))}


def numbers(nagios: Nagios, since: float, host: str, check: str, contact: str) -> list[Notification]:
    """Which mails about a problem a contact got."""
    return [
        one
        for one in list(nagios.sinks.received)
        if (one.way, one.contact, one.type, one.host, one.check) == ("email", contact, "PROBLEM", host, check)
        and one.at >= since
    ]


def acknowledge(visitor: requests.Session, web: Web, host: str, check: str) -> None:
    """Say on the page that somebody is on it, as a browser does."""
    url, login = web
    form = visitor.get(f"{url}/cgi-bin/nagios4/cmd.cgi?cmd_typ=34&host={host}&service={check}", auth=login, timeout=10)
    assert form.status_code == 200
    hidden = dict(re.findall(r"(?i)name='(nagFormId)' value='(\w+)'", form.text))
    done = visitor.post(
        f"{url}/cgi-bin/nagios4/cmd.cgi",
        auth=login,
        timeout=10,
        headers={"Referer": form.url},
        data={
            "cmd_typ": "34",
            "cmd_mod": "2",
            "host": host,
            "service": check,
            "sticky_ack": "on",
            "send_notification": "on",
            "com_data": "on it, don't wait $(exit 1)",
            "btnSubmit": "Commit",
            **hidden,
        },
    )
    assert done.status_code == 200 and "successfully submitted" in done.text, done.text[-1500:]


def test_faults_of_single_hosts_raise_alarms(
    nagios: Nagios,
    target: Target,
    tier: Tier,
    inject: Inject,
    visitor: requests.Session,
    web: Web,
    page: Page,
    window: Browser,
) -> None:
    """The right contacts are told, and nobody about children. The page is red within a minute. An alarm is repeated, the third time to somebody
    else as well, until it is acknowledged."""
    [step] = tier.value("nagios_escalations", nagios.host)
    host, check = target.groups["db"][0], "reboot"
    escalated = target.groups["cache"][-1], "cache"
    with inject(SINGLE) as wave:
        off, cache, app = target.groups["media"][-1], target.groups["cache"][-1], target.groups["app"][-1]
        wrong = {off: "does not answer at all", cache: "its memcached does not answer", app: "the site does not answer"}
        monitor_page.await_status(
            visitor,
            page,
            target,
            lambda status: all(
                any(one["host"] == name and one["why"].startswith(why) for one in status["wrong"])
                for name, why in wrong.items()
            ),
            "red page",
        )
        assert time.time() - wave.started < 60
        wave.await_alarms()

        def unrepeated() -> dict[Service, str]:
            left = (
                {} if len(numbers(nagios, wave.started, host, check, "ops")) >= 2 else {(host, check): "not repeated"}
            )
            return (
                left
                if numbers(nagios, wave.started, *escalated, step["tells"])
                else left | {escalated: "not escalated"}
            )

        nagios.check_until_none(unrepeated, "repetition")
        third = numbers(nagios, wave.started, *escalated, step["tells"])[0].at
        assert (
            len([one for one in numbers(nagios, wave.started, *escalated, step["from"]) if one.at < third - 5])
            == step["after"] - 1
        )

        acknowledge(visitor, web, host, check)
        target.wait(
            lambda: any(
                one.type == "ACKNOWLEDGEMENT" and one.host == host and "on it" in one.text
                for one in list(nagios.sinks.received)
            ),
            "acknowledgement",
            60,
        )
        acknowledged = time.time()
        monitor_page.assert_red(window, page, wrong, off)
        # Twice it would have been repeated.
        while time.time() < acknowledged + 2 * tier.value("monitor_repeat_s", nagios.host) + 5:
            nagios.check_now((host, check))
            time.sleep(4)  # between two looks that could repeat it
        assert numbers(nagios, acknowledged + 1, host, check, "ops") == []
    monitor_page.await_status(
        visitor, page, target, lambda status: status["state"] == "well", "page that finds all well"
    )


@pytest.mark.parametrize("name", [name for name in alarms.WAVES if name not in (SINGLE, CUT_OFF)])
def test_faults_and_repairs_are_notified(inject: Inject, name: str) -> None:
    """The right contacts are told by every way they have, with what to do; children are silent; the recovery is told."""
    with inject(name) as wave:
        wave.await_alarms()


def beat(nagios: Nagios) -> bool:
    """Have a heartbeat, as the timer does every minute; whether one came."""
    before = len(nagios.sinks.heartbeats)
    nagios.on("systemctl start nagios-heartbeat.service")
    return len(nagios.sinks.heartbeats) > before


def test_a_timer_sends_the_heartbeat(nagios: Nagios, target: Target) -> None:
    """It has, while others tested, or it will."""
    target.wait(lambda: nagios.sinks.heartbeats, "heartbeat of the timer", 90)


def test_an_isolated_monitor_keeps_alarms_and_sends_no_heartbeat(nagios: Nagios, inject: Inject) -> None:
    """It tells of nobody but itself, once it can, and has no heartbeat while it cannot."""
    with inject(CUT_OFF) as wave:
        wave.await_alarms()
        nagios.target.wait(lambda: nagios.on("find /var/lib/nagios-notify -name '[0-9]*'"), "alarm that is kept", 60)
        assert not beat(nagios)
        assert nagios.on("ls /var/lib/nagios-heartbeat") == ""
    assert nagios.on("find /var/lib/nagios-notify -name '[0-9]*'") == ""
    assert beat(nagios)


def test_the_heartbeat_stops_without_nagios(nagios: Nagios, visitor: requests.Session, web: Web) -> None:
    """Neither while it is frozen nor while it is off."""

    def alive() -> int:
        """What an outside service is told, without a password."""
        return visitor.get(f"{web[0]}/heartbeat", timeout=10).status_code

    def await_beat(wanted: bool) -> None:
        deadline = time.monotonic() + 120
        while beat(nagios) != wanted:
            assert time.monotonic() < deadline, f"heartbeat: {not wanted}"
            time.sleep(2)  # between two looks with a deadline
        assert alive() == (200 if wanted else 503)

    await_beat(True)
    for fault, mend in (("kill --signal=STOP", "kill --signal=CONT"), ("stop", "start")):
        nagios.on(f"systemctl {fault} nagios4")
        try:
            await_beat(False)
        finally:
            nagios.on(f"systemctl {mend} nagios4")
        await_beat(True)
    # Whoever asks has no way to know that nobody writes the time any more, but this.
    nagios.on("systemctl stop nagios-heartbeat.timer && touch --date '4 minutes ago' /var/lib/nagios-heartbeat/alive")
    assert alive() == 503
    nagios.on("systemctl start nagios-heartbeat.timer")
    await_beat(True)
    nagios.await_no_problems()


def test_a_flapping_service_is_notified_once(nagios: Nagios) -> None:
    host, check = nagios.host, "graphs"
    nagios.await_no_problems()
    begun = time.time()
    nagios.command("ENABLE_FLAP_DETECTION")

    def heard(kind: str) -> list[Notification]:
        return [
            one
            for one in list(nagios.sinks.received)
            if (one.type, one.host, one.check) == (kind, host, check) and one.at >= begun
        ]

    def check_repeatedly(age: int, times: int) -> None:
        nagios.on(f"touch --date '{age} minutes ago' /var/lib/munin/datafile")
        for _ in range(times):
            nagios.check_now((host, check))
            time.sleep(0.6)  # so that each look counts

    def until(kind: str, *rounds: tuple[int, int]) -> None:
        deadline = time.monotonic() + 90
        while not heard(kind):
            assert time.monotonic() < deadline, f"no {kind}"
            for one in rounds:
                check_repeatedly(*one)

    until("FLAPPINGSTART", (120, 3), (0, 1))  # as many as it takes to be sure, and one that is well
    flaps = heard("FLAPPINGSTART")[0].at
    until("FLAPPINGSTOP", (0, 3))
    assert len(heard("FLAPPINGSTART")) == len(heard("FLAPPINGSTOP")) == 1
    settled = heard("FLAPPINGSTOP")[0].at
    assert [one for kind in ("PROBLEM", "RECOVERY") for one in heard(kind) if flaps + 2 < one.at < settled - 1] == []


def test_pages_of_nagios_require_the_password(visitor: requests.Session, web: Web) -> None:
    url, login = web
    for path in (
        "/cgi-bin/nagios4/status.cgi?host=all",
        "/cgi-bin/nagios4/cmd.cgi",
        "/nagios4/images/logofullsize.png",
    ):
        assert visitor.get(url + path, timeout=10).status_code == 401
        assert visitor.get(url + path, auth=("munin", "wrong"), timeout=10).status_code == 401
    assert visitor.get(f"{url}/nagios4/", auth=login, timeout=10).status_code == 200


def test_the_runbook_has_a_section_for_every_check(visitor: requests.Session, web: Web, nagios: Nagios) -> None:
    url, login = web
    assert visitor.get(f"{url}/runbook", timeout=10).status_code == 401
    shown = visitor.get(f"{url}/runbook", auth=login, timeout=10)
    assert shown.status_code == 200 and shown.headers["Content-Type"].startswith("text/html")
    assert re.findall(r'<section id="(\w+)">', shown.text) == list(nagios.runbook)
    assert "&lt;code" not in shown.text and "<code>make reboot LIMIT=HOST</code>" in shown.text


def test_the_status_page_of_nagios_lists_every_host(visitor: requests.Session, web: Web, target: Target) -> None:
    url, login = web
    shown = visitor.get(f"{url}/cgi-bin/nagios4/status.cgi?host=all&limit=0", auth=login, timeout=10)
    assert shown.status_code == 200
    assert [host for host in target.groups["all"] if f"host={host}&" not in shown.text] == []


def test_no_secret_of_nagios_is_world_readable(nagios: Nagios, tier: Tier) -> None:
    """Who may send to the webhook is nobody's business on the host."""
    for path in ("/etc/nagios4/notify.json", "/etc/msmtprc", "/etc/nagios4/heartbeat.env"):
        assert nagios.on(f"stat -c %a {path}")[-1] == "0"
    assert tier.value("monitor_webhook", nagios.host) not in nagios.on(
        "cat /etc/nagios4/tier.cfg /var/lib/nagios4/objects.cache"
    )
