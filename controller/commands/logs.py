"""Print lines of all hosts' logs in the order of time.

Exits with 1 where no line was found or a host did not answer, with 2 where none could be asked.
"""

import datetime
import re
import sys
from collections.abc import Mapping
from typing import Any

from controller import arguments, query
from controller.environment import Environment
from controller.errors import Unusable

SEARCH_S = 120.0  # seconds a host has to search what it keeps: a month of everybody's lines
SECONDS = {"m": 60, "h": 3600, "d": 86400}


def moment(text: str, now: datetime.datetime) -> float:
    """Seconds since 1970 of "30m", "2h", "1d" ago or of "2026-11-25 18:00" (UTC); 0 for nothing. Raises ValueError."""
    if not text:
        return 0
    if ago := re.fullmatch(r"(\d+)([mhd])", text):
        return now.timestamp() - int(ago[1]) * SECONDS[ago[2]]
    return datetime.datetime.fromisoformat(text).replace(tzinfo=datetime.UTC).timestamp()


def search_arguments(request: str, host: str, unit: str, since: str, now: datetime.datetime) -> dict[str, Any]:
    """Arguments of log_search.search, from options as they were typed. Raises ValueError with a sentence."""
    if not any((request, host, unit, since)):
        raise ValueError("What for? make logs REQUEST=id, HOST=app1, UNIT=apache2, SINCE=30m, or several of them.")
    for name, text in (("REQUEST", request), ("HOST", host), ("UNIT", unit)):
        if not re.fullmatch(r"[\w.*@-]*", text):
            raise ValueError(f"{name}={text} is none: letters, digits and . - _ @ only.")
    try:
        seconds = moment(since, now)
    except ValueError:
        raise ValueError(
            f'SINCE={since} is no moment: SINCE=30m, 2h or 1d ago, or SINCE="2026-11-25 18:00" (UTC).'
        ) from None
    return {"request": request, "host": host, "unit": unit, "since": seconds}


def page(hosts: Mapping[str, Mapping[str, Any]]) -> tuple[list[str], list[str]]:
    """(lines of all hosts that were asked, sentences about what is missing). hosts: {host: what log_lines returned, or why it did not}."""
    answers = {name: answer for name, answer in hosts.items() if "lines" in answer}
    # Several monitors have the same lines.
    lines = sorted(
        dict.fromkeys(line for answer in answers.values() for line in answer["lines"]),
        key=lambda line: datetime.datetime.fromisoformat(line.partition(" ")[0]),
    )
    missing = [
        f"{answer['left_off']} older lines are left off: ask for less"
        for answer in answers.values()
        if answer["left_off"]
    ]
    missing += [f"{name} {query.silence(answer)}" for name, answer in sorted(hosts.items()) if name not in answers]
    return lines, missing


def main() -> int:
    """Print the lines."""
    parser = arguments.parser_of(__doc__)
    for name in ("request", "host", "unit", "since"):
        parser.add_argument(f"--{name}", default="")
    arguments.add_extra_vars(parser)
    args = parser.parse_args()
    try:
        search = search_arguments(args.request, args.host, args.unit, args.since, datetime.datetime.now(datetime.UTC))
        environment = Environment(args.inventory, tuple(args.extra_vars))
        # The monitors keep the lines of all; where there is none, each host keeps its own.
        wanted = {
            name: search | {"directory": environment.hosts[name].values["log_dir"]}
            for name in environment.groups.get("monitor") or environment.hosts
        }
    except (ValueError, Unusable) as reason:
        print(reason, file=sys.stderr)
        return 2
    lines, missing = page(query.ask(environment, query.modules("log_search"), "result", wanted, SEARCH_S))
    print(*lines, sep="\n", end="\n" if lines else "")
    if not lines:
        missing.append("no such line")
    print(*missing, sep="\n", end="\n" if missing else "", file=sys.stderr)
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
