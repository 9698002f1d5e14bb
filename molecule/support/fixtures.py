"""Types of the fixtures that tests share."""

import dataclasses
import subprocess
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from nagios import Wave
from testinfra.host import Host
from visitors import Load

Make = Callable[..., "subprocess.CompletedProcess[str]"]  # make("status"): a verb of the Makefile
OnHost = Callable[[str], Host]  # on("app1"): a host, to run commands on as root
Execute = Callable[..., dict[str, Any]]  # execute(module, option=value): what an Ansible module returns
Unaffected = Callable[..., AbstractContextManager[Load]]  # with visitors_unaffected(pace=1.0) as load
Inject = Callable[[str], AbstractContextManager[Wave]]  # with inject("between hosts") as wave
Web = tuple[str, tuple[str, str]]  # (URL of the monitor without a path, its login)


@dataclasses.dataclass(frozen=True)
class Page:
    """The monitor's own page: its URL, and its login for requests."""

    url: str
    auth: tuple[str, str]


@dataclasses.dataclass(frozen=True)
class Backups:
    """The backup host."""

    host: str
    on: Callable[[str], str]  # output of a shell command
    state: Callable[[], dict[str, Any]]  # the state as monitoring reads it
    await_state: Callable[..., bool]  # await_state(condition(state), what, seconds=180)
    stanza: str
    repository: str  # directory
    path: str  # of the state
