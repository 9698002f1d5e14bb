"""Run steps in the planned order, each with its output in a file of its own, and measure what each takes."""

import contextlib
import dataclasses
import os
import pathlib
import queue
import signal
import subprocess
import threading
import time
import types
from collections.abc import Callable

import plan
import usage

GRACE = 300.0  # seconds that the others have to end by themselves, once a step has failed
GOODBYE = 20.0  # seconds that a step has to end when it is asked to
LOOK = 0.5  # seconds between two looks whether that time is over


@dataclasses.dataclass(frozen=True)
class Ended:
    """A step that has ended: its exit code (negative: by a signal), when it ran, and what it used of the processors."""

    slot: plan.Slot
    code: int
    cores: float | None  # on average, of its own processes and its environments' containers; None where not counted
    idle: float  # share of all processors that was idle meanwhile


def descendants(pid: int) -> list[int]:
    """A process and all that it has started, whatever sessions those are in."""
    children: dict[int, list[int]] = {}
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended
            name, _bracket, fields = stat.read_text(encoding="utf-8", errors="replace").rpartition(")")
            children.setdefault(int(fields.split()[1]), []).append(int(name.split()[0]))
    found = [pid]
    for one in found:
        found += children.get(one, [])
    return found


def stop(process: subprocess.Popen[bytes]) -> None:
    """Ask a step to end, and end it with all that it has started where it does not."""
    others = descendants(process.pid)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    deadline = time.monotonic() + GOODBYE
    while os.path.exists(f"/proc/{process.pid}") and time.monotonic() < deadline:
        time.sleep(LOOK)  # between two looks at whether it has ended: another thread awaits it
    for pid in {*others, *descendants(process.pid)}:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


class Run:
    """A run of steps. `command(step)` is (words, variables); `say(line)` prints; outputs go to files of a directory."""

    def __init__(
        self,
        order: list[plan.Step],
        command: Callable[[plan.Step], tuple[list[str], dict[str, str]]],
        say: Callable[[str], None],
        directory: pathlib.Path,
        processors: float,
        meter: usage.Meter,
    ) -> None:
        self.waiting, self.command, self.say, self.directory = list(order), command, say, directory
        self.processors, self.meter = processors, meter
        self.running: dict[plan.Step, subprocess.Popen[bytes]] = {}
        self.ended: list[Ended] = []
        self.ends: queue.Queue[tuple[plan.Step, float, str, str, usage.Moment, float]] = queue.Queue()
        self.begun = time.monotonic()
        self.stopped = ""

    @property
    def broken(self) -> list[str]:
        """The steps that failed."""
        return [one.slot.name for one in self.ended if one.code]

    def interrupt(self, number: int, _frame: types.FrameType | None = None) -> None:
        """End what runs, and begin nothing more: a handler for signals."""
        self.stopped = self.stopped or signal.Signals(number).name

    def go(self) -> list[Ended]:
        """Run all, or until one fails; what has ended, in that order. Begins nothing after a failure; who runs then has GRACE seconds."""
        behind = ""
        hindered: dict[str, str] = {}
        deadline: float | None = None
        while True:
            if not self.broken and not self.stopped:
                done = {one.slot.name for one in self.ended}
                for step in plan.beginning(self.waiting, list(self.running), done, self.processors):
                    self.begin(step, behind, hindered.get(step.name, ""))
                if self.waiting and not self.running:
                    raise ValueError(f"these wait for each other: {', '.join(step.name for step in self.waiting)}")
                hindered = {
                    step.name: plan.hindrance(step, list(self.running), done, self.processors) for step in self.waiting
                }
            elif deadline is None:
                deadline = time.monotonic() + (0 if self.stopped else GRACE)
            if not self.running:
                return self.ended
            if deadline is not None and (self.stopped or time.monotonic() > deadline):
                for process in list(self.running.values()):
                    stop(process)
            with contextlib.suppress(queue.Empty):
                behind = self.take(*self.ends.get(timeout=LOOK))

    def begin(self, step: plan.Step, behind: str, why: str) -> None:
        """Start a step."""
        words, variables = self.command(step)
        log = self.directory / f"{step.name}.log"
        before = self.meter.moment()
        start = time.monotonic() - self.begun
        beside = f" beside {', '.join(other.name for other in self.running)}" if self.running else ""
        self.say(f"{step.name} begins{beside}: {' '.join(words)}")
        with log.open("wb") as output:
            process = subprocess.Popen(
                words,
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                env=dict(os.environ, TEST_STEP=step.name, **variables),
            )
        self.waiting.remove(step)
        self.running[step] = process

        def wait() -> None:
            _pid, status, spent = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            self.ends.put((step, start, behind, why, before, spent.ru_utime + spent.ru_stime))

        threading.Thread(target=wait, daemon=True).start()

    def take(self, step: plan.Step, start: float, behind: str, why: str, before: usage.Moment, spent: float) -> str:
        """Note that a step has ended, and print what it said; its name."""
        after, slot = self.meter.moment(), plan.Slot(step.name, start, time.monotonic() - self.begun, behind, why)
        code = self.running.pop(step).returncode
        used = after.used(before, list(step.environments))
        self.ended.append(
            Ended(
                slot, code, None if used is None else (used + spent) / max(slot.seconds, 0.01), after.share_idle(before)
            )
        )
        how = (
            "ended well"
            if not code
            else f"FAILED ({code})"
            if code > 0
            else f"was ended by {signal.Signals(-code).name}"
        )
        self.say(f"{step.name} {how} after {slot.seconds:.0f} s")
        print(f"=== {step.name}: {' '.join(self.command(step)[0])}")
        print((self.directory / f"{step.name}.log").read_text(encoding="utf-8", errors="replace"), end="", flush=True)
        return step.name
