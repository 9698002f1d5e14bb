"""What the module knock tells of logins: of commands of this machine here."""

import os
import pathlib
import shlex
from collections.abc import Callable
from typing import Any

from plugins.modules import knock


def door(script: str) -> str:
    """A command in the place of ssh; the word that logs out again is its argument."""
    return shlex.join(["sh", "-c", script])


def test_every_door_tells_how_it_went(execute: Callable[..., Any]) -> None:
    done = execute(knock, doors={"a": door('test "$0" = true'), "b": door("echo in; echo ' no key ' >&2; exit 255")})
    assert not done["changed"]
    assert done["answers"] == {"a": {"rc": 0, "stderr": ""}, "b": {"rc": 255, "stderr": "no key"}}


def test_all_doors_are_knocked_at_at_once(execute: Callable[..., Any], tmp_path: pathlib.Path) -> None:
    os.mkfifo(tmp_path / "met")
    doors = {
        "first": door(f"timeout 20 cat {tmp_path}/met"),
        "second": door(f"timeout 20 sh -c 'echo >{tmp_path}/met'"),
    }
    assert {host: answer["rc"] for host, answer in execute(knock, doors=doors)["answers"].items()} == {
        "first": 0,
        "second": 0,
    }


def test_a_dry_run_asks_too_and_no_doors_are_none(execute: Callable[..., Any]) -> None:
    assert execute(knock, check=True, doors={"a": "false"})["answers"]["a"]["rc"] == 1
    assert execute(knock, doors={})["answers"] == {}
