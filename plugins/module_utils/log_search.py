"""Finds lines in the logs that a host keeps of all. It needs no Ansible on the host: `make logs` sends it to a bare Python."""

from __future__ import annotations

import datetime
import fnmatch
import gzip
import heapq
import pathlib
import re
from collections.abc import Iterable, Iterator

TYPE_CHECKING = False  # what is only for a type checker is not imported: that takes longer than all else
if TYPE_CHECKING:
    from typing import Any

# Time, host, name[process]: words
LINE = re.compile(r"(?P<time>\S+) (?P<host>\S+) (?P<name>[^\s:\[]+)")
OWN = "ansible-log_lines"  # what Ansible itself tells syslog about a search, with the words that were searched for


def files(directory: str, host: str, since: float) -> list[pathlib.Path]:
    """Paths of a host's files, or of everybody's, that have been written to since."""
    return [
        path
        for path in sorted(pathlib.Path(directory).glob("*.log*"))
        if fnmatch.fnmatchcase(path.name.partition(".log")[0], host or "*") and path.stat().st_mtime >= since
    ]


def read(path: pathlib.Path) -> Iterator[bytes]:
    """Yield the lines of a file, which may be compressed. One that is rotated meanwhile ends where it ends."""
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rb") as lines:
        try:
            yield from lines
        except EOFError:
            return


def matching(lines: Iterable[bytes], request: str, unit: str, since: float) -> Iterator[tuple[float, str]]:
    """Yield (time in seconds since 1970, text) of the lines that are asked for."""
    word = request.encode()
    for raw in lines:
        if word not in raw:
            continue
        text = raw.decode(errors="replace").rstrip("\n")
        match = LINE.match(text)
        if (
            not match
            or match["name"] == OWN
            or (unit and match["name"] != unit and not match["name"].startswith(f"{unit}-"))
        ):
            continue
        try:
            at = datetime.datetime.fromisoformat(match["time"]).timestamp()
        except ValueError:
            continue
        if at >= since:
            yield at, text


def search(
    directory: str, request: str = "", host: str = "", unit: str = "", since: float = 0, most: int = 10000
) -> tuple[list[str], int]:
    """(lines in the order of time, how many older ones there are)."""
    newest: list[tuple[float, int, str]] = []
    count = 0
    for path in files(directory, host, since):
        try:
            for at, text in matching(read(path), request, unit, since):
                count += 1
                # In the order of coming where the time is the same.
                entry = (at, count, text)
                if len(newest) < most:
                    heapq.heappush(newest, entry)
                else:
                    heapq.heappushpop(newest, entry)
        except FileNotFoundError:
            continue  # rotated away
    return [text for _at, _count, text in sorted(newest)], count - len(newest)


def result(**query: Any) -> dict[str, Any]:
    """The same, as the module log_lines returns it."""
    lines, left_off = search(**query)
    return {"lines": lines, "left_off": left_off}
