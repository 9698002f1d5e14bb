"""Connections serve one verb after another: the same Python on a host executes both, unless something that it depends on is different."""

import fcntl
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from repository import ROOT

PLAY = """
- hosts: all
  gather_facts: false
  tasks:
    - ansible.builtin.shell: echo $PPID > {{ state }}/python; sleep {{ seconds }}
"""


class Environment:
    """An environment whose only host is this machine."""

    def __init__(self, root: pathlib.Path) -> None:
        self.state = root / ".state/kept"
        (self.state / "inventory").mkdir(parents=True)
        (self.state / "inventory/kept.yml").write_text("all: {hosts: {one: {ansible_connection: local}}}")
        (root / "play.yml").write_text(PLAY)
        self.command = [
            str(pathlib.Path(sys.executable).with_name("ansible-playbook")),
            "-i",
            str(self.state / "inventory/kept.yml"),
            "-e",
            f"state={self.state}",
            str(root / "play.yml"),
        ]
        self.variables = dict(
            os.environ, HOME=str(root), ANSIBLE_STRATEGY="accelerated", ANSIBLE_CONFIG=str(ROOT / "ansible.cfg")
        )

    def begin(self, seconds: int = 0, **variables: str) -> subprocess.Popen:
        """A verb that has begun; its command on the host takes so many seconds."""
        (self.state / "python").unlink(missing_ok=True)
        return subprocess.Popen(
            [*self.command, "-e", f"seconds={seconds}"],
            cwd=ROOT,
            env=self.variables | variables,
            start_new_session=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def python(self) -> int:
        """The number of the Python on the host, once its command runs."""
        await_that(lambda: (self.state / "python").exists() and (self.state / "python").read_text().strip())
        return int((self.state / "python").read_text())

    def run(self, **variables: Any) -> int:
        """Run a verb; the number of the Python on the host."""
        verb = self.begin(**variables)
        output = verb.communicate(timeout=180)[0]
        assert verb.returncode == 0, output
        return self.python()


def await_that(condition: Callable[..., Any], seconds: int = 120) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)  # between two looks with a deadline


def is_gone(process: int) -> bool:
    """Whether a process has ended."""
    try:
        return pathlib.Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


@pytest.fixture(name="environment")
def environment_fixture(tmp_path: pathlib.Path) -> Iterator[Any]:
    """An environment, which is removed in the end: then the connections end, too."""
    environment = Environment(tmp_path)
    yield environment
    if (environment.state / "python").exists():
        python = environment.python()
        (environment.state / "connections.lock").unlink(missing_ok=True)
        await_that(lambda: is_gone(python))


def test_the_next_verb_uses_the_connections_of_the_previous_verb(environment: Any) -> None:
    assert environment.run() == environment.run()


def test_concurrent_verbs_have_separate_connections(environment: Any) -> None:
    kept = environment.run()
    with open(environment.state / "connections.lock", "rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        own = environment.run()
    assert own != kept
    await_that(lambda: is_gone(own))
    assert environment.run() == kept


@pytest.mark.parametrize("change", ["known hosts", "variable"])
def test_a_change_of_known_hosts_or_locale_opens_a_new_connection(environment: Any, change: str) -> None:
    kept = environment.run()
    if change == "known hosts":
        (environment.state / "known_hosts").write_text("192.0.2.1 ssh-ed25519 AAAA")
        new = environment.run()
    else:
        new = environment.run(LC_ALL="C.UTF-8" if os.environ.get("LC_ALL") != "C.UTF-8" else "C")
    assert new != kept
    await_that(lambda: is_gone(kept))


def test_processes_of_an_interrupted_verb_end(environment: Any) -> None:
    verb = environment.begin(seconds=600)
    python = environment.python()
    os.killpg(verb.pid, signal.SIGINT)
    verb.communicate(timeout=180)
    await_that(lambda: is_gone(python))
    assert environment.run() != python


def test_an_unresponsive_connection_is_replaced(environment: Any) -> None:
    silent = environment.run()
    os.kill(silent, signal.SIGSTOP)
    try:
        assert environment.run() != silent
    finally:
        os.kill(silent, signal.SIGCONT)
    await_that(lambda: is_gone(silent))
