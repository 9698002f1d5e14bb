"""Nagios watches what the inventory has, tells the right people what is wrong and nobody anything else, and is missed when it does not."""

import json
import re
import time

import pytest

import alarms

BUDGET = 200  # seconds that a group's alarms may take, and as many its recoveries


def services(nagios):
    """{host: its checks}."""
    found = {}
    for host, service in nagios.known:
        found.setdefault(host, set()).add(service.split()[0])
    return found


def test_exactly_the_hosts_of_the_inventory_are_watched(nagios, place, tier):
    declared = tier.value("nagios_checks", nagios.host)
    known = services(nagios)
    assert set(known) == {"tier", *place.groups["all"]}
    for host in place.groups["all"]:
        tiers = {group for group, members in place.groups.items() if host in members} | {"all"}
        assert known[host] == {name for name, check in declared.items() if check["of"] in tiers}, host
    assert known["tier"] == {name for name, check in declared.items() if check["of"] == "tier"}


def test_all_is_well(nagios):
    """Every check asks what it should, or it could not be content."""
    status = nagios.status()
    assert {pair: said["plugin_output"] for pair, said in status.items() if said["current_state"] != "0"} == {}
    assert set(status) == {*nagios.known, *((host, "") for host in services(nagios))}


def expected(place, group, kind):
    """The alarms of a group as (contact, type, host, check)."""
    return {(alarm.tells, kind, host, alarm.check) for alarm in group for host in alarm.where(place)}


def strangers(nagios, told, since, wanted, group):
    """Alarms that a group's faults should not have caused."""
    may = {check for alarm in group for check in alarm.may}
    known = {(host, check) for _contact, _type, host, check in wanted}
    contacts = {(contact, host, check) for contact, _type, host, check in wanted}
    found = []
    for one in told:
        if one.at < since or one.check in may:
            continue
        escalated = one.contact == "lead" and (one.host, one.check) in known
        if not escalated and (one.contact, one.host, one.check) not in contacts:
            found.append(f"{one.contact} {one.type} {one.service or 'host'} on {one.host}: {one.text[:300]}")
    return sorted(set(found))


@pytest.mark.parametrize("name", alarms.GROUPS)
def test_alarms(nagios, place, tier, name):
    """The right contact is told by every way it has, with what to do; children are silent; the recovery is told."""
    group = alarms.GROUPS[name]
    nagios.well()
    begun = time.time()
    problems, recoveries = expected(place, group, "PROBLEM"), expected(place, group, "RECOVERY")
    silent = {pair for alarm in group if alarm.silent for host, check in alarm.silent(place) for pair in nagios.services(host, check)}
    loud = {pair for _contact, _type, host, check in problems for pair in nagios.services(host, check)}
    broken = [(alarm, host) for alarm in group if alarm.fault for host in (alarm.at or alarm.where)(place)]
    done = []
    deaf = any(alarm.deaf for alarm in group)
    try:
        for alarm, host in broken:
            alarm.fault(place, host)
            done.append((alarm, host))
        if not deaf:
            nagios.await_told(problems, "alarm", begun, BUDGET)
        # Those who have to be silent do fail, and Nagios knows it.
        nagios.await_failing(silent | (loud if deaf else set()), BUDGET)
    finally:
        mended = time.time()
        for alarm, host in reversed(done):
            alarm.mend(place, host)
    if deaf:
        nagios.on("systemctl start nagios-heartbeat.service")
        nagios.await_told(problems, "alarm that was kept", begun, BUDGET)
    nagios.await_told(recoveries, "recovery", mended, BUDGET)
    nagios.well()
    told = list(nagios.sinks.told)
    assert strangers(nagios, told, begun, problems, group) == []
    assert {(one.contact, one.type, one.host, one.check) for one in told} >= problems
    contacts = tier.value("nagios_contacts", nagios.host)
    for contact, kind, host, check in problems | recoveries:
        mine = [one for one in told if (one.contact, one.type, one.host, one.check) == (contact, kind, host, check) and one.at >= begun]
        assert {one.way for one in mine} >= {way for way in ("email", "webhook") if contacts[contact].get(way)}, (contact, kind, host, check)
        for one in mine:
            text = json.loads(one.text)["runbook"] if one.way == "webhook" else " ".join(one.text.split())
            assert f"docs/monitoring.md, {check}: {nagios.runbook[check]}" in text, one.text
    place.whole()


