"""What the module ssh_access tells of logins: of commands of this machine here."""

import os
import pathlib
import shlex
from collections.abc import Callable
from typing import Any

from plugins.modules import ssh_access


def door(script: str) -> str:
    """A command in the place of ssh; the word that logs out again is its argument."""
    return shlex.join(["sh", "-c", script])


def test_every_login_returns_the_result(execute: Callable[..., Any]) -> None:
    done = execute(
        ssh_access, logins={"a": door('test "$0" = true'), "b": door("echo in; echo ' no key ' >&2; exit 255")}
    )
    assert not done["changed"]
    assert done["answers"] == {"a": {"rc": 0, "stderr": ""}, "b": {"rc": 255, "stderr": "no key"}}


def test_logins_run_in_parallel(execute: Callable[..., Any], tmp_path: pathlib.Path) -> None:
    os.mkfifo(tmp_path / "met")
    doors = {
        "first": door(f"timeout 20 cat {tmp_path}/met"),
        "second": door(f"timeout 20 sh -c 'echo >{tmp_path}/met'"),
    }
    assert {host: answer["rc"] for host, answer in execute(ssh_access, logins=doors)["answers"].items()} == {
        "first": 0,
        "second": 0,
    }


def test_a_dry_run_tries_logins_and_an_empty_list_is_accepted(execute: Callable[..., Any]) -> None:
    assert execute(ssh_access, check=True, logins={"a": "false"})["answers"]["a"]["rc"] == 1
    assert execute(ssh_access, logins={})["answers"] == {}
