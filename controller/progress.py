"""What plugins/callback/progress.py prints, as functions of what is known."""

import contextlib
import json
import os
import pathlib
import re
import shlex
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

LINES = 5  # of what a failed command printed last
Plays = Sequence[tuple[str, float]]  # (name of a play, its seconds), in order
Failure = tuple[str, str, str, str]  # host, task, its file and line, reason


def duration(seconds: float) -> str:
    """Seconds as a person reads them: "14 s", "2 min 5 s"."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def estimate(seconds: float | None) -> str:
    """Seconds that are left as words, no more exact than they are; empty where unknown or nearly none."""
    if seconds is None or seconds < 2:
        return ""
    return (
        f"about {round(seconds / 60)} min left"
        if seconds >= 90
        else f"about {round(seconds / 5) * 5 if seconds > 20 else round(seconds)} s left"
    )


def left(before: Plays, ended: Plays, name: str, elapsed: float) -> float | None:
    """Seconds until the end of a run; None where nothing is known about it.

    before, ended: plays of the run before and of this one so far; name, elapsed: those of the play that runs.
    What takes longer or shorter than before is taken to go on like that, within a factor of four.
    """
    if not before:
        return None

    def position(play: str, start: int) -> int | None:
        """Where a play is from a place on; None where it is not."""
        return next(
            (number for number, (other, _seconds) in enumerate(before) if number >= start and other == play), None
        )

    start, expected, taken = 0, 0.0, 0.0
    for play, seconds in ended:
        number = position(play, start)
        if number is not None:
            start, expected, taken = number + 1, expected + before[number][1], taken + seconds
    pace = min(max(taken / expected, 0.25), 4.0) if expected >= 5 else 1.0
    current = position(name, start)
    rest = before[start if current is None else current + 1 :]
    return (max(before[current][1] * pace - elapsed, 0) if current is not None else 0) + sum(
        seconds for _play, seconds in rest
    ) * pace


def hosts_of(names: Collection[str]) -> str:
    """How many hosts, or which one."""
    return next(iter(names)) if len(names) == 1 else f"{len(names)} hosts"


def ended_line(name: str, hosts: Collection[str], seconds: float, changed: int, failed: int) -> str:
    """The line of a stage that has ended. hosts: their names; changed, failed: numbers of results and of hosts."""
    columns = [
        f"  {'✗' if failed else '✓'} {name:<44}",
        f"{hosts_of(hosts):<10}",
        f"{duration(seconds):>11}",
        *([f"{changed} changed"] if changed else []),
        *([f"{failed} failed"] if failed else []),
    ]
    return "  ".join(columns).rstrip()


def running_line(
    name: str, task: str, count: tuple[int, int], seconds: float, rest: float | None, note: str, width: int
) -> str:
    """The line of a stage that runs, at most width characters. count: (hosts done, all); rest: seconds left or None; note: what a command printed last."""
    tail = "   ".join(
        part
        for part in (f"{count[0]} of {count[1]} hosts" if count[1] > 1 else "", duration(seconds), estimate(rest))
        if part
    )
    head = f"  … {name}{f' › {task}' if task else ''}"
    room = max(width - len(tail) - 3, 20)
    if note:
        head = head[: max(room // 2, 20)] if len(head) + len(note) + 2 > room else head
        head = f"{head}: {note}"
    return f"{head if len(head) <= room else head[: room - 1] + '…'}   {tail}"[:width]


def text_of(value: Any) -> str:
    """What a message says, as lines of text."""
    if isinstance(value, (list, tuple)):
        return "\n".join(map(text_of, value))
    return value.strip() if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def last_lines(text: Any) -> list[str]:
    """The last lines of what a command printed that are not empty."""
    return [line.rstrip() for line in str(text or "").splitlines() if line.strip()][-LINES:]


def reason(result: Mapping[str, Any]) -> str:
    """Why a task failed, as text: its message as it is, then the last lines that its command printed. result: of a task or of an item."""
    items = [
        item
        for item in result.get("results") or []
        if isinstance(item, dict) and (item.get("failed") or item.get("unreachable"))
    ]
    if items:
        return "\n".join(dict.fromkeys(reason(item) for item in items))
    if result.get("censored"):
        return str(result["censored"])
    message = text_of(result.get("msg") or "")
    more = last_lines(result.get("stderr") or result.get("module_stderr")) or last_lines(
        result.get("stdout") or result.get("module_stdout")
    )
    if not message and not more:
        more = last_lines(result.get("exception"))[-1:]
    lines = [message] if message else []
    return "\n".join([*lines, *(line for line in more if line.strip() not in message)]) or "It gave no reason."


def grouped(failures: Iterable[Failure]) -> list[tuple[str, str, str, list[str]]]:
    """[(task, its file and line, reason, hosts)] of failures: hosts that failed alike together."""
    groups: dict[tuple[str, str, str], list[str]] = {}
    for host, task, location, cause in failures:
        hosts = groups.setdefault((task, location, cause), [])
        if host not in hosts:
            hosts.append(host)
    return [(*what, sorted(hosts)) for what, hosts in groups.items()]


def typed(verb: str) -> str:
    """What was typed, as a shell takes it, from what the Makefile says of it: spaces, backslashes and dollars as make writes them."""
    arguments = [re.sub(r"\\(.)", r"\1", word).replace("$$", "$") for word in re.findall(r"(?:\\.|[^\\ ])+", verb)]
    return " ".join(
        f"{name}{equals}{shlex.quote(value) if value else ''}"
        for name, equals, value in (word.partition("=") for word in arguments)
    )


def failed_text(failures: Collection[Failure], log: str, verb: str) -> str:
    """What is printed about failures, and what to do next. log: where the whole log is, or empty; verb: what was typed, or empty."""
    lines: list[str] = []
    for task, location, cause, hosts in grouped(failures):
        lines += [
            *([""] if lines else []),
            f"Failed: {task}{f'  ({location})' if location else ''}",
            f"  on {', '.join(hosts)}",
            *(f"  {line}" for line in cause.splitlines()),
        ]
    lines += ["", *([f"  whole log   {log}"] if log else [])]
    # A reason that says what to type is not contradicted.
    if verb and not any(re.search(r"\bmake [a-z-]+", cause) for *_what, cause in failures):
        lines.append(f"  then again  {typed(verb)}")
    return "\n".join(lines).strip("\n")


def key_of(playbook: str, options: Mapping[str, Any]) -> str:
    """What a run is remembered by: its playbook and what decides how much of it there is to do."""
    tags = [tag for tag in options.get("tags") or () if tag != "all"]
    parts = [
        playbook,
        *(["--check"] if options.get("check") else []),
        *([f"--limit {options['subset']}"] if options.get("subset") else []),
        *([f"--tags {','.join(tags)}"] if tags else []),
    ]
    return " ".join(parts)


def read_times(path: pathlib.Path) -> dict[str, Plays]:
    """{key of a run: its plays} of earlier runs; empty where that cannot be read."""
    with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
        return {
            key: [(str(name), float(seconds)) for name, seconds in plays]
            for key, plays in json.loads(path.read_text(encoding="utf-8")).items()
        }
    return {}


def write_times(path: pathlib.Path, key: str, plays: Plays) -> None:
    """Keep how long each play of a run took. No run fails because that cannot be written."""
    new = path.with_name(f".times.{os.getpid()}")
    with contextlib.suppress(OSError):
        new.write_text(
            json.dumps(read_times(path) | {key: [(name, round(seconds, 1)) for name, seconds in plays]}),
            encoding="utf-8",
        )
        new.replace(path)
