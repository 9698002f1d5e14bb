"""controller/ssh.py and query.py: how hosts are logged in to, and what becomes of their answers. An `ssh` of its own plays the hosts."""

import os
import pathlib
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import pytest

from controller import query, ssh
from controller.environment import Environment, Host, Rendered
from controller.environment.login import command

LOGIN = ssh.Login("192.0.2.1", 2222, "ops", "/keys/one", "-o UserKnownHostsFile=/dev/null -J 'gate way'", False)

# It writes down how it was called and does what is written for the host, the last word but one, or for this very call.
FAKE = """#!/bin/sh
for word; do address=$last last=$word; done
case "$*" in *"-O stop"*) echo "$*" >>"$FAKE/stopped"; exit 0;; esac
echo "$*" >>"$FAKE/calls"
calls=$(wc -l <"$FAKE/calls")
script=$FAKE/$address.$calls
[ -f "$script" ] || script=$FAKE/$address
. "$script"
"""


class Fake:
    """fake(host, script) has the host's ssh run a shell script; its directory is fake.path."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path

    def __call__(self, host: str, script: str) -> None:
        (self.path / host).write_text(script)


@pytest.fixture
def fake(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fake]:
    """An ssh that runs shell scripts."""
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin/ssh"
    program.write_text(FAKE)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE", str(tmp_path))

    # Sockets have short paths, and pytest's directories long ones.
    with tempfile.TemporaryDirectory() as home:
        monkeypatch.setenv("HOME", home)
        yield Fake(tmp_path)


@pytest.fixture
def app1(monkeypatch: pytest.MonkeyPatch) -> Environment:
    """An environment with a host app1."""
    monkeypatch.setattr(Environment, "rendered", Rendered({"app1": Host("app1", ssh.Login("app1"), {})}, {}))
    return Environment(pathlib.Path("inventories/x.yml"))


def run(within: float = 5.0, **hosts: str) -> dict[str, ssh.Reply]:
    return ssh.run_all(
        {name: ssh.Login(name) for name in hosts}, {name: source.encode() for name, source in hosts.items()}, within
    )


def test_a_host_is_not_judged_by_a_machine_that_is_busy(
    fake: Fake, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where this machine takes long for a Python that does nothing, silence says nothing of the host."""
    slow = tmp_path / "bin/slow-python"
    slow.write_text(f'#!/bin/sh\nsleep 1.2\nexec {sys.executable} "$@"\n')
    slow.chmod(0o755)
    fake("app1", "exec sleep 60")
    fake("app2", "echo reached; echo '{}'")
    assert {name: reply.state for name, reply in run(within=2.0, app1="", app2="").items()} == {
        "app1": ssh.State.UNREACHABLE,
        "app2": ssh.State.ANSWERED,
    }
    monkeypatch.setattr(sys, "executable", str(slow))
    replies = run(within=2.0, app1="", app2="")
    assert {name: reply.state for name, reply in replies.items()} == {
        "app1": ssh.State.NOT_ASKED,
        "app2": ssh.State.ANSWERED,
    }
    result = query.result(replies["app1"])
    assert query.silence(result).startswith("was not asked in time: this machine is busy")


@pytest.mark.parametrize(
    ("python_s", "state", "calls"),
    [(0.01, ssh.State.UNREACHABLE, 1), (0.5, ssh.State.ANSWERED, 2)],
    ids=["idle", "slow"],
)
def test_a_machine_that_logs_in_slowly_takes_the_time_that_is_left(
    fake: Fake, monkeypatch: pytest.MonkeyPatch, python_s: float, state: ssh.State, calls: Any
) -> None:
    """Where it has other work, the login that a host has two seconds for takes longer than that, and says nothing of the host."""
    monkeypatch.setattr(ssh, "CONNECT_S", 0.3)
    monkeypatch.setattr(ssh, "start_python", lambda _within: python_s)
    fake("app1.1", "sleep 0.4; echo 'Connection timed out during banner exchange' >&2; exit 255")
    fake("app1", "echo reached; echo '{}'")
    assert run(4.0, app1="")["app1"].state is state
    logins = (fake.path / "calls").read_text().splitlines()
    assert ["ConnectTimeout=3" in call for call in logins] == [False, True][:calls]


