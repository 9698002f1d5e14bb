"""One line a stage instead of a thousand lines of tasks: what ansible-playbook prints here (docs/progress.md).

A stage is a play. On a terminal a last line shows what is happening, and each stage that has ended keeps a line. Without a terminal
there is a line for each stage, and one every half a minute while a stage takes longer. What Ansible's own callback prints is kept in
last.log of the environment's state directory; VERBOSE=1 and a dry run print it, too.

From the Makefile: VERB is what was typed, as make writes it; VERB_RUN is the same for all playbooks of one verb, which share a log;
PROGRESS=quiet, for what a verb does by the way, prints nothing but failures and messages about changes.
"""

from __future__ import annotations

import atexit
import contextlib
import datetime
import os
import pathlib
import shutil
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any, TextIO

from ansible import context
from ansible.constants import COLOR_ERROR
from ansible.executor.task_result import CallbackTaskResult
from ansible.playbook.play import Play
from ansible.playbook.task import Task
from ansible.plugins.callback.default import CallbackModule as Default

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
from controller.environment import Environment
from controller.live import Live
from controller.progress import (
    Failure,
    Plays,
    duration,
    ended_line,
    failed_text,
    hosts_of,
    key_of,
    left,
    read_times,
    reason,
    running_line,
    text_of,
    typed,
    write_times,
)

DOCUMENTATION = """
    name: progress
    type: stdout
    short_description: One line a stage
    version_added: historical
    description: One line for each play, the failures that end the run, and the whole output of the default callback in a file.
    extends_documentation_fragment: [default_callback, result_format_callback]
"""

EVERY = 30  # seconds between two lines of a stage where there is no terminal
WIDTH = 200  # characters of such a line


def state_of(inventory: str) -> pathlib.Path | None:
    """The directory that keeps what belongs to an inventory's environment; None where it is no environment's."""
    path = pathlib.Path(inventory).absolute()
    if path.suffix not in (".yml", ".yaml") or path.parent.name not in ("inventory", "inventories"):
        return None
    state = Environment(path).state
    return state if state.is_dir() else None


def uuids(nodes: Iterable[Any] | None) -> Iterator[str]:
    """Those of tasks and blocks, and of all that is in them."""
    for node in nodes or []:
        yield node._uuid
        for part in ("block", "rescue", "always"):
            yield from uuids(getattr(node, part, None))


def is_rescued(task: Task) -> bool:
    """Whether a block around a task goes on when it fails."""
    inside, node = set(), task
    while node is not None:
        inside.add(node._uuid)
        if getattr(node, "rescue", None) and not inside & {*uuids(node.rescue), *uuids(node.always)}:
            return True
        node = node._parent
    return False


class Stage:
    """A play that runs."""

    def __init__(self, play: Play, begun: float) -> None:
        self.uuid, self.name, self.begun, self.all = play._uuid, play.get_name().strip(), begun, 0
        self.changed = 0
        self.results: dict[str, bool] = {}  # hosts, in the order of their first result
        self.batch: set[str] = set()
        self.failed: set[str] = set()


class Tee:
    """What Ansible's own callback takes for its display: everything goes to the log, and to the screen where that is wanted."""

    def __init__(self, progress: CallbackModule, display: Any) -> None:
        self.progress, self.real, self.screen = progress, display, False
        self.muted: int | None = None  # a thread

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def display(
        self,
        msg: str,
        color: str | None = None,
        stderr: bool = False,
        screen_only: bool = False,
        log_only: bool = False,
        newline: bool = True,
    ) -> None:
        """In place of Display.display."""
        if not screen_only:
            self.progress.write(msg)
        if self.screen and not log_only:
            self.progress.show(msg, color=color, stderr=stderr, newline=newline)

    def banner(self, msg: str, color: str | None = None, cows: bool = True) -> None:
        """In place of Display.banner."""
        type(self.real).banner(self, msg, color, cows)

    def _error(self, *error: Any, **how: Any) -> None:
        """In place of Display._error: the trace of a task that failed, rescued or not."""
        self.muted = None if self.screen else threading.get_ident()
        try:
            self.real._error(*error, **how)
        finally:
            self.muted = None


