"""A command that takes long: how it ends, and what is known of it meanwhile."""

import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from repository import ROOT

from plugins.modules import long_command


class Answer(Exception):
    """What the module returned."""


@pytest.fixture(name="call")
def call_fixture(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """call(command, run, seconds) is what the module returns."""

    def answer(**result: bool | int | str) -> None:
        raise Answer(result)

    def call(command: str, run: str, seconds: float | int = 20) -> dict[str, Any]:
        class Module:
            """AnsibleModule, as far as it is used."""

            params = {"cmd": command, "run": run, "directory": str(tmp_path / "commands"), "report_s": seconds}
            exit_json = fail_json = staticmethod(answer)

            def __init__(self, **_spec: dict[str, Any]) -> None:
                pass

        monkeypatch.setattr(long_command, "AnsibleModule", Module)
        with pytest.raises(Answer) as ended:
            long_command.main()
        return ended.value.args[0]

    return call


def test_a_short_command_takes_a_single_call(call: Callable[..., Any], tmp_path: pathlib.Path) -> None:
    begun = time.monotonic()
    done = call("sh -c 'echo a; echo b >&2'", "1")
    assert time.monotonic() - begun < 15  # it does not wait for a report to be due
    assert (done["finished"], done["rc"], done["stdout"], done["stderr"]) == (True, 0, "a", "b")
    failed = call("sh -c 'echo oops >&2; exit 4'", "2")
    assert (failed["rc"], failed["stderr"], failed["msg"]) == (4, "oops", "non-zero return code")
    assert call("/nowhere/at-all", "3")["rc"] == 127
    assert [path.name for path in (tmp_path / "commands").iterdir()] == ["lock"]


def test_a_running_command_reports_the_last_line(call: Callable[..., Any], tmp_path: pathlib.Path) -> None:
    go = tmp_path / "go"
    os.mkfifo(go)
    command = f"sh -c 'echo first; echo second; read line <{go}; echo third'"
    while (answer := call(command, "1", 0.2))["last_line"] != "second":
        assert not answer["finished"]
    # Another one, as after a connection that was lost, waits for it.
    other = call("echo other", "2", 0.1)
    assert not other["finished"] and other["last_line"] == "it waits for the end of an earlier one"
    go.write_text("\n")
    done = call(command, "1")
    assert done["finished"] and done["stdout"] == "first\nsecond\nthird"
    assert call("echo other", "2")["stdout"] == "other"


def test_a_killed_command_has_failed(call: Callable[..., Any], tmp_path: pathlib.Path) -> None:
    assert not call("sleep 600", "1", 0)["finished"]
    os.killpg(int((tmp_path / "commands/1/pid").read_text()), signal.SIGKILL)
    assert (done := call("sleep 600", "1"))["finished"] and (done["rc"], done["msg"]) == (-1, "it was killed")


def test_ansible_repeats_the_module_until_the_command_ends(tmp_path: pathlib.Path) -> None:
    (tmp_path / "inventories").mkdir()
    (tmp_path / ".state/x").mkdir(parents=True)
    (tmp_path / "inventories/x.yml").write_text(
        f"all: {{hosts: {{a: {{ansible_connection: local, ansible_python_interpreter: {sys.executable}}}}}}}\n"
    )
    (tmp_path / "long.yml").write_text(f"""
- name: Long
  hosts: a
  gather_facts: false
  tasks:
    - name: Run commands
      long_command: {{cmd: "{{{{ item }}}}", run: "{{{{ now().timestamp() }}}}", report_s: 1, directory: {tmp_path}/commands}}
      loop: ["sh -c 'echo begin; read line <{tmp_path}/go'", "sh -c 'echo oops >&2; exit 4'"]
      register: done
      until: done.finished | default(true)
      retries: 600
      delay: 0
""")
    os.mkfifo(tmp_path / "go")
    log = tmp_path / ".state/x/last.log"

    def answer() -> None:
        while not log.exists() or "s: begin" not in log.read_text():
            time.sleep(0.05)  # between two looks at a condition
        (tmp_path / "go").write_text("\n")

    threading.Thread(target=answer, daemon=True).start()
    env = {name: value for name, value in os.environ.items() if not name.startswith(("VERB", "PROGRESS", "ANSIBLE_"))}
    done = subprocess.run(
        [str(pathlib.Path(sys.executable).parent / "ansible-playbook"), "-i", "inventories/x.yml", "long.yml"],
        cwd=tmp_path,
        check=False,
        capture_output=True,
        text=True,
        env=env | {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")},
        timeout=120,
    )
    assert done.returncode == 2 and done.stdout.count("oops") == 1, done.stdout
    assert "running: [a] " in log.read_text() and "FAILED - RETRYING" not in log.read_text()