@pytest.fixture
def broken(nagios, place):
    """A check that fails, looked at every few seconds, and since when: (host, check, time)."""
    nagios.well()
    host, check = place.groups["app"][0], "reboot"
    usual = nagios.status()[host, check]["check_interval"].partition(".")[0]
    begun = time.time()
    nagios.order(f"CHANGE_NORMAL_SVC_CHECK_INTERVAL;{host};{check};5")
    place.on(host, "touch /run/reboot-required")
    yield host, check, begun
    place.on(host, "rm -f /run/reboot-required")
    nagios.order(f"CHANGE_NORMAL_SVC_CHECK_INTERVAL;{host};{check};{usual}", f"REMOVE_SVC_ACKNOWLEDGEMENT;{host};{check}")
    nagios.well()


def numbers(nagios, since, host, check, contact, way="email"):
    """Which notifications of a problem a contact got."""
    return [one for one in list(nagios.sinks.told)
            if (one.way, one.contact, one.type, one.host, one.check) == (way, contact, "PROBLEM", host, check) and one.at >= since]


def test_repeats_until_acknowledged_on_the_page(nagios, place, tier, visitor, web, broken):
    host, check, begun = broken
    nagios.await_told({("ops", "PROBLEM", host, check)}, "alarm", begun)
    place.wait(lambda: len(numbers(nagios, begun, host, check, "ops")) >= 2, "repetition", 120)
    url, login = web
    form = visitor.get(f"{url}/cgi-bin/nagios4/cmd.cgi?cmd_typ=34&host={host}&service={check}", auth=login, timeout=10)
    assert form.status_code == 200
    hidden = dict(re.findall(r"(?i)name='(nagFormId)' value='(\w+)'", form.text))
    done = visitor.post(f"{url}/cgi-bin/nagios4/cmd.cgi", auth=login, timeout=10, headers={"Referer": form.url},
                        data={"cmd_typ": "34", "cmd_mod": "2", "host": host, "service": check, "sticky_ack": "on", "send_notification": "on",
                              "com_data": "on it", "btnSubmit": "Commit", **hidden})
    assert done.status_code == 200 and "successfully submitted" in done.text, done.text[-1500:]
    place.wait(lambda: any(one.type == "ACKNOWLEDGEMENT" and one.host == host and "on it" in one.text for one in list(nagios.sinks.told)),
               "acknowledgement", 60)
    acknowledged = time.time()
    time.sleep(3 * tier.value("monitor_repeat_s", nagios.host))  # in which it would have been repeated
    assert numbers(nagios, acknowledged + 1, host, check, "ops") == []


def test_somebody_else_is_told_in_the_end(nagios, place, tier):
    """The third time, and not before."""
    [step] = tier.value("nagios_escalations", nagios.host)
    host, check = place.groups["media"][0], "files"
    nagios.well()
    begun = time.time()
    nagios.order(f"CHANGE_NORMAL_SVC_CHECK_INTERVAL;{host};{check};5")
    place.on(host, "systemctl stop lighttpd")
    try:
        nagios.await_told({(step["tells"], "PROBLEM", host, check)}, "escalation", begun)
        first = numbers(nagios, begun, host, check, step["tells"])[0].at
        before = [one for one in numbers(nagios, begun, host, check, step["from"]) if one.at < first - 5]
        assert len(before) == step["after"] - 1
    finally:
        place.on(host, "systemctl start lighttpd")
        nagios.order(f"CHANGE_NORMAL_SVC_CHECK_INTERVAL;{host};{check};{tier.value('monitor_check_s', nagios.host)}")
        nagios.look((host, check))
    nagios.await_told({(step["tells"], "RECOVERY", host, check), (step["from"], "RECOVERY", host, check)}, "recovery", begun)
    nagios.well()


def test_what_changes_all_the_time_is_told_once(nagios, place):
    host, check = place.groups["cache"][-1], "clock"
    nagios.well()
    begun = time.time()

    def said(*states):
        for state in states:
            nagios.order(f"PROCESS_SERVICE_CHECK_RESULT;{host};{check};{state};drill")
            time.sleep(0.4)  # so that each result counts

    def heard(kind):
        return [one for one in list(nagios.sinks.told) if (one.type, one.host, one.check) == (kind, host, check) and one.at >= begun]
    said(*[2, 2, 2, 0] * 10)
    place.wait(lambda: heard("FLAPPINGSTART"), "word that it flaps", 60)
    flaps = heard("FLAPPINGSTART")[0].at
    said(*[0] * 24)
    place.wait(lambda: heard("FLAPPINGSTOP"), "word that it has settled", 60)
    assert len(heard("FLAPPINGSTART")) == len(heard("FLAPPINGSTOP")) == 1
    assert [one for kind in ("PROBLEM", "RECOVERY") for one in heard(kind) if one.at > flaps + 1] == []
    nagios.well()


