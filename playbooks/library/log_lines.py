#!/usr/bin/python
"""Find lines in the logs that a host keeps of all."""

import datetime
import fnmatch
import gzip
import heapq
import pathlib
import re

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
module: log_lines
short_description: Find lines in the logs that a host keeps of all
description:
  - Nothing is changed. Lines come in the order of time; where there are too many, the newest of them.
options:
  directory: {type: path, required: true, description: "Where they are: a file for each host, and those that were rotated."}
  request: {type: str, default: "", description: Only lines with this in them.}
  host: {type: str, default: "", description: "Only lines of hosts of this name; * stands for anything."}
  unit: {type: str, default: "", description: "Only lines whose name is this, or begins with it and a dash."}
  since: {type: float, default: 0, description: "Only lines from this time on, in seconds since 1970."}
  most: {type: int, default: 10000, description: Lines returned at most.}
"""

RETURN = """
lines: {type: list, elements: str, returned: always, description: The lines.}
left_off: {type: int, returned: always, description: How many older ones there are.}
"""

# Time, host, name[process]: words
LINE = re.compile(r"(?P<time>\S+) (?P<host>\S+) (?P<name>[^\s:\[]+)")
OWN = "ansible-log_lines"  # what Ansible itself tells syslog about a search, with the words that were searched for


def files(directory, host, since):
    """Paths of a host's files, or of everybody's, that have been written to since."""
    return [path for path in sorted(pathlib.Path(directory).glob("*.log*"))
            if fnmatch.fnmatchcase(path.name.partition(".log")[0], host or "*") and path.stat().st_mtime >= since]


def read(path):
    """Yield the lines of a file, which may be compressed. One that is rotated meanwhile ends where it ends."""
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rb") as lines:
        try:
            yield from lines
        except EOFError:
            return


def matching(lines, request, unit, since):
    """Yield (time in seconds since 1970, text) of the lines that are asked for."""
    word = request.encode()
    for raw in lines:
        if word not in raw:
            continue
        text = raw.decode(errors="replace").rstrip("\n")
        found = LINE.match(text)
        if not found or found["name"] == OWN or (unit and found["name"] != unit and not found["name"].startswith(f"{unit}-")):
            continue
        try:
            at = datetime.datetime.fromisoformat(found["time"]).timestamp()
        except ValueError:
            continue
        if at >= since:
            yield at, text


def search(directory, request="", host="", unit="", since=0, most=10000):
    """(lines in the order of time, how many older ones there are)."""
    newest, count = [], 0
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


def main():
    """Run as an Ansible module."""
    module = AnsibleModule(supports_check_mode=True, argument_spec={
        "directory": {"type": "path", "required": True},
        "request": {"type": "str", "default": ""},
        "host": {"type": "str", "default": ""},
        "unit": {"type": "str", "default": ""},
        "since": {"type": "float", "default": 0},
        "most": {"type": "int", "default": 10000},
    })
    lines, left_off = search(**module.params)
    module.exit_json(changed=False, lines=lines, left_off=left_off)


if __name__ == "__main__":
    main()
