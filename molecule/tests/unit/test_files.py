"""The module files writes what template, copy and file would, and says so before and after."""

import json
import os
import pathlib
import subprocess
import sys
from typing import Any

import pytest
from repository import ROOT

TEMPLATE = (
    "# {{ ansible_managed }}\n{% for word in words %}\n{{ word }} 'a\\\\b'\n{% endfor %}\n{% include 'part.j2' %}\n"
)
PLAY = """
- hosts: all
  gather_facts: false
  vars: {{words: [lb, app]}}
  tasks:
    - files: {task}
      register: answer
    - ansible.builtin.copy: {{content: "{{{{ answer | to_json }}}}", dest: {root}/answer, mode: "0600"}}
      check_mode: false
      diff: false
"""


class Host:
    """This machine, on which a task is executed."""

    def __init__(self, root: pathlib.Path) -> None:
        self.root = root
        for kind in ("templates", "files"):
            (root / kind).mkdir()
        (root / "templates/one.j2").write_text(TEMPLATE)
        (root / "templates/part.j2").write_text("part")
        (root / "files/two").write_text("{{ verbatim }}\n")
        self.task = {
            "directories": [f"{root}/made", f"{root}/made/below"],
            "templates": {f"{root}/made/one": "one.j2"},
            "copies": {f"{root}/made/below/two": "two"},
            "mode": "0640",
        }

    def run(self, *options: str, **task: object) -> tuple[int, dict, str]:
        """Execute the task; (exit status, its result, output)."""
        (self.root / "play.yml").write_text(PLAY.format(task=json.dumps(self.task | task), root=self.root))
        done = subprocess.run(
            [
                pathlib.Path(sys.executable).with_name("ansible-playbook"),
                "-i",
                "one,",
                "-e",
                "ansible_connection=local",
                *options,
                self.root / "play.yml",
            ],
            cwd=ROOT,
            env=dict(
                os.environ,
                ANSIBLE_STRATEGY="accelerated",
                ANSIBLE_CONFIG=str(ROOT / "ansible.cfg"),
                ANSIBLE_STDOUT_CALLBACK="default",
            ),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        answer = self.root / "answer"
        return done.returncode, json.loads(answer.read_text()) if answer.exists() else {}, done.stdout + done.stderr

    def changed(self, *options: str, **task: object) -> list[str]:
        """What the task changed, below the root."""
        status, answer, output = self.run(*options, **task)
        assert status == 0, output
        assert answer["changed"] == bool(answer["paths"])
        return [path.removeprefix(f"{self.root}/") for path in answer["paths"]]


@pytest.fixture(name="host")
def host_fixture(tmp_path: pathlib.Path) -> Any:
    return Host(tmp_path)


def test_files_are_predicted_then_created_then_unchanged(host: Any) -> None:
    paths = ["made", "made/below", "made/one", "made/below/two"]
    assert host.changed("--check") == paths
    assert not (host.root / "made").exists()
    assert host.changed() == paths
    assert (host.root / "made/one").read_text() == "# Ansible managed\nlb 'a\\\\b'\napp 'a\\\\b'\npart\n"
    assert (host.root / "made/below/two").read_text() == "{{ verbatim }}\n"
    assert (host.root / "made/one").stat().st_mode & 0o7777 == 0o640
    assert (host.root / "made/below").stat().st_mode & 0o7777 == 0o755
    assert host.changed() == host.changed("--check") == []


def test_manual_changes_are_shown_in_a_diff_and_reverted(host: Any) -> None:
    host.changed()
    (host.root / "made/one").write_text("by hand\n")
    (host.root / "made/below/two").chmod(0o666)
    (host.root / "made/below").chmod(0o700)
    status, answer, output = host.run("--check", "--diff")
    assert status == 0
    assert [pathlib.Path(path).name for path in answer["paths"]] == ["below", "one", "two"]
    assert "-by hand" in output
    assert "+part" in output
    assert (host.root / "made/one").read_text() == "by hand\n"
    assert host.changed() == ["made/below", "made/one", "made/below/two"]
    assert host.changed() == []


@pytest.mark.parametrize(
    ("task", "reason"),
    [
        ({"owners": "root"}, "Invalid options for files: owners"),
        ({"mode": None}, "needs a mode"),
        ({"templates": {"/nonexistent/x": "none.j2"}}, "none.j2"),
        ({"directories": ["{root}/files/two"]}, "is no directory"),
    ],
)
def test_invalid_parameters_are_refused(host: Any, task: Any, reason: str) -> None:
    task = json.loads(json.dumps(task).replace("{root}", str(host.root)))
    status, _answer, output = host.run(**task)
    assert status == 2
    assert reason in output
    assert not (host.root / "made").exists()
