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

GRACE_S = 300.0  # seconds that running steps have to end, once a step has failed
TERMINATION_S = 20.0  # seconds that a step has to end when it is asked to
POLL_S = 0.5  # seconds between two checks of those limits


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
    pids = [pid]
    for parent in pids:
        pids += children.get(parent, [])
    return pids


def stop(process: subprocess.Popen[bytes]) -> None:
    """Ask a step to end, and end it with all that it has started where it does not."""
    started = descendants(process.pid)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    deadline = time.monotonic() + TERMINATION_S
    while os.path.exists(f"/proc/{process.pid}") and time.monotonic() < deadline:
        time.sleep(POLL_S)  # another thread awaits the end of the process
    for pid in {*started, *descendants(process.pid)}:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


class Run:
    """A run of steps. `command(step)` is (arguments, variables); `print_line(line)` prints; outputs go to files of a directory."""

    def __init__(
        self,
        order: list[plan.Step],
        command: Callable[[plan.Step], tuple[list[str], dict[str, str]]],
        print_line: Callable[[str], None],
        directory: pathlib.Path,
        processors: float,
        meter: usage.Meter,
    ) -> None:
        self.waiting, self.command, self.print_line, self.directory = list(order), command, print_line, directory
        self.processors, self.meter = processors, meter
        self.running: dict[plan.Step, subprocess.Popen[bytes]] = {}
        self.ended: list[Ended] = []
        self.ends: queue.Queue[tuple[plan.Step, float, str, str, usage.Moment, float]] = queue.Queue()
        self.started = time.monotonic()
        self.stopped = ""

    @property
    def failed(self) -> list[str]:
        """The steps that failed."""
        return [ended.slot.name for ended in self.ended if ended.code]

    def interrupt(self, number: int, _frame: types.FrameType | None = None) -> None:
        """End what runs, and begin nothing more: a handler for signals."""
        self.stopped = self.stopped or signal.Signals(number).name

    def execute(self) -> list[Ended]:
        """Run all steps, or until a step fails; the steps that have ended, in that order. After a failure no step begins, and running steps have GRACE_S seconds."""
        predecessor = ""
        hindrances: dict[str, str] = {}
        deadline: float | None = None
        while True:
            if not self.failed and not self.stopped:
                done = {ended.slot.name for ended in self.ended}
                for step in plan.beginning(self.waiting, list(self.running), done, self.processors):
                    self.start_step(step, predecessor, hindrances.get(step.name, ""))
                if self.waiting and not self.running:
                    raise ValueError(f"these wait for each other: {', '.join(step.name for step in self.waiting)}")
                hindrances = {
                    step.name: plan.hindrance(step, list(self.running), done, self.processors) for step in self.waiting
                }
            elif deadline is None:
                deadline = time.monotonic() + (0 if self.stopped else GRACE_S)
            if not self.running:
                return self.ended
            if deadline is not None and (self.stopped or time.monotonic() > deadline):
                for process in list(self.running.values()):
                    stop(process)
            with contextlib.suppress(queue.Empty):
                predecessor = self.end_step(*self.ends.get(timeout=POLL_S))

    def start_step(self, step: plan.Step, predecessor: str, hindrance: str) -> None:
        """Start a step after the end of another, which hindered that step ("" for both: nothing did)."""
        arguments, variables = self.command(step)
        log = self.directory / f"{step.name}.log"
        before = self.meter.moment()
        start = time.monotonic() - self.started
        beside = f" beside {', '.join(other.name for other in self.running)}" if self.running else ""
        self.print_line(f"{step.name} begins{beside}: {' '.join(arguments)}")
        with log.open("wb") as output:
            process = subprocess.Popen(
                arguments,
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                env=dict(os.environ, TEST_STEP=step.name, **variables),
            )
        self.waiting.remove(step)
        self.running[step] = process

        def wait() -> None:
            _pid, status, usage_of_process = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            seconds = usage_of_process.ru_utime + usage_of_process.ru_stime
            self.ends.put((step, start, predecessor, hindrance, before, seconds))

        threading.Thread(target=wait, daemon=True).start()

    def end_step(
        self, step: plan.Step, start: float, predecessor: str, hindrance: str, before: usage.Moment, seconds: float
    ) -> str:
        """Record the end of a step, and print the output; the name of the step. `seconds`: processor time of the processes."""
        after = self.meter.moment()
        slot = plan.Slot(step.name, start, time.monotonic() - self.started, predecessor, hindrance)
        code = self.running.pop(step).returncode
        used = after.used(before, list(step.environments))
        self.ended.append(
            Ended(
                slot,
                code,
                None if used is None else (used + seconds) / max(slot.seconds, 0.01),
                after.share_idle(before),
            )
        )
        result = (
            "ended well"
            if not code
            else f"FAILED ({code})"
            if code > 0
            else f"was ended by {signal.Signals(-code).name}"
        )
        self.print_line(f"{step.name} {result} after {slot.seconds:.0f} s")
        print(f"=== {step.name}: {' '.join(self.command(step)[0])}")
        print((self.directory / f"{step.name}.log").read_text(encoding="utf-8", errors="replace"), end="", flush=True)
        return step.name