@pytest.mark.parametrize("why", ["Permission denied (publickey).", "Host key verification failed."])
def test_a_host_that_refuses_is_not_retried(fake: Fake, monkeypatch: pytest.MonkeyPatch, why: str) -> None:
    monkeypatch.setattr(ssh, "start_python", lambda _within: 0.2)
    fake("app1", f"echo '{why}' >&2; exit 255")
    assert run(4.0, app1="")["app1"] == ssh.Reply(ssh.State.UNREACHABLE, reason=why)
    assert len((fake.path / "calls").read_text().splitlines()) == 1


def test_a_machine_that_becomes_busy_during_a_query_is_detected(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([0.01, 5.0])
    monkeypatch.setattr(ssh, "start_python", lambda _within: next(times))
    fake("app1", "exec sleep 60")
    assert run(0.5, app1="")["app1"].state is ssh.State.NOT_ASKED


def test_ssh_has_the_options_that_ansible_uses() -> None:
    words = command(LOGIN, None)
    assert words[0] == "ssh" and words[-1] == "192.0.2.1"
    options = [words[index + 1] for index, word in enumerate(words) if word == "-o"]
    assert {
        "BatchMode=yes",
        "ControlMaster=no",
        "ControlPath=none",
        "PreferredAuthentications=publickey",
        "StrictHostKeyChecking=no",
        "Port=2222",
        'IdentityFile="/keys/one"',
        'User="ops"',
        "UserKnownHostsFile=/dev/null",
        "ConnectTimeout=2",
    } <= set(options)
    assert words[words.index("-J") + 1] == "gate way"


def test_host_keys_are_checked_unless_the_environment_says_otherwise() -> None:
    assert not any("StrictHostKeyChecking" in word for word in command(ssh.Login("a"), None))


@pytest.mark.parametrize(
    "other",
    [
        {"address": "192.0.2.2"},
        {"port": 22},
        {"user": "root"},
        {"key": "/keys/two"},
        {"arguments": ""},
        {"check_host_key": True},
    ],
)
def test_a_connection_is_shared_by_the_same_login_only(other: dict[str, Any]) -> None:
    directory = pathlib.Path("/home/ops/.ssh/kept")
    path = ssh.socket_path(LOGIN, directory)
    assert path == ssh.socket_path(LOGIN, directory)
    assert path != ssh.socket_path(ssh.dataclasses.replace(LOGIN, **other), directory)
    assert f"ControlPath={path}" in command(LOGIN, path) and "ControlMaster=auto" in command(LOGIN, path)


def test_a_connection_is_not_shared_where_the_path_is_too_long(tmp_path: pathlib.Path) -> None:
    assert ssh.socket_path(LOGIN, tmp_path / ("x" * 100)) is None


@pytest.mark.usefixtures("fake")
def test_sockets_are_in_a_private_directory() -> None:
    ssh.socket_directory().chmod(0o777)
    with pytest.raises(PermissionError):
        ssh.socket_directory()


@pytest.mark.parametrize(
    ("script", "state", "output", "reason"),
    [
        ("echo reached; cat", ssh.State.ANSWERED, b"given", ""),
        ("echo reached; echo words; echo last >&2; exit 1", ssh.State.FAILED, b"", "last"),
        ("echo reached; exit 3", ssh.State.FAILED, b"", "it ended with 3"),
        ("echo reached; echo half; echo gone >&2; exit 255", ssh.State.UNREACHABLE, b"", "gone"),
        (
            "echo 'Host key verification failed.' >&2; exit 255",
            ssh.State.UNREACHABLE,
            b"",
            "Host key verification failed.",
        ),
        ("echo 'sh: not for you'; exit 1", ssh.State.UNREACHABLE, b"", "it ended with 1"),
        ("exec sleep 60", ssh.State.UNREACHABLE, b"", "it is silent"),
        ("echo reached; exec sleep 60", ssh.State.TIMED_OUT, b"", "it is not done in time"),
    ],
)
def test_every_end_of_a_program_has_a_state(
    fake: Fake, script: str, state: ssh.State, output: bytes, reason: str
) -> None:
    fake("app1", script)
    assert run(0.5, app1="given") == {"app1": ssh.Reply(state, output, reason)}


def test_no_host_waits_for_another(fake: Fake) -> None:
    fake("frozen", "echo reached; exec sleep 60")
    fake("well", "echo reached; cat")
    begun = time.monotonic()
    replies = run(1.0, frozen="", **{"well": "1"})
    assert time.monotonic() - begun < 3
    assert (replies["frozen"].state, replies["well"].output) == (ssh.State.TIMED_OUT, b"1")


def test_no_hosts_are_no_answers() -> None:
    assert run() == {}


def test_background_processes_of_a_connection_are_not_awaited(fake: Fake) -> None:
    """OpenSSH's own process of a kept connection may have this one's stderr."""
    fake("app1", "sleep 60 >/dev/null & echo $! >$FAKE/pid; echo reached; cat")
    begun = time.monotonic()
    assert run(10.0, app1="1")["app1"].output == b"1"
    assert time.monotonic() - begun < 3
    os.kill(int((fake.path / "pid").read_text()), 9)


def stand(address: str = "app1") -> pathlib.Path:
    """A socket, as a connection has it that stands."""
    path = ssh.socket_path(ssh.Login(address), ssh.socket_directory())
    assert path
    path.touch()
    return path


@pytest.mark.parametrize("dead", ["exec sleep 60", "echo reached; exit 255", "exit 255"])
def test_a_connection_that_leads_nowhere_is_replaced(fake: Fake, monkeypatch: pytest.MonkeyPatch, dead: str) -> None:
    monkeypatch.setattr(ssh, "GREETING_S", 0.3)
    fake("app1.1", dead)
    fake("app1", "echo reached; cat")
    path = stand()
    assert run(app1="1")["app1"] == ssh.Reply(ssh.State.ANSWERED, b"1")
    assert (fake.path / "stopped").exists() and not path.exists()


@pytest.mark.parametrize("script", ["echo reached; exit 1", "echo reached; exec sleep 60"])
def test_a_program_that_fails_is_not_run_twice(fake: Fake, script: str) -> None:
    fake("app1", script)
    stand()
    run(0.5, app1="1")
    assert len((fake.path / "calls").read_text().splitlines()) == 1


def test_a_function_is_sent_with_modules_and_arguments(app1: Environment, fake: Fake) -> None:
    """To a Python that has none of them; this one plays the host."""
    fake("app1", "echo reached; exec python3 -I -S -")
    sent = {
        "far.away": "LINE = 'a\"b\\'{}'\n",
        "far.look": "from far.away import LINE\ndef look(name, words):\n    return {'name': name, 'said': LINE, 'words': words}\n",
    }
    value = {"ä": ["\\n", "'", None, 1.5]}
    assert query.ask(app1, sent, "look", {"app1": {"name": "app1", "words": value}}) == {
        "app1": {"name": "app1", "said": "a\"b'{}", "words": value}
    }


@pytest.mark.parametrize(
    ("reply", "result"),
    [
        (ssh.Reply(ssh.State.ANSWERED, b'{"does": {}}'), {"does": {}}),
        (ssh.Reply(ssh.State.UNREACHABLE, reason="off"), {"failed": True, "msg": "off", "unreachable": True}),
        (
            ssh.Reply(ssh.State.FAILED, reason="sudo: a password is required"),
            {"failed": True, "msg": "sudo: a password is required"},
        ),
        (ssh.Reply(ssh.State.TIMED_OUT, reason="late"), {"failed": True, "msg": "late"}),
        (ssh.Reply(ssh.State.ANSWERED, b"<html>"), {"failed": True, "msg": "what it answers is no JSON: <html>"}),
    ],
)
def test_replies_have_the_form_of_ansibles_results(reply: Any, result: Any) -> None:
    assert query.result(reply) == result


@pytest.mark.parametrize(
    ("names", "function"),
    [(("perlbal", "host_probe", "service_health", "host_health"), "check"), (("log_search",), "search")],
)
def test_sent_modules_need_no_ansible(app1: Environment, fake: Fake, names: list[str], function: str) -> None:
    """A bare Python comes as far as the function, which misses its arguments."""
    fake("app1", "echo reached; exec python3 -I -S -")
    assert f"{function}() missing" in query.ask(app1, query.modules(*names), function, {"app1": {}})["app1"]["msg"]


def test_a_socket_is_no_longer_than_the_system_takes(tmp_path: pathlib.Path) -> None:
    """With what OpenSSH appends while it makes one."""
    long = tmp_path / ("x" * (ssh.LONGEST_PATH - len(os.fsencode(tmp_path)) - 1))
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(long) + "." + "y" * 16)
    assert len(os.fsencode(long)) == ssh.LONGEST_PATH
