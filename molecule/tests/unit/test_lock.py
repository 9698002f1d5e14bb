"""The lock of an environment: held on every app host, refused where somebody else has it."""

import os
import pathlib
from collections.abc import Callable
from typing import Any

import pytest

from controller import lock
from controller.environment import Environment, Host, Rendered
from controller.environment.login import Login
from controller.errors import Unusable

TEST = Environment(pathlib.Path("inventories/test.yml"))
SSH = """#!/bin/sh
for word; do case $word in host*) host=$word;; esac; done
case $host in *{busy}) echo "busy: alice@desk (make deploy, pid 7)";; *) echo held; cat > /dev/null;; esac
"""


@pytest.fixture(name="hosts")
def hosts_fixture(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """hosts(busy) describes an environment of two app hosts and a database, of which one is locked by somebody else; ssh is a stand-in."""

    def described(busy: str) -> None:
        (tmp_path / "ssh").write_text(SSH.format(busy=busy))
        (tmp_path / "ssh").chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        known = {name: Host(name, Login(address=f"host-{name}"), {}) for name in ("app1", "app2", "db1")}
        monkeypatch.setattr(Environment, "rendered", Rendered(known, {"app": ["app1", "app2"], "db": ["db1"]}))

    return described


def test_every_app_host_holds_the_lock_while_stdin_is_open(hosts: Callable[..., Any]) -> None:
    hosts("db1")
    held, busy = lock.take(TEST, "make site")
    assert (
        busy == ""
        and sorted(held) == ["app1", "app2"]
        and [process.poll() for process in held.values()] == [None, None]
    )
    lock.release(held)
    assert [process.returncode for process in held.values()] == [0, 0]


def test_the_holder_of_a_lock_is_named(hosts: Callable[..., Any]) -> None:
    hosts("app2")
    held, busy = lock.take(TEST, "make site")
    assert busy.startswith("alice@desk (make deploy, pid 7) is changing this environment (on app2)")
    for process in held.values():
        assert process.stdin and process.stdout
        process.stdin.close()
        process.wait(timeout=10)
        process.stdout.close()


def test_an_unreadable_environment_is_reported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def unusable(_environment: Environment) -> None:
        raise Unusable("there is no group 'lokal'")

    monkeypatch.setattr(Environment, "rendered", property(unusable))
    with pytest.raises(SystemExit) as ended:
        lock.take(TEST, "make site")
    assert ended.value.code == 2 and "lokal" in capsys.readouterr().err
