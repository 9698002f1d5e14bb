"""What ansible-playbook prints: stages, failures once, and all of it in a file."""

import json
import os
import pathlib
import re
import subprocess
import sys
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from repository import ROOT

from controller import progress

BEFORE = [("Base", 10.0), ("Databases", 30.0), ("App", 20.0), ("Base", 5.0)]


@pytest.mark.parametrize(
    "ended, name, elapsed, seconds",
    [
        ([], "Base", 0, 65),
        ([], "Base", 4, 61),
        ([], "Base", 99, 55),
        ([("Base", 10)], "Databases", 10, 45),
        ([("Base", 20)], "Databases", 0, 110),  # twice as slow as before
        ([("Base", 1)], "Databases", 0, 55 / 4),  # no more than four times as fast
        ([("Base", 10), ("Databases", 30), ("App", 20)], "Base", 1, 4),  # a play of a name that was there already
        ([("Base", 10)], "New", 5, 55),
        ([], "New", 5, 65),
    ],
)
def test_the_remaining_time_is_estimated_from_earlier_runs(
    ended: list[tuple[str, int]], name: str, elapsed: int, seconds: float | int
) -> None:
    assert progress.left(BEFORE, ended, name, elapsed) == pytest.approx(seconds)


def test_a_first_run_has_no_estimate() -> None:
    assert progress.left([], [], "Base", 3) is None
    assert progress.estimate(None) == progress.estimate(1.0) == ""
    assert [progress.estimate(seconds) for seconds in (3, 42, 100)] == [
        "about 3 s left",
        "about 40 s left",
        "about 2 min left",
    ]


def test_an_ended_stage_is_printed_on_a_single_line() -> None:
    assert (
        progress.ended_line("Databases", ["db1", "db2"], 14.4, 2, 0).split()
        == "✓ Databases 2 hosts 14 s 2 changed".split()
    )
    assert progress.ended_line("Databases", ["db1"], 125, 0, 1).split() == "✗ Databases db1 2 min 5 s 1 failed".split()


@pytest.mark.parametrize("width", [60, 80, 200])
def test_the_running_stage_fits_into_the_width(width: int) -> None:
    line = progress.running_line(
        "Databases",
        "Install the packages of the database server",
        (1, 3),
        14,
        40,
        "  Applying shop.0007_prices... " * 3,
        width,
    )
    assert (
        len(line) <= width
        and line.startswith("  … Databases")
        and line.endswith("1 of 3 hosts   14 s   about 40 s left")
    )
    assert width < 80 or ": " in line  # the beginning of what was printed last
    assert progress.running_line("Databases", "Install", (0, 1), 3, None, "", width) == "  … Databases › Install   3 s"


@pytest.mark.parametrize(
    "result, text",
    [
        ({"msg": "Nothing was touched. Because."}, "Nothing was touched. Because."),
        (
            {"msg": "non-zero return code", "stderr": "\n".join(f"line {n}\n" for n in range(9)), "stdout": "other"},
            "non-zero return code\n" + "\n".join(f"line {n}" for n in range(4, 9)),
        ),
        ({"msg": "non-zero return code", "stderr": "", "stdout": "last\n"}, "non-zero return code\nlast"),
        ({"msg": "it fails: oops", "stderr": "oops"}, "it fails: oops"),
        (
            {
                "msg": "One or more items failed",
                "results": [{"failed": True, "msg": "a"}, {"msg": "fine"}, {"failed": True, "msg": "a"}],
            },
            "a",
        ),
        ({"msg": ["a", "b"]}, "a\nb"),
        ({"censored": "hidden", "msg": "secret"}, "hidden"),
        ({}, "It gave no reason."),
    ],
)
def test_a_failure_is_printed_with_the_reason(result: Any, text: str) -> None:
    assert progress.reason(result) == text


def test_hosts_that_fail_alike_are_listed_together() -> None:
    text = progress.failed_text(
        [
            ("app1", "Prove", "a.yml:3", "It is unwell."),
            ("app2", "Prove", "a.yml:3", "It is unwell."),
            ("app1", "Prove", "a.yml:3", "It is unwell."),
            ("db1", "Prove", "a.yml:3", "It is away."),
        ],
        ".state/local/last.log",
        r"make site VARS={\"a\":\ $$1}",
    )
    assert text.splitlines() == [
        "Failed: Prove  (a.yml:3)",
        "  on app1, app2",
        "  It is unwell.",
        "",
        "Failed: Prove  (a.yml:3)",
        "  on db1",
        "  It is away.",
        "",
        "  whole log   .state/local/last.log",
        """  then again  make site VARS='{"a": $1}'""",
    ]


def test_no_hint_is_added_to_a_reason_with_a_command() -> None:
    assert "then again" not in progress.failed_text(
        [("a", "Refuse", "", "Do it so: make deploy BREAKING=1")], "", "make deploy"
    )


def test_make_passes_the_typed_command() -> None:
    command = [
        "make",
        "--no-print-directory",
        r"--eval=asked: ; @printf '%s\n' "
        r'"$$VERB" "$$VERB_RUN"; $(if $(filter 0,$(MAKELEVEL)),$(MAKE) --no-print-directory asked)',
        "asked",
        "ENV=local",
        "TO=2026-11-23 18:00",
    ]
    env = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("VERB", "MAKE")) and name not in ("ENV", "REHEARSE", "MITOGEN")
    }
    output = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, env=env).stdout
    lines = output.splitlines()[-4:]
    assert sorted(progress.typed(lines[0]).split()) == sorted("make asked ENV=local TO='2026-11-23 18:00'".split())
    assert lines[:2] == lines[2:] and lines[1]  # a verb that another one runs is part of it


