"""What plugins/callback/progress.py prints, as functions of what is known."""

import json
import re
import shlex

LINES = 5  # of what a failed command printed last


def duration(seconds):
    """Seconds as a person reads them: "14 s", "2 min 5 s"."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def estimate(seconds):
    """Seconds that are left as words, no more exact than they are; empty where unknown or nearly none."""
    if seconds is None or seconds < 2:
        return ""
    return f"about {round(seconds / 60)} min left" if seconds >= 90 else f"about {round(seconds / 5) * 5 if seconds > 20 else round(seconds)} s left"


def left(before, ended, name, elapsed):
    """Seconds until the end of a run; None where nothing is known about it.

    before, ended: [(name of a play, its seconds)] of the run before and of this one so far, in order; name, elapsed: those of the play that runs.
    What takes longer or shorter than before is taken to go on like that, within a factor of four.
    """
    if not before:
        return None
    known, place, expected, taken = dict(before), 0, 0.0, 0.0
    for play, seconds in ended:
        if play in known:
            expected, taken = expected + known[play], taken + seconds
            place = next((number + 1 for number, (other, _s) in enumerate(before) if number >= place and other == play), place)
    pace = min(max(taken / expected, 0.25), 4.0) if expected >= 5 else 1.0
    here = next((number for number, (other, _s) in enumerate(before) if number >= place and other == name), None)
    if here is None:
        return sum(seconds for _play, seconds in before[place:]) * pace
    return max(before[here][1] * pace - elapsed, 0) + sum(seconds for _play, seconds in before[here + 1:]) * pace


def hosts_of(names):
    """How many hosts, or which one."""
    return next(iter(names)) if len(names) == 1 else f"{len(names)} hosts"


def ended_line(name, hosts, seconds, changed, failed):
    """The line of a stage that has ended. hosts: their names; seconds: float; changed, failed: numbers of results and of hosts."""
    words = [f"  {'✗' if failed else '✓'} {name:<44}", f"{hosts_of(hosts):<10}", f"{duration(seconds):>11}",
             *([f"{changed} changed"] if changed else []), *([f"{failed} failed"] if failed else [])]
    return "  ".join(words).rstrip()


def running_line(name, task, count, seconds, rest, note, width):
    """The line of a stage that runs, at most width characters. count: (hosts done, all); rest: seconds left or None; note: what a command printed last."""
    tail = "   ".join(part for part in (f"{count[0]} of {count[1]} hosts" if count[1] > 1 else "", duration(seconds), estimate(rest)) if part)
    head = f"  … {name}{f' › {task}' if task else ''}"
    room = max(width - len(tail) - 3, 20)
    if note:
        head = head[:max(room // 2, 20)] if len(head) + len(note) + 2 > room else head
        head = f"{head}: {note}"
    return f"{head if len(head) <= room else head[:room - 1] + '…'}   {tail}"[:width]


def text_of(value):
    """What a message says, as lines of text."""
    if isinstance(value, (list, tuple)):
        return "\n".join(map(text_of, value))
    return value.strip() if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def last_lines(text):
    """The last lines of what a command printed that are not empty."""
    return [line.rstrip() for line in str(text or "").splitlines() if line.strip()][-LINES:]


def reason(result):
    """Why a task failed, as text: its message as it is, then the last lines that its command printed. result: of a task or of an item."""
    items = [item for item in result.get("results") or [] if isinstance(item, dict) and (item.get("failed") or item.get("unreachable"))]
    if items:
        return "\n".join(dict.fromkeys(reason(item) for item in items))
    if result.get("censored"):
        return result["censored"]
    said = text_of(result.get("msg") or "")
    more = last_lines(result.get("stderr") or result.get("module_stderr")) or last_lines(result.get("stdout") or result.get("module_stdout"))
    if not said and not more:
        more = last_lines(result.get("exception"))[-1:]
    lines = [said] if said else []
    return "\n".join([*lines, *(line for line in more if line.strip() not in said)]) or "It gave no reason."


def grouped(failures):
    """[(task, its file and line, reason, hosts)] of failures, [(host, task, file and line, reason)]: hosts that failed alike together."""
    found = {}
    for host, *what in failures:
        hosts = found.setdefault(tuple(what), [])
        if host not in hosts:
            hosts.append(host)
    return [(*what, hosts) for what, hosts in found.items()]


def typed(verb):
    """What was typed, as a shell takes it, from what the Makefile says of it: spaces, backslashes and dollars as make writes them."""
    words = [re.sub(r"\\(.)", r"\1", word).replace("$$", "$") for word in re.findall(r"(?:\\.|[^\\ ])+", verb)]
    return " ".join(f"{name}{equals}{shlex.quote(value) if value else ''}" for name, equals, value in (word.partition("=") for word in words))


def failed_text(failures, log, verb):
    """What is printed about failures, and what to do next. log: where the whole log is, or empty; verb: what was typed, or empty."""
    lines = []
    for task, place, why, hosts in grouped(failures):
        lines += [*([""] if lines else []), f"Failed: {task}{f'  ({place})' if place else ''}", f"  on {', '.join(hosts)}", *(f"  {line}" for line in why.splitlines())]
    lines += ["", *([f"  whole log   {log}"] if log else [])]
    # A reason that says what to type is not contradicted.
    if verb and not any(re.search(r"\bmake [a-z-]+", why) for *_what, why in failures):
        lines.append(f"  then again  {typed(verb)}")
    return "\n".join(lines).strip("\n")
