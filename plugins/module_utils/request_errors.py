"""Finds the traceback of a request in what Apache and the site wrote into an app host's journal."""

import re
import subprocess
from collections.abc import Iterable

# [module:level] [pid …:tid …] [remote …] words: a line of Apache's error log. What a thread writes comes in its order, and lines of others between.
LINE = re.compile(r"\[[\w:]*\] \[(?P<thread>pid [^\]]*)\](?: \[(?:remote|client) [^\]]*\])? ?(?P<words>.*)")
# level logger [request] words: how a record begins (LOGGING in roles/django/files/realworld/settings.py). The lines of its traceback have no such beginning.
RECORD = re.compile(r"[A-Z]+ \S+ \[(?P<request>[0-9A-Za-z-]+)\] ")
BEGINS = "Traceback (most recent call last):"
MOST = 40  # lines of a traceback: the last of them


def records(lines: Iterable[str], request: str) -> list[str]:
    """What was logged for a request, line by line."""
    request_of_thread, result = {}, []
    for line in lines:
        match = LINE.match(line)
        if not match:
            continue
        if record := RECORD.match(match["words"]):
            request_of_thread[match["thread"]] = record["request"]
        if request_of_thread.get(match["thread"]) == request:
            result.append(match["words"])
    return result


def traceback(lines: Iterable[str], request: str) -> list[str]:
    """Lines of the last traceback of a request: what led to it is left out. Empty where there is none."""
    logged = records(lines, request)
    begun = max((number for number, line in enumerate(logged) if line.strip() == BEGINS), default=None)
    if begun is None:
        return []
    ended = next(
        (number for number in range(begun + 1, len(logged)) if not logged[number].startswith(" ")), len(logged)
    )
    return logged[begun : ended + 1][-MOST:]


def result(requests: Iterable[str], since: float) -> dict[str, dict[str, list[str]]]:
    """{request: lines of its last traceback} of those that have one, as the module request_errors returns it."""
    lines = subprocess.run(
        ["journalctl", "--quiet", "--no-pager", "--output=cat", "--identifier=apache2", f"--since=-{since:.0f}s"],
        capture_output=True,
        text=True,
        errors="replace",
        check=True,
    ).stdout.splitlines()
    tracebacks = {request: traceback(lines, request) for request in requests}
    return {"tracebacks": {request: trace for request, trace in tracebacks.items() if trace}}