class CallbackModule(Default):
    """Stages on the screen, everything in the log."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "stdout"
    CALLBACK_NAME = "progress"

    def __init__(self) -> None:
        super().__init__()
        self.real: Any = self._display
        self.pid, self.begun = os.getpid(), time.monotonic()
        self.log: TextIO | None = None
        self.state: pathlib.Path | None = None
        self._display: Any = Tee(self, self.real)
        self.print, self.lock = self.real.display, self.real._lock
        self.live, self.stop = Live(sys.stdout), threading.Event()
        self.quiet = os.environ.get("PROGRESS") == "quiet"
        self.stage: Stage | None = None
        self.task: Task | None = None
        self.done: set[str] = set()  # hosts that are done with the task
        self.note, self.asks, self.spoke = "", False, 0.0
        self.key, self.changed = "", 0
        self.before: Plays = []
        self.ended: list[tuple[str, float]] = []
        self.fatal: list[Failure] = []
        self.rescued: list[Failure] = []

    # -------------------------------------------------------------- where it goes

    def write(self, text: str) -> None:
        """Add a text to the log."""
        if self.log:
            with self.lock:
                self.log.write(text.removesuffix("\n") + "\n")

    def show(self, text: str, **how: Any) -> None:
        """Print a text, above the line that shows what runs."""
        with self.lock:
            self.live.clear()
            self.print(text, **how)
            sys.stdout.flush()

    def display_message(self, msg: str, *rest: Any, screen_only: bool = False, **how: Any) -> None:
        """In place of Display.display for everybody but this callback: warnings, errors, questions. Forked workers pass theirs on."""
        if os.getpid() != self.pid:
            self.print(msg, *rest, screen_only=screen_only, **how)
            return
        if not screen_only:
            self.write(msg)
        if self._display.muted != threading.get_ident():
            self.show(msg, *rest, screen_only=screen_only, **how)

    def open_log(self) -> None:
        """Begin the log, or go on with the one of the same verb."""
        self.state = next(filter(None, map(state_of, reversed(context.CLIARGS.get("inventory") or ()))), None)
        if not self.state:
            return
        path, run, verb = self.state / "last.log", os.environ.get("VERB_RUN", ""), os.environ.get("VERB", "")
        with contextlib.suppress(OSError):
            same = (
                run
                and path.exists()
                and path.read_text(encoding="utf-8", errors="replace").partition("\n")[0].endswith(f" {run}")
            )
            if not same:
                path.unlink(missing_ok=True)  # a run that has it open keeps its own
            self.log = open(
                path,
                "a",
                buffering=1,
                encoding="utf-8",
                errors="replace",
                opener=lambda name, flags: os.open(name, flags, 0o600),
            )
            if not same:
                self.write(
                    f"# {typed(verb) or 'ansible-playbook'}, {datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M:%S} UTC, run {run}"
                )

    # -------------------------------------------------------------- what runs

    def draw(self) -> None:
        """Show what runs."""
        if not self.stage or self.asks:
            return
        now = time.monotonic()
        earlier = len(self.stage.results.keys() - self.stage.batch)
        only = 1 if self.task is not None and self.task.run_once is True else self.stage.all
        elapsed = now - self.stage.begun
        line = running_line(
            self.stage.name,
            self.task.get_name().strip() if self.task is not None else "",
            (min(earlier + len(self.done), only), only),
            elapsed,
            left(self.before, self.ended, self.stage.name, elapsed),
            self.note,
            shutil.get_terminal_size().columns - 1 if self.live.terminal else WIDTH,
        )
        if self.live.terminal:
            self.live.draw(line)
        elif not self.quiet and not self._display.screen and now - self.spoke >= EVERY:
            self.spoke = now
            self.show(line)

    def tick(self) -> None:
        """Show every second what runs, however long it takes."""
        while not self.stop.wait(1.0):
            with self.lock:  # nobody forks meanwhile: a worker would wait for a lock of this thread's for ever
                self.draw()

    def end_stage(self) -> None:
        """Keep a line of the stage that has ended."""
        stage, self.stage = self.stage, None
        if stage is None or not stage.results:
            return
        seconds = time.monotonic() - stage.begun
        self.ended.append((stage.name, seconds))
        with self.lock:
            self.live.clear()
            if not self.quiet and not self._display.screen:
                self.show(
                    ended_line(stage.name, stage.results, seconds, stage.changed, len(stage.failed)),
                    color=COLOR_ERROR if stage.failed else None,
                )

    def end(self) -> None:
        """Leave a clean terminal, and say what failed where the run was cut off before it could."""
        self.stop.set()
        with self.lock:
            self.live.clear()
        if self.fatal and os.getpid() == self.pid:
            self.say_failures()

    def say_failures(self) -> None:
        """Print the failures, and what to do next; once."""
        log = os.path.relpath(self.state / "last.log") if self.state else ""
        # Where everything is printed, they are already.
        text = failed_text([] if self._display.screen else self.fatal, log, os.environ.get("VERB", ""))
        self.fatal = []
        self.show(f"\n{text}" if self.live.terminal else text)

    def result(self, result: CallbackTaskResult) -> None:
        """Count the result of a task on a host."""
        if self.stage:
            host = result.host.get_name()
            self.done.add(host)
            self.stage.batch.add(host)
            self.stage.results[host] = True
            self.note = ""

    def failure(self, result: CallbackTaskResult, ignored: bool) -> None:
        """Count a task that failed on a host."""
        self.result(result)
        if ignored:
            return
        host, location = result.host.get_name(), result.task.get_path() or ""
        what = (host, result.task.get_name().strip(), location.removeprefix(f"{ROOT}/"), reason(result.result))
        if is_rescued(result.task):
            self.rescued.append(what)
        else:
            self.fatal.append(what)
            if self.stage:
                self.stage.failed.add(host)

    # -------------------------------------------------------------- what Ansible calls

    def _handle_exception(self, result: dict[str, Any], use_stderr: bool = False) -> None:
        """Ansible hides the result of a task with no_log, and not why it failed."""
        if "censored" in result:
            result.pop("exception", None)
        super()._handle_exception(result, use_stderr=use_stderr)

    def v2_playbook_on_start(self, playbook: Any) -> None:
        self._display.screen = bool(os.environ.get("VERBOSE") or context.CLIARGS.get("check") or self.real.verbosity)
        self.open_log()
        self.key = key_of(os.path.basename(playbook._file_name), context.CLIARGS)
        self.before = read_times(self.state / "times.json").get(self.key, []) if self.state else []
        self.real.display = self.display_message
        atexit.register(self.end)
        threading.Thread(target=self.tick, daemon=True, name="progress").start()
        super().v2_playbook_on_start(playbook)

    def v2_playbook_on_play_start(self, play: Play) -> None:
        if self.stage is None or self.stage.uuid != play._uuid:  # or else its next batch
            self.end_stage()
            self.stage, self.spoke = Stage(play, time.monotonic()), time.monotonic()
            inventory = play.get_variable_manager()._inventory
            self.stage.all = len(inventory.get_hosts(play.hosts, ignore_restrictions=True)) if inventory else 0
        self.task, self.done, self.stage.batch, self.note = None, set(), set(), ""
        super().v2_playbook_on_play_start(play)

    def _task_start(self, task: Task, prefix: str | None = None) -> None:
        self.task, self.done, self.note = task, set(), ""
        self.asks = task.action.rpartition(".")[2] == "pause"
        if self.live.terminal:
            with self.lock:
                if self.asks:
                    self.live.clear()
                self.draw()
        super()._task_start(task, prefix)

    def v2_runner_on_ok(self, result: CallbackTaskResult) -> None:
        self.result(result)
        if result.result.get("changed"):
            if self.stage:
                self.stage.changed += 1
            # A message to whoever typed the verb.
            if result.task.action.rpartition(".")[2] == "debug" and "msg" in result.result and not self._display.screen:
                self.show("\n".join(f"    {line}" for line in text_of(result.result["msg"]).splitlines()))
        super().v2_runner_on_ok(result)

    def v2_runner_on_skipped(self, result: CallbackTaskResult) -> None:
        self.result(result)
        super().v2_runner_on_skipped(result)

    def v2_runner_on_failed(self, result: CallbackTaskResult, ignore_errors: bool = False) -> None:
        self.failure(result, ignore_errors)
        super().v2_runner_on_failed(result, ignore_errors)

    def v2_runner_on_unreachable(self, result: CallbackTaskResult) -> None:
        self.failure(result, result.task.ignore_unreachable is True)
        super().v2_runner_on_unreachable(result)

    def v2_runner_retry(self, result: CallbackTaskResult) -> None:
        seconds = result.result.get("running_for")  # plugins/modules/long_command.py
        if seconds is None:
            super().v2_runner_retry(result)
            return
        self.note = result.result.get("last_line", "")
        self._display.display(f"running: [{self.host_label(result)}] {duration(seconds)}: {self.note}")

    def v2_playbook_on_stats(self, stats: Any) -> None:
        self.stop.set()
        self.end_stage()
        # What was to be rescued and was not, for whatever reason, is not kept back.
        for host in sorted(stats.processed):
            if (stats.failures.get(host) or stats.dark.get(host)) and host not in {failed[0] for failed in self.fatal}:
                self.fatal += [failed for failed in self.rescued if failed[0] == host][-1:]
        screen = self._display.screen
        self._display.screen = screen or not self.quiet and not self.live.terminal
        super().v2_playbook_on_stats(stats)
        self._display.screen = screen
        if self.live.terminal and not self.quiet and not screen:
            sums = [stats.summarize(host) for host in stats.processed]
            hosts = hosts_of([host for host in stats.processed if host != "localhost"] or ["localhost"])
            counts = [f"{sum(summary[kind] for summary in sums)} {kind}" for kind in ("ok", "changed")]
            self.show("  ".join(["   ", hosts, *counts, duration(time.monotonic() - self.begun)]))
        if self.fatal:
            self.say_failures()
        elif self.state and not any((*stats.failures.values(), *stats.dark.values())):
            write_times(self.state / "times.json", self.key, self.ended)
