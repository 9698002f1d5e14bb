"""Why a command of a build failed, from what it printed."""

import itertools
import re
import textwrap

# What pip and npm print after the reason: offers of a newer version, and where a copy of the output is.
AFTER_REASON = re.compile(r"\[notice\]|npm notice|npm (ERR!|error)( *$| A complete log of this run| +/.*_logs/)")
# What failed, as unittest (Django's too) names a test, as pytest does in its summary, and as Django's system checks name a problem.
FAILED_TEST = re.compile(
    r"(?:FAIL|ERROR|UNEXPECTED SUCCESS): (\S+ \(.+)|(?:FAILED|ERROR) (\S+\.py\b.*)|(\S+: \(\w+\.[A-Z]\d+\) .+)"
)
IGNORED = "Exception ignored"  # Python prints this of an exception that ends nothing


def last_exception(lines: list[str]) -> tuple[list[str], list[str]]:
    """(the lines of the last traceback's exception, what follows them). Its causes are printed before it."""
    last: tuple[list[str], list[str]] = [], lines
    for number, line in enumerate(lines):
        match = re.match(r"( *)Traceback \(most recent call last\):$", line)
        if match and not lines[max(number - 1, 0)].startswith(IGNORED):
            last = exception(lines[number + 1 :], margin=match[1])  # pip indents what a build prints
    return last


def exception(lines: list[str], margin: str) -> tuple[list[str], list[str]]:
    """(the first three lines of an exception, what follows them), from the lines after those words of its traceback."""
    rest = list(itertools.dropwhile(lambda line: line.startswith(f"{margin} "), lines))
    rest = list(itertools.takewhile(lambda line: not line.startswith(IGNORED), rest))
    message = list(
        itertools.takewhile(lambda line: line.startswith(margin) and line.strip() != "[end of output]", rest)
    )[:3]
    return message, rest[len(message) :]


def reason(output: str) -> str:
    """The lines of a failed command's output that say why it failed, as one line."""
    lines = [line for line in output.splitlines() if line.strip() and not AFTER_REASON.match(line)]
    message, rest = last_exception(lines)
    errors = [line for line in rest if re.match(r" *(ERROR|error|E|fatal|\w+(\.\w+)*(Error|Exception)):", line)]
    telling = message + errors[-1:] if message else (errors or lines)[-3:]
    return "; ".join(line.strip() for line in telling) or "it did not say why"


def failed_tests(output: str) -> str:
    """The tests that a failed check names, at most five, or else the lines that say why it failed; as one line."""
    matches = filter(None, map(FAILED_TEST.fullmatch, output.splitlines()))
    names = list(
        dict.fromkeys(textwrap.shorten(match[match.lastindex or 0], 160, placeholder=" …") for match in matches)
    )
    more = f"; {len(names) - 5} more" if names[5:] else ""
    return "; ".join(names[:5]) + more or reason(output)