def beat(nagios):
    """Have a heartbeat, as the timer does every minute; whether one came."""
    before = len(nagios.sinks.beats)
    nagios.on("systemctl start nagios-heartbeat.service")
    return len(nagios.sinks.beats) > before


@pytest.fixture
def alive(nagios, place, visitor, web):
    """alive() is the status of what an outside service may ask, without a password."""
    nagios.well()
    yield lambda: visitor.get(f"{web[0]}/heartbeat", timeout=10).status_code
    nagios.on("systemctl kill --signal=CONT nagios4; systemctl start nagios4")
    deadline = time.monotonic() + 120
    while not beat(nagios):
        assert time.monotonic() < deadline, "no heartbeat"
        time.sleep(3)  # between two looks with a deadline
    nagios.well()


def test_the_heartbeat_goes_on_by_itself(nagios, place, alive):
    assert beat(nagios) and alive() == 200
    before = len(nagios.sinks.beats)
    place.wait(lambda: len(nagios.sinks.beats) > before, "heartbeat of the timer", 90)


@pytest.mark.parametrize("fault", ["systemctl stop nagios4", "systemctl kill --signal=STOP nagios4"], ids=["stopped", "frozen"])
def test_no_heartbeat_without_nagios(nagios, place, tier, alive, fault):
    assert beat(nagios) and alive() == 200
    nagios.on(fault)
    deadline = time.monotonic() + 120
    while beat(nagios):
        assert time.monotonic() < deadline, "it beats on"
        time.sleep(3)  # between two looks with a deadline
    assert alive() == 404


def test_no_heartbeat_while_nobody_can_be_told(nagios, place, alive):
    """And nothing is lost."""
    host, check = place.groups["db"][0], "units"
    begun = time.time()
    nagios.sinks.closed = True
    place.on(host, "systemd-run --quiet --unit=alarm false")
    try:
        nagios.await_failing({(host, check)})
        place.wait(lambda: nagios.on("find /var/lib/nagios-notify -name '[0-9]*'"), "alarm that is kept", 60)
        nagios.on("systemctl start nagios-heartbeat.service")
        assert alive() == 404
    finally:
        nagios.sinks.closed = False
        place.on(host, "systemctl reset-failed alarm.service")
    assert beat(nagios) and alive() == 200
    assert numbers(nagios, begun, host, check, "ops")
    assert nagios.on("find /var/lib/nagios-notify -name '[0-9]*'") == ""
    nagios.await_told({("ops", "RECOVERY", host, check)}, "recovery", begun)


def test_pages_ask_for_the_password(visitor, web):
    url, login = web
    for path in ("/cgi-bin/nagios4/status.cgi?host=all", "/cgi-bin/nagios4/cmd.cgi", "/nagios4/images/logofullsize.png"):
        assert visitor.get(url + path, timeout=10).status_code == 401
        assert visitor.get(url + path, auth=("munin", "wrong"), timeout=10).status_code == 401
    assert visitor.get(f"{url}/nagios4/", auth=login, timeout=10).status_code == 200


def test_the_page_shows_every_host(visitor, web, place):
    url, login = web
    page = visitor.get(f"{url}/cgi-bin/nagios4/status.cgi?host=all&limit=0", auth=login, timeout=10)
    assert page.status_code == 200
    assert [host for host in place.groups["all"] if f"host={host}&" not in page.text] == []


def test_no_secret_is_shown(nagios, tier):
    """Who may send to the webhook is nobody's business on the host."""
    for path in ("/etc/nagios4/notify.json", "/etc/msmtprc", "/etc/nagios4/heartbeat.env"):
        assert nagios.on(f"stat -c %a {path}")[-1] == "0"
    assert tier.value("monitor_webhook", nagios.host) not in nagios.on("cat /etc/nagios4/tier.cfg /var/lib/nagios4/objects.cache")
