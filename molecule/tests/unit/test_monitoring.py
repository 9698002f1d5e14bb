"""Every check has an alarm with its fault and texts for the runbook; limits are compared and notifications sent correctly."""

import json
import pathlib
from typing import Any

import pytest
from repository import ROOT, load, program

MONITORING = load(ROOT / "group_vars/all/monitoring.yml")
RUNBOOK = load(ROOT / "group_vars/all/runbook.yml")["nagios_runbook"]
CHECKS = {*MONITORING["nagios_checks"], "host", "tier"}  # a host's own, and the monitor's way to the tier


import alarms

check_munin = program("roles/nagios/files/check_munin")
notify = program("roles/nagios/files/nagios-notify")


def test_every_check_has_a_drill() -> None:
    drilled = {alarm.check for wave in alarms.WAVES.values() for alarm in wave}
    assert drilled == CHECKS


def test_every_check_has_texts_for_the_runbook() -> None:
    assert set(RUNBOOK) == CHECKS
    for check, texts in RUNBOOK.items():
        assert set(texts) == {"meaning", "remedy"} and all(texts.values()), check


def test_alarms_name_the_notified_contacts() -> None:
    declared = {name: check["tells"] for name, check in MONITORING["nagios_checks"].items()}
    declared |= dict.fromkeys(("host", "tier"), MONITORING["nagios_host_tells"])
    for wave in alarms.WAVES.values():
        for alarm in wave:
            assert [alarm.contact] == declared[alarm.check], alarm.check


def needed(check: str) -> set[str]:
    """All checks elsewhere without which one says nothing."""
    names = {
        need for need, scope in MONITORING["nagios_checks"].get(check, {}).get("needs", {}).items() if scope != "here"
    }
    return names.union(*map(needed, names))


@pytest.mark.parametrize("name", alarms.WAVES)
def test_no_fault_of_a_wave_suppresses_the_alarm_of_another(name: str) -> None:
    checks = {alarm.check for alarm in alarms.WAVES[name]}
    assert {check: needed(check) & checks for check in checks if needed(check) & checks} == {}


def test_contacts_and_needs_are_declared() -> None:
    contacts = MONITORING["nagios_contacts"]
    for name, check in MONITORING["nagios_checks"].items():
        assert set(check["tells"]) <= set(contacts), name
        assert set(check.get("needs", {})) <= set(MONITORING["nagios_checks"]), name
        assert set(check) <= {"of", "run", "each", "tells", "needs", "slow"}, name
    for step in MONITORING["nagios_escalations"]:
        assert {step["from"], step["tells"]} <= set(contacts)


def test_remedies_contain_no_macro_of_nagios() -> None:
    """Nagios expands $NAME$ in notes."""
    assert [check for check, texts in RUNBOOK.items() if "$" in texts["remedy"]] == []


@pytest.mark.parametrize(
    ("value", "limit", "why"),
    [
        (5, "5", ""),
        (6, "5", "at most 5"),
        (5, ":5", ""),
        (6, ":5", "at most 5"),
        (5, "5:", ""),
        (4, "5:", "at least 5"),
        (1, "1:1", ""),
        (0, "1:1", "at least 1"),
        (2, "1:1", "at most 1"),
        (-4, "-3:3", "at least -3"),
        (1, "", ""),
        (0, "-1", "at most -1"),
    ],
)
def test_limits_are_those_of_munin(value: int, limit: str, why: str) -> None:
    assert check_munin.breach(value, limit) == why


@pytest.mark.parametrize(
    ("figures", "fields", "state", "output"),
    [
        ({"a": {"value": "1", "warning": "2", "critical": "3"}}, [], check_munin.OK, ""),
        ({"a": {"value": "2.5", "warning": "2", "critical": "3"}}, [], check_munin.WARNING, "a is 2.5, at most 2"),
        (
            {"a": {"value": "4", "warning": "2", "critical": "3", "label": "all", "extinfo": "because"}},
            [],
            check_munin.CRITICAL,
            "all is 4, at most 3: because",
        ),
        ({"a": {"value": "9", "critical": "3"}, "b": {"value": "1"}}, ["b"], check_munin.OK, ""),
        ({"a": {"value": "9", "critical": "3", "type": "DERIVE"}}, [], check_munin.OK, ""),
        ({"a": {"value": "U", "critical": "3"}, "b": {"value": "1"}}, [], check_munin.OK, ""),
        ({"a": {"value": "U", "critical": "3"}}, ["a"], check_munin.UNKNOWN, "a not known"),
        ({}, [], check_munin.CRITICAL, "no answer"),
    ],
)
def test_figures_of_a_plugin_are_compared_with_the_limits(
    figures: dict[str, Any], fields: list[str], state: int, output: str
) -> None:
    result, messages = check_munin.judge(figures, fields)
    assert (result, "; ".join(messages)) == (state, output)


def test_check_munin_takes_options_before_the_address() -> None:
    assert check_munin.arguments(["--critical", "1:", "192.0.2.1", "keepalived.held"]) == (
        4949,
        "1:",
        "192.0.2.1",
        ["keepalived.held"],
    )
    assert check_munin.arguments(["--port", "5000", "--critical", ":5", "192.0.2.1", "a", "b"]) == (
        5000,
        ":5",
        "192.0.2.1",
        ["a", "b"],
    )
    assert check_munin.arguments(["192.0.2.1", "a"]) == (4949, None, "192.0.2.1", ["a"])
    with pytest.raises(SystemExit):
        check_munin.arguments(["--critical", "1:"])


