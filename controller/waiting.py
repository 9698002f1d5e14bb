"""Say that a program goes on while it waits for what prints nothing: a line on the terminal, with about how long it will take."""

import contextlib
import pathlib
import shutil
import sys
import threading
import time
from collections.abc import Iterator

from controller.progress import read_times, running_line, write_times

AT_FIRST = 1.0  # seconds without a line: what is quick needs none


@contextlib.contextmanager
def waiting(what: str, state: pathlib.Path, key: str) -> Iterator[None]:
    """Show what is waited for, until the block ends. state: of the environment; key: what the time is remembered by."""
    begun, end, times = time.monotonic(), threading.Event(), state / "times.json"
    before = read_times(times).get(key, [])

    def show() -> None:
        wait = AT_FIRST
        while not end.wait(wait):
            wait, elapsed = 1.0, time.monotonic() - begun
            rest = before[0][1] - elapsed if before else None
            line = running_line(what, "", (0, 1), elapsed, rest, "", shutil.get_terminal_size().columns - 1)
            print(f"\r{line}\x1b[K", end="", file=sys.stderr, flush=True)

    thread = threading.Thread(target=show, daemon=True)
    if sys.stderr.isatty():
        thread.start()
    try:
        yield
    finally:
        end.set()
        if thread.ident:
            thread.join()
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
    write_times(times, key, [(what, time.monotonic() - begun)])