# ------------------------------------------------------------------ a real run

PLAYBOOK = """
- name: First
  hosts: all
  gather_facts: false
  tasks:
    - name: Say something
      ansible.builtin.debug: {msg: Hello to whoever typed it}
      changed_when: true
      run_once: true
    - name: Try
      block:
        - name: Fail for a moment
          ansible.builtin.fail: {msg: It was rescued}
      rescue:
        - name: Go on
          ansible.builtin.debug: {msg: quiet}
- name: Roll
  hosts: all
  serial: 1
  gather_facts: false
  tasks:
    - name: Change it
      ansible.builtin.debug: {var: inventory_hostname}
      changed_when: true
- name: Last
  hosts: all
  gather_facts: false
  tasks:
    - name: Prove that it is well
      ansible.builtin.assert: {that: not broken or inventory_hostname == 'c', fail_msg: Nothing was touched. It is broken., quiet: true}
    - name: Do something secret
      ansible.builtin.fail: {msg: s3cret}
      no_log: true
      when: broken
"""


@pytest.fixture(name="run")
def run_fixture(tmp_path: pathlib.Path) -> Callable[..., Any]:
    """run(*options, **environment) runs the playbook on three hosts of an environment of its own; (exit code, output)."""
    (tmp_path / "inventories").mkdir()
    (tmp_path / ".state/x").mkdir(parents=True)
    (tmp_path / "inventories/x.yml").write_text(
        "all: {hosts: {a: {}, b: {}, c: {}}, vars: {ansible_connection: local, broken: false}}\n"
    )
    (tmp_path / "site.yml").write_text(PLAYBOOK)
    clean = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("VERB", "PROGRESS", "ANSIBLE_", "MOLECULE"))
    }

    def run(*options: str, **environment: str) -> tuple[int, str]:
        env = (
            clean
            | {
                "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
                "VERB": "make site ENV=x",
                "VERB_RUN": uuid.uuid4().hex,
                "PATH": f"{pathlib.Path(sys.executable).parent}:{clean['PATH']}",
            }
            | environment
        )
        done = subprocess.run(
            ["ansible-playbook", "-i", "inventories/x.yml", "site.yml", *options],
            cwd=tmp_path,
            env=env,
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        return done.returncode, done.stdout

    return run


def test_a_run_prints_stages_and_keeps_the_whole_log(run: Callable[..., Any], tmp_path: pathlib.Path) -> None:
    code, output = run(VERB_RUN="1")
    assert code == 0, output
    stages = [line.split() for line in output.splitlines() if line.startswith("  ✓")]
    assert [stage[1] for stage in stages] == ["First", "Roll", "Last"], output
    assert ["3", "hosts"] == stages[1][2:4] and stages[1][-2:] == ["3", "changed"], output
    assert "    Hello to whoever typed it\n" in output
    assert "TASK" not in output and "rescued\n" not in output and "It was rescued" not in output
    assert len(re.findall(r"(?m)^[abc] +: ok=\d+ +changed=[12] ", output.partition("PLAY RECAP")[2])) == 3
    log = (tmp_path / ".state/x/last.log").read_text()
    assert (
        log.startswith("# make site ENV=x, ")
        and "TASK [Change it]" in log
        and "msg: It was rescued" in log
        and "changed: [c]" in log
    )
    assert (tmp_path / ".state/x/last.log").stat().st_mode & 0o777 == 0o600
    assert [name for name, _seconds in json.loads((tmp_path / ".state/x/times.json").read_text())["site.yml"]] == [
        "First",
        "Roll",
        "Last",
    ]
    # What a verb does by the way, in the same log.
    assert run(PROGRESS="quiet", VERB_RUN="1") == (0, "    Hello to whoever typed it\n")
    assert (tmp_path / ".state/x/last.log").read_text().startswith(log)


def test_a_failure_is_printed_only_once_with_the_next_command(run: Callable[..., Any], tmp_path: pathlib.Path) -> None:
    (tmp_path / ".state/x/last.log").write_text("# of another run 1\n")
    code, output = run("-e", '{"broken": true}')
    assert code == 2
    log = (tmp_path / ".state/x/last.log").read_text()
    assert log.count("fatal: [a]") == 2 and "another run" not in log
    assert "s3cret" not in output + log
    assert output.count("It is broken.") == 1 and "It was rescued" not in output
    end = output.partition("Failed: ")[2].splitlines()
    assert end[0].startswith("Prove that it is well  (") and end[0].endswith("site.yml:29)")
    assert end[1:] == [
        "  on a, b",
        "  Nothing was touched. It is broken.",
        "",
        f"Failed: Do something secret  ({tmp_path}/site.yml:31)",
        "  on c",
        "  the output has been hidden due to the fact that 'no_log: true' was specified for this result",
        "",
        "  whole log   .state/x/last.log",
        "  then again  make site ENV=x",
    ]
    assert re.search(r"✗ Last +3 hosts .* 3 failed", output)
    assert not (tmp_path / ".state/x/times.json").exists()  # it says nothing about how long a run takes


@pytest.mark.parametrize("options, environment", [((), {"VERBOSE": "1"}), (("--check", "--diff"), {})])
def test_the_whole_log_is_printed_on_request(
    run: Callable[..., Any], tmp_path: pathlib.Path, options: tuple[str, str], environment: dict[str, str]
) -> None:
    code, output = run(*options, **environment)
    assert code == 0
    assert all(line in output for line in ("TASK [Change it]", "changed: [a]", "changed: [c]", "msg: It was rescued"))
    assert (tmp_path / ".state/x/last.log").read_text().partition("\n")[2].split() == output.split()
