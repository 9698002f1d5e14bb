"""An environment, as its inventory and group_vars describe it."""

import contextlib
import functools
import os
import pathlib
import re
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any, AnyStr, TypeVar

import pytest
import testinfra.backend.base
import testinfra.host

from controller.environment import ROOT as ROOT
from controller.environment import Environment

T = TypeVar("T")

os.environ["ANSIBLE_CONFIG"] = str(ROOT / "ansible.cfg")  # not Molecule's own; before Ansible is imported


AS_ROOT = [] if os.geteuid() == 0 else ["sudo"]
# What a command on a host finds in its environment
WORLD = [
    "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME=/root",
    "container=docker",
]
RUNNING: dict[str, tuple[int, str | None]] = {}  # {container: (its first process, when that started)}


def started(pid: int) -> str | None:
    """When a process started, in ticks of this machine's clock, as text; None where there is none."""
    with contextlib.suppress(OSError):
        return pathlib.Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19]
    return None


def first(container: str) -> int:
    """The first process of a container, as this machine numbers it; 0 while it is off."""
    pid, since = RUNNING.get(container, (0, None))
    if not pid or since is None or started(pid) != since:  # None: it had ended before its start could be read
        said = subprocess.run(
            [*AS_ROOT, "docker", "inspect", "--format", "{{.State.Pid}}", container],
            capture_output=True,
            text=True,
            check=False,
        )
        pid = int(said.stdout.strip() or 0)  # nothing but a line end, where there is no such container
        RUNNING[container] = pid, started(pid)
    return pid


def inside(container: str, *command: str, user: str = "root") -> list[str]:
    """The command that runs another command in a container: `docker exec` in 3 ms instead of 60, with less work."""
    other = [] if user == "root" else ["setpriv", "--reuid", user, "--regid", user, "--init-groups"]
    return [
        *AS_ROOT,
        "nsenter",
        "--target",
        str(first(container)),
        "--all",
        "--wd",
        "/usr/bin/env",
        "-i",
        *WORLD,
        *other,
        *command,
    ]


def wait(condition: Callable[[], T], what: str, seconds: float) -> T:
    """The value of a condition, once it is true. Raises TimeoutError after so many seconds."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"no {what} within {seconds:.0f} s")
        time.sleep(0.2)  # the condition is looked at five times a second: nothing tells when it comes true
    return value


def eventually(condition: Callable[[], T], seconds: float = 20) -> T:
    """The last value of a condition: once it is true, or after so many seconds."""
    deadline = time.monotonic() + seconds
    while not (value := condition()) and time.monotonic() < deadline:
        time.sleep(0.1)  # between two looks at a condition with a deadline
    return value


def search(pattern: AnyStr, text: AnyStr, flags: int = 0) -> re.Match[AnyStr]:
    """The first match of a pattern. Raises AssertionError where there is none."""
    match = re.search(pattern, text, flags)
    assert match, f"nothing like {pattern!r} in {text!r}"
    return match


def output_of(process: subprocess.CompletedProcess[str]) -> str:
    """What a finished process printed, in one line."""
    return " ".join((process.stdout + process.stderr).split())


def marked(mark: str) -> Iterator[int]:
    """Yield the ids of the processes that have a mark in their environment, whatever session they are in."""
    for environment in pathlib.Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):  # it has ended, or is somebody else's
            if mark.encode() in environment.read_bytes():
                yield int(environment.parent.name)


class Inside(testinfra.backend.base.BaseBackend):
    """A container as testinfra's host; its commands run as root."""

    NAME = "inside"

    def __init__(self, host: str, container: str) -> None:
        super().__init__(host)
        self.host, self.container = host, container

    def run(self, command: str, *args: str, **_kwargs: object) -> testinfra.backend.base.CommandResult:
        """The result of a command of the shell, its arguments quoted."""
        words = self.get_command(command, *args)
        done = subprocess.run(
            inside(self.container, "sh", "-c", words), stdin=subprocess.DEVNULL, capture_output=True, check=False
        )
        return self.result(done.returncode, self.encode(words), done.stdout, done.stderr)


