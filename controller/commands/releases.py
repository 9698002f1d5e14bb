"""Print who deployed what, when, with what result, and which release every app host serves.

Exits with 1 where hosts serve different releases or one did not answer, with 2 where they could not be asked.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from controller import arguments, query
from controller.environment import Environment
from controller.errors import Unusable
from controller.report import Row, table


class Entry(TypedDict):
    """An entry of the release log."""

    when: str
    who: str
    verb: str
    release: str
    result: str


def entries(hosts: Mapping[str, Mapping[str, Any]]) -> tuple[list[Entry], dict[str, str | None]]:
    """(entries of all release logs in the order of time, {host: its release, or None where it did not answer})."""
    logged: dict[str, Entry] = {}
    serves: dict[str, str | None] = {}
    for name, answer in hosts.items():
        lines = answer.get("stdout", "").splitlines()
        serves[name] = lines[0].rpartition("/")[2] if lines else None
        for line in lines[1:]:
            logged[line] = json.loads(line)
    return sorted(logged.values(), key=lambda entry: (entry["when"], entry["result"] != "begun")), serves


def rows(log: Sequence[Entry]) -> list[Row]:
    """Cells of the table: what ended, and what was begun and never ended."""
    shown: list[Row] = [("when", "who", "verb", "release", "result")]
    for number, entry in enumerate(log):
        later = log[number + 1 :]
        result = entry["result"]
        if result == "begun":
            if any(other["release"] == entry["release"] and other["result"] != "begun" for other in later):
                continue
            result = "cut off, or under way: make deploy finishes it" if not later else "cut off"
        shown.append((entry["when"], entry["who"], entry["verb"], entry["release"], result))
    return shown


def page(hosts: Mapping[str, Mapping[str, Any]]) -> tuple[str, bool]:
    """(text of the page, whether all hosts serve one release)."""
    log, serves = entries(hosts)
    lines = [
        f"  {name} serves {release}" if release else f"  {name} does not answer"
        for name, release in sorted(serves.items())
    ]
    same = len(set(serves.values())) == 1 and None not in serves.values()
    return "\n".join(["", *table(rows(log)), "", *lines, ""]), same


def main() -> int:
    """Print the page."""
    args = arguments.parser_of(__doc__).parse_args()
    try:
        environment = Environment(args.inventory)
        facts = {name: environment.hosts[name].values["status_facts"] for name in environment.groups["app"]}
    except Unusable as reason:
        print(reason, file=sys.stderr)
        return 2
    wanted = {name: {"root": values["site_root"], "log": values["release_log"]} for name, values in facts.items()}
    text, same = page(query.ask(environment, query.modules("release_log"), "read", wanted))
    print(text)
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
