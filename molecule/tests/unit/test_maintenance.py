"""What make maintenance accepts, what it prints, and the files that balancers compare requests by."""

import argparse
import json
import pathlib
import re
import subprocess
from typing import Any

import jinja2
import pytest
from ansible.module_utils import service_health
from repository import ROOT

from controller import health
from controller.commands import maintenance
from controller.errors import Refused

STATE = {"since": 1_764_543_211, "until": 1_764_543_240, "readonly": False, "message": "Back <soon> & better"}


def request(duration: str = "", message: str = "", readonly: str = "", off: str = "") -> dict[str, Any] | None:
    """What the playbook is given for the arguments of make."""
    return maintenance.request(
        argparse.Namespace(duration=duration, message=message, readonly=readonly, off=off), "ENV=x"
    )


@pytest.mark.parametrize(("duration", "expected"), [("90s", 90), ("20m", 1200), ("2h", 7200)])
def test_durations_are_seconds(duration: str, expected: int) -> None:
    assert maintenance.seconds(duration) == expected


@pytest.mark.parametrize(
    "duration", ["20", "m", "0m", "-5m", "1.5h", "20 m", "2d", "1h30m", "20M", "1234567s", "\u0662h"]
)
def test_other_durations_are_refused(duration: str) -> None:
    with pytest.raises(Refused, match="FOR=90s, FOR=20m or FOR=2h"):
        maintenance.seconds(duration)


def test_arguments_decide_between_on_off_and_printing() -> None:
    assert request() is None
    assert request(off="1") == {}
    assert request("20m", "it's <b>", "1") == {"seconds": 1200, "readonly": True, "message": "it's <b>"}
    assert request("20m") == {"seconds": 1200, "readonly": False, "message": maintenance.MESSAGE}


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"message": "x"}, "make maintenance ENV=x FOR=20m"),
        ({"readonly": "1"}, "For how long?"),
        ({"duration": "20m", "readonly": "yes"}, "READONLY=1 lets visitors read"),
        ({"off": "1", "duration": "20m"}, "takes no FOR"),
        ({"off": "now"}, "OFF=1 ends maintenance"),
        ({"duration": "20m", "message": "x" * 501}, "the most is 500"),
        ({"duration": "20m", "message": "a\nb"}, "on one line"),
        ({"duration": "20m", "message": "{{ lookup('env', 'HOME') }}"}, "a template of Ansible"),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict[str, str], reason: str) -> None:
    with pytest.raises(Refused, match=re.escape(reason)):
        request(**arguments)


def test_a_message_reaches_the_program_as_typed(tmp_path: pathlib.Path) -> None:
    """But for what make expands, which is refused."""
    program = tmp_path / "python"
    program.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    program.chmod(0o755)

    def make(message: str) -> subprocess.CompletedProcess[str]:
        command = ["make", "--no-print-directory", "-o", "ready", "maintenance", f"VENV={tmp_path}", "FOR=20m"]
        environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "HOME": str(tmp_path)}
        return subprocess.run(
            [*command, f"SYSTEM_PATH={tmp_path}:/usr/bin:/bin", f"PATH={tmp_path}:/usr/bin:/bin", f"MESSAGE={message}"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            env=environment,
        )

    typed = f"""it's "so"; `touch {tmp_path}/owned` & (more) <b>"""
    assert f"--message={typed}" in make(typed).stdout.splitlines()
    assert "Nothing was touched. MESSAGE=" in make(f"$(shell touch {tmp_path}/owned)").stderr
    assert not (tmp_path / "owned").exists()


def test_the_state_of_every_balancer_is_printed() -> None:
    answers: dict[str, dict[str, Any]] = {"lb1": {"state": STATE}, "lb2": {"state": STATE}}
    text = maintenance.report(answers, "ENV=x")
    assert "lb1: the site is closed until 2025-11-30 22:54:00 UTC: Back <soon> & better" in text
    assert "make maintenance ENV=x OFF=1" in text and "differ" not in text
    answers["lb2"] = {"state": {}}
    assert "The balancers differ" in maintenance.report(answers, "ENV=x")
    answers["lb2"] = {"unreachable": True, "msg": "no route"}
    assert "lb2 does not answer over SSH" in maintenance.report(answers, "ENV=x")
    assert maintenance.report({"lb1": {"state": {}}}, "ENV=x") == "lb1: no maintenance"
    with pytest.raises(Refused):
        maintenance.report({"lb1": {"unreachable": True, "msg": "no route"}}, "ENV=x")


def test_the_state_ends_at_a_moment(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "state.json"
    assert service_health.maintenance_state(0, str(path)) == {}
    path.write_text("{}")
    assert service_health.maintenance_state(0, str(path)) == {}
    path.write_text(json.dumps(STATE))
    assert service_health.maintenance_state(1_764_543_239.9, str(path)) == STATE
    assert service_health.maintenance_state(1_764_543_240, str(path)) == {}


@pytest.mark.parametrize(
    ("health_answer", "expected"),
    [
        ("closed:30\n", ("closed", 30)),
        ("readonly:9", ("readonly", 9)),
        ("", ("", 0)),
        ("ok\n", ("", 0)),
        ("closed:", ("", 0)),
    ],
)
def test_answers_of_balancers_tell_of_maintenance(health_answer: str, expected: tuple[str, int]) -> None:
    assert service_health.maintenance_left(health_answer) == expected


def test_balancers_that_differ_are_a_problem() -> None:
    def problems(*states: Any) -> list[str]:
        answers = {f"lb{n}": {"raw": {"holds": n == 1, "maintenance": state}} for n, state in enumerate(states, 1)}
        groups = {"lb": list(answers)}
        found = health.problems_across_hosts(answers, groups, {"lb_vip": "192.0.2.9", "make_args": "ENV=x"})[1]
        return [problem for problem in found if "maintenance" in problem]

    assert problems(STATE, STATE) == problems({}, {}) == []
    assert problems(STATE, {}) == ["The balancers differ about maintenance: make maintenance ENV=x"]


def rendered(name: str, state: dict[str, Any]) -> str:
    """A template of the role."""
    environment = jinja2.Environment(trim_blocks=True, autoescape=False)
    environment.filters |= {
        "comment": lambda text, *_kind: f"# {text}",
        "strftime": lambda form, _moment, utc: f"{form} {utc}",
    }
    text = (ROOT / "roles/maintenance/templates" / name).read_text(encoding="utf-8")
    return environment.from_string(text).render(ansible_managed="managed", maintenance_state=state)


def test_the_table_of_nginx_has_a_row_for_every_ten_seconds_until_the_end() -> None:
    def rows(state: dict[str, Any]) -> list[str]:
        return [line for line in rendered("moments.map.j2", state).splitlines() if not line.startswith("#")]

    assert rows(STATE)[-3:] == ["176454321 closed:30;", "176454322 closed:20;", "176454323 closed:10;"]
    assert len(rows(STATE)) == 6 + 3  # a minute for slow clocks
    assert rows(STATE | {"readonly": True})[-1] == "176454323 readonly:10;"
    assert rows({}) == []


def test_the_message_is_escaped_on_the_page() -> None:
    assert "Back &lt;soon&gt; &amp; better" in rendered("page.html.j2", STATE)
    assert "nothing can be changed" not in rendered("page.html.j2", STATE)
    assert "nothing can be changed" in rendered("page.html.j2", STATE | {"readonly": True})
    assert "<p>" not in rendered("page.html.j2", {})