class Tier:
    """The environment of an inventory file."""

    def __init__(self, inventory: str | pathlib.Path) -> None:
        self.inventory = str(inventory)
        # Variables that a scenario lays over the environment's own, as options of Ansible's.
        self.options = ["-e", os.environ["TIER_VARS"]] if os.environ.get("TIER_VARS") else []
        self.environment = Environment(pathlib.Path(inventory), tuple(self.options[1:]), other=True)
        self.name, self.state = self.environment.name, self.environment.state
        self.words = self.environment.make_args.split()
        # Molecule's own colours would be in what is read
        self.env = dict(os.environ, ANSIBLE_NOCOLOR="true", ANSIBLE_FORCE_COLOR="false")

    def make(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a verb of the Makefile on it, as an operator does; the finished process, with its output."""
        laid_over = [f"VARS={word}" for word in self.options[1:]]
        return subprocess.run(
            ["make", "--no-print-directory", *laid_over, *arguments, *self.words],
            cwd=ROOT,
            env=dict(self.env, MAKEFLAGS=""),
            capture_output=True,
            text=True,
            check=False,
        )

    def cut_off(self, *arguments: str, when: Callable[[], object]) -> None:
        """Run a verb and kill it, with all that it started, as soon as a condition holds.

        Fails where the verb ends before; raises TimeoutError after 5 minutes.
        """
        said, mark = self.state / "cut-off.log", uuid.uuid4().hex
        laid_over = [f"VARS={word}" for word in self.options[1:]]
        self.state.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (
            said.open("w") as log,
            subprocess.Popen(
                ["make", *laid_over, *arguments, *self.words],
                cwd=ROOT,
                stdout=log,
                stderr=log,
                env=dict(self.env, MAKEFLAGS="", CUT_OFF=mark),
            ) as process,
        ):
            try:
                wait(lambda: when() or process.poll() is not None, "moment to cut it off", 300)
                missed = process.poll() is not None
            finally:
                # Ansible's workers have sessions of their own. A process that they start meanwhile is found next time.
                while pids := list(marked(mark)):
                    for pid in pids:
                        with contextlib.suppress(ProcessLookupError):
                            os.kill(pid, signal.SIGKILL)
        assert not missed, said.read_text()[-3000:]

    @functools.cached_property
    def loader(self) -> Any:
        """Ansible's loader of files, which opens the vault. Ends the tests where the environment does not stand."""
        if not self.environment.inventory.exists():
            pytest.exit(
                f"Tests ask an environment that stands, and {self.inventory} is not there. Build it: make converge {self.environment.make_args}",
                2,
            )
        return self.environment.view.loader

    @functools.cache
    def value(self, expression: str, host: str = "localhost") -> Any:
        """The value of an Ansible expression in a host's eyes, templated.

        Raises ansible.errors.AnsibleError where Ansible cannot evaluate it.
        """
        assert self.loader
        return self.environment.value(expression, host)

    @functools.cache
    def host(self, name: str) -> testinfra.host.Host:
        """A host, to run commands on as root."""
        return testinfra.host.Host(Inside(name, f"{self.name}-{name}"))

    def hosts(self, group: str) -> list[str]:
        """Names of the hosts of a group."""
        hosts: list[str] = self.value("groups")[group]
        return hosts

    def address(self, host: str) -> str:
        """Address peers reach a host at."""
        addresses: dict[str, str] = {member["name"]: member["address"] for member in self.value("all_hosts")}
        return addresses[host]

    @property
    def key(self) -> str:
        """Path of the private key that opens the hosts."""
        return os.path.expanduser(str(self.value("hostvars[groups['all'][0]].ansible_ssh_private_key_file")))

    @property
    def authority(self) -> str:
        """Path of the certificate that the environment's own authority signs with."""
        return str(self.environment.certificate_authority)

    @property
    def url(self) -> str:
        """The site as a visitor types it: https and the virtual IP."""
        return "https://" + str(self.value("hostvars[groups['lb'][0]].lb_vip"))
