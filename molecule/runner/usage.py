"""How much of the processors the machine, the containers of each environment and a step's own processes used."""

import contextlib
import dataclasses
import glob
import os
import pathlib
import re
import subprocess
import threading
from collections.abc import Callable
from typing import Self

# Where a container's counter is: an engine whose groups this machine sees, one by systemd, and one in a mount namespace of its own (containers' engine.sh).
COUNTERS = (
    "/sys/fs/cgroup/docker/*/cpu.stat",
    "/sys/fs/cgroup/system.slice/docker-*.scope/cpu.stat",
    "/sys/fs/cgroup/unified/docker/*/cpu.stat",
    "/proc/{engine}/root/sys/fs/cgroup/docker/*/cpu.stat",
)
ENGINE = pathlib.Path("/run/realworld-engine/pid")
INTERVAL_S = (
    3.0  # seconds between two readings: what a container used after the last reading before its removal is not counted
)
AS_ROOT = [] if os.geteuid() == 0 else ["sudo"]


@dataclasses.dataclass(frozen=True)
class Moment:
    """Processor seconds since some moment in the past: of all processors (busy and idle), and of the containers of each environment.

    environments is {environment: seconds}; None as long as no counter of a container was read.
    """

    busy: float
    idle: float
    environments: dict[str, float] | None

    def share_idle(self, before: "Moment") -> float:
        """The share of all processors that was idle since a moment before, from 0 to 1."""
        idle, busy = self.idle - before.idle, self.busy - before.busy
        return idle / (idle + busy) if idle + busy else 0.0

    def used(self, before: "Moment", names: list[str]) -> float | None:
        """Processor seconds that the containers of some environments used since a moment before; None where they are not counted."""
        if self.environments is None:
            return 0.0 if not names else None
        earlier = before.environments or {}
        return sum(self.environments.get(name, 0.0) - earlier.get(name, 0.0) for name in names)


def machine(stat: str) -> tuple[float, float]:
    """(busy, idle) seconds of all processors, from the text of /proc/stat. Waiting for a disk is idle."""
    user, nice, system, idle, waiting, interrupts, soft, stolen = map(int, stat.split("\n", 1)[0].split()[1:9])
    tick = os.sysconf("SC_CLK_TCK")
    return (user + nice + system + interrupts + soft + stolen) / tick, (idle + waiting) / tick


def counters() -> dict[str, float]:
    """{container's id: processor seconds that it has used}; empty where they are not counted."""
    engine = ENGINE.read_text().strip() if ENGINE.exists() else "none"
    for pattern in COUNTERS:
        seconds = {}
        for path in glob.glob(pattern.format(engine=engine)):
            with contextlib.suppress(OSError):  # it has just been removed
                identity = re.search(r"[0-9a-f]{64}", path)
                microseconds = re.search(r"usage_usec (\d+)", pathlib.Path(path).read_text())
                if identity and microseconds:
                    seconds[identity[0]] = int(microseconds[1]) / 1e6
        if seconds:
            return seconds
    return {}


def environments() -> dict[str, str]:
    """{id of a container: environment}."""
    command = [*AS_ROOT, "docker", "ps", "--no-trunc", "--format", '{{.ID}} {{.Label "realworld"}}']
    with contextlib.suppress(OSError):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return dict(line.partition(" ")[::2] for line in done.stdout.splitlines())
    return {}


class Meter:
    """Counts what the environments' containers use, also of those that are removed meanwhile. As a context it reads them every INTERVAL_S."""

    def __init__(
        self,
        read_seconds: Callable[[], dict[str, float]] = counters,
        read_environments: Callable[[], dict[str, str]] = environments,
    ) -> None:
        self.read_seconds, self.read_environments = read_seconds, read_environments
        self.last = dict(read_seconds())  # {id: seconds}
        self.environments: dict[str, str] = {}  # {id: environment}
        self.used: dict[str, float] = {}  # {environment: seconds}
        self.counted = bool(self.last)
        self.lock, self.stopped = threading.Lock(), threading.Event()

    def update(self) -> None:
        """Add what was used since the last reading."""
        with self.lock:
            now = self.read_seconds()
            self.counted = self.counted or bool(now)
            if set(now) - set(self.environments):
                self.environments |= dict.fromkeys(now, "") | self.read_environments()
            for identity, seconds in now.items():
                name = self.environments[identity]
                # A restarted container counts from zero.
                self.used[name] = (
                    self.used.get(name, 0.0)
                    + seconds
                    - (before if (before := self.last.get(identity, 0.0)) <= seconds else 0.0)
                )
            self.last = now

    def moment(self) -> Moment:
        """What was used until now."""
        self.update()
        return Moment(*machine(pathlib.Path("/proc/stat").read_text()), dict(self.used) if self.counted else None)

    def __enter__(self) -> Self:
        def watch() -> None:
            while not self.stopped.wait(INTERVAL_S):
                self.update()

        self.thread = threading.Thread(target=watch, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.stopped.set()
        self.thread.join()