class Said(check_munin.Node):  # type: ignore[name-defined]  # a program, loaded as a module
    """A munin-node that answers from a list, and what it was asked."""

    def __init__(self, **answers: dict[str, Any]) -> None:
        self.answers = answers
        self.commands: list[str] = []

    def answer(self, command: str) -> dict[str, Any]:
        self.commands.append(command)
        return self.answers[command.split()[0]]


@pytest.mark.parametrize(
    ("config", "limits", "commands", "figures"),
    [
        ({"a": {"critical": "3"}}, True, ["config x", "fetch x"], {"a": {"critical": "3", "value": "1"}}),
        ({"a": {"critical": "3", "value": "2"}}, True, ["config x"], {"a": {"critical": "3", "value": "2"}}),
        ({"a": {"critical": "3"}}, False, ["fetch x"], {"a": {"value": "1"}}),
    ],
)
def test_no_plugin_is_run_more_often_than_need_be(
    config: dict[str, Any], limits: bool, commands: list[str], figures: dict[str, Any]
) -> None:
    node = Said(config=config, fetch={"a": {"value": "1"}})
    assert (node.figures("x", limits), node.commands) == (figures, commands)


CONFIG = {
    "environment": "shop test",
    "from": "nagios@shop.test",
    "relay": "smtp://192.0.2.1",
    "url": "https://192.0.2.2",
    "contacts": {
        "oncall": {"email": "oncall@example.com", "webhook": "http://192.0.2.1/"},
        "ops": {"email": "ops@example.com"},
        "hook": {"webhook": "http://192.0.2.1/"},
    },
    "runbook": {"page": "Do this.", "host": "Do that."},
}
GIVEN = {
    "contact": "oncall",
    "type": "PROBLEM",
    "time": "1700000000",
    "host": "tier",
    "address": "192.0.2.9",
    "author": "",
    "comment": "",
    "state": "CRITICAL",
    "number": "2",
    "check": "page",
    "service": "page /x/",
    "output": "pattern not found",
}


def test_an_email_has_the_problem_and_the_remedy() -> None:
    mail = notify.letter(notify.described(GIVEN, CONFIG), CONFIG)
    assert mail["Subject"] == "[shop test] PROBLEM: page /x/ on tier is CRITICAL"
    long = notify.letter(notify.described(GIVEN | {"service": "page /" + "x" * 80}, CONFIG), CONFIG).as_bytes()
    assert b"Subject: [shop test] PROBLEM: page /xxx" in long
    assert mail["To"] == "oncall@example.com"
    text = mail.get_content()
    for line in (
        "pattern not found",
        "Told:        2 times",
        "docs/monitoring.md, page: Do this.",
        "service=page+%2Fx%2F",
    ):
        assert line in text


def test_an_alarm_of_a_host_has_a_line_in_the_runbook() -> None:
    host = {name: value for name, value in GIVEN.items() if name not in ("check", "service")} | {
        "host": "db1",
        "state": "DOWN",
    }
    notification = notify.described(host, CONFIG)
    assert notification["check"] == "host" and notification["runbook"] == "docs/monitoring.md, host: Do that."
    assert notify.letter(notification, CONFIG)["Subject"] == "[shop test] PROBLEM: db1 is DOWN"


@pytest.mark.parametrize(
    ("contact", "relay", "ways"),
    [
        ("oncall", "smtp://192.0.2.1", ["email", "webhook"]),
        ("oncall", "", ["webhook"]),
        ("ops", "", []),
        ("hook", "smtp://192.0.2.1", ["webhook"]),
        ("nobody", "smtp://192.0.2.1", []),
    ],
)
def test_a_contact_is_notified_by_every_configured_way(contact: str, relay: str, ways: list[str]) -> None:
    assert notify.ways(contact, CONFIG | {"relay": relay}) == ways


def test_undelivered_notifications_are_kept_and_sent_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    """Oldest first; one way that still fails holds nothing else up; what is a day old is dropped."""
    monkeypatch.setattr(notify, "KEPT", tmp_path)
    monkeypatch.setattr(notify.syslog, "syslog", lambda *args: None)
    now = [1700000100.0]
    monkeypatch.setattr(notify.time, "time", lambda: now[0])
    open_ways, sent = set(), []

    def deliver(way: str, notification: dict[str, Any], _config: dict[str, Any]) -> None:
        if way not in open_ways:
            raise OSError("closed")
        sent.append((way, notification["number"]))

    monkeypatch.setattr(notify, "deliver", deliver)
    for number in ("1", "2"):
        notification = notify.described(GIVEN | {"number": number}, CONFIG)
        for way in notify.ways("oncall", CONFIG):
            assert not notify.attempt(way, notification, CONFIG)
            notify.keep(way, notification)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}
    open_ways.add("webhook")
    assert not notify.retry(CONFIG)
    assert sent == [("webhook", 1), ("webhook", 2)]
    open_ways.add("email")
    assert notify.retry(CONFIG)
    assert sent[2:] == [("email", 1), ("email", 2)] and list(tmp_path.iterdir()) == []
    notify.keep("email", notify.described(GIVEN, CONFIG))
    now[0] += notify.KEPT_S + 1
    assert notify.retry(CONFIG) and sent[4:] == [] and list(tmp_path.iterdir()) == []


def test_a_webhook_gets_plain_json() -> None:
    notification = json.loads(json.dumps(notify.described(GIVEN, CONFIG)))
    assert notification["number"] == 2 and notification["environment"] == "shop test"
    assert notification["url"].startswith("https://192.0.2.2/cgi-bin/nagios4/extinfo.cgi?type=2&host=tier")
    assert notification["runbook_url"] == "https://192.0.2.2/runbook#page"
