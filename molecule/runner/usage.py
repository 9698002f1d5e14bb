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
EVERY = 3.0  # seconds between two looks: what a container used since the last one before it was removed is not seen
AS_ROOT = [] if os.geteuid() == 0 else ["sudo"]


@dataclasses.dataclass(frozen=True)
class Moment:
    """Processor seconds since some moment in the past: of all processors (busy and idle), and of the containers of each environment.

    environments is {environment: seconds}; None as long as no container's counter was seen.
    """

    busy: float
    idle: float
    environments: dict[str, float] | None

    def share_idle(self, before: "Moment") -> float:
        """The share of all processors that was idle since a moment before, from 0 to 1."""
        idle, busy = self.idle - before.idle, self.busy - before.busy
        return idle / (idle + busy) if idle + busy else 0.0

    def used(self, before: "Moment", names: list[str]) -> float | None:
        """Processor seconds that the containers of some environments used since a moment before; None where nobody counts them."""
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
    """{container's id: processor seconds that it has used}; empty where nobody counts them."""
    engine = ENGINE.read_text().strip() if ENGINE.exists() else "none"
    for pattern in COUNTERS:
        found = {}
        for path in glob.glob(pattern.format(engine=engine)):
            with contextlib.suppress(OSError):  # it has just been removed
                identity = re.search(r"[0-9a-f]{64}", path)
                microseconds = re.search(r"usage_usec (\d+)", pathlib.Path(path).read_text())
                if identity and microseconds:
                    found[identity[0]] = int(microseconds[1]) / 1e6
        if found:
            return found
    return {}


def owners() -> dict[str, str]:
    """{container's id: its environment}."""
    words = [*AS_ROOT, "docker", "ps", "--no-trunc", "--format", '{{.ID}} {{.Label "realworld"}}']
    with contextlib.suppress(OSError):
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        return dict(line.partition(" ")[::2] for line in done.stdout.splitlines())
    return {}


class Meter:
    """Counts what the environments' containers use, also of those that are removed meanwhile. As a context it looks again and again."""

    def __init__(
        self, read: Callable[[], dict[str, float]] = counters, ask: Callable[[], dict[str, str]] = owners
    ) -> None:
        self.read, self.ask = read, ask
        self.seen = dict(read())  # {id: seconds}
        self.owner: dict[str, str] = {}  # {id: environment}
        self.used: dict[str, float] = {}  # {environment: seconds}
        self.known = bool(self.seen)
        self.lock, self.over = threading.Lock(), threading.Event()

    def look(self) -> None:
        """Add what was used since the last look."""
        with self.lock:
            now = self.read()
            self.known = self.known or bool(now)
            if set(now) - set(self.owner):
                self.owner |= dict.fromkeys(now, "") | self.ask()
            for identity, seconds in now.items():
                name = self.owner[identity]
                # One that was started again counts from nothing.
                self.used[name] = (
                    self.used.get(name, 0.0)
                    + seconds
                    - (before if (before := self.seen.get(identity, 0.0)) <= seconds else 0.0)
                )
            self.seen = now

    def moment(self) -> Moment:
        """What was used until now."""
        self.look()
        return Moment(*machine(pathlib.Path("/proc/stat").read_text()), dict(self.used) if self.known else None)

    def __enter__(self) -> Self:
        def watch() -> None:
            while not self.over.wait(EVERY):
                self.look()

        self.thread = threading.Thread(target=watch, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.over.set()
        self.thread.join()
