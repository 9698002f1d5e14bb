"""Measurements of this machine: commands, their seconds, and what those are as multiples of a yardstick."""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import ansible.executor.task_executor

from controller.environment import ROOT, Environment
from controller.report import table

PRODUCTION = Environment.named("production", rehearsed=True)
ENV = os.environ | PRODUCTION.own_variables | {"REHEARSE": "1", "MAKEFLAGS": ""}
YARDSTICK = (
    f"source = open({ansible.executor.task_executor.__file__!r}).read()\n"
    "for _ in range(25): compile(source, 'yardstick', 'exec')"
)
YARDSTICK_S = 0.2  # of a quiet hour of the machine that the bounds were set on
# Seconds that a verb may take there on twelve hosts; held as multiples of the yardstick.
BOUNDS = {
    "no-change site": 25,
    "status": 3,
    "logs of a request": 3,
    "deploy of a built release": 20,
    "rollback": 8,
    "add-node POOL=app, from bare": 40,
    "add-node POOL=app, from a golden image": 20,
    "remove-node": 15,
}


def run(*command: str, **extra: str) -> tuple[float, str]:
    """(seconds, standard output) of a command. Exits with the output where it fails."""
    start = time.monotonic()
    process = subprocess.run(command, cwd=ROOT, env={**ENV, **extra}, capture_output=True, text=True, check=False)
    if process.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{process.stdout[-4000:]}{process.stderr[-4000:]}")
    return time.monotonic() - start, process.stdout


def make(*arguments: str, **extra: str) -> tuple[float, str]:
    """Run a verb of the Makefile: (seconds, what it printed)."""
    return run("make", "--no-print-directory", *arguments, **extra)


def yardstick() -> float:
    """Seconds of the fixed piece of work, now."""
    return run(sys.executable, "-c", YARDSTICK)[0]


class Table:
    """Rows of (name, value, note)."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, str, str]] = []

    def row(self, name: str, value: str, note: str = "") -> None:
        """Add a row, and print it."""
        self.rows.append((name, value, note))
        print(f"  {name}: {value} {note}", flush=True)

    def seconds(self, name: str, measured: Callable[[], float], runs: int = 1, note: str = "") -> float:
        """Measure something so many times, between yardsticks; add the median, and return it."""
        seconds_each, sticks = [], [yardstick()]
        for _number in range(runs):
            seconds_each.append(measured())
            sticks.append(yardstick())
        seconds, ratio = statistics.median(seconds_each), statistics.median(seconds_each) / statistics.median(sticks)
        bound = BOUNDS.get(name)
        verdict = (
            ""
            if bound is None
            else f"; bound {bound / YARDSTICK_S:.0f} x: {'held' if ratio <= bound / YARDSTICK_S else 'MISSED'}"
        )
        spread = "" if runs == 1 else f", median of {runs} from {min(seconds_each):.1f} to {max(seconds_each):.1f}"
        self.row(name, f"{seconds:.1f} s", f"{ratio:.1f} x yardstick{verdict}{spread}{note}")
        return seconds

    def print(self) -> None:
        """Print all rows in columns."""
        print("\n" + "\n".join(table(self.rows, right=[1], indent=0, gap=2)))
