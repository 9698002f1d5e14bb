#!/usr/bin/python
"""What a balancer saw of each app host since a place in its log."""

import json
import os
from collections.abc import Iterable, Mapping
from typing import TypedDict

from ansible.module_utils.balancer_log import tally
from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
module: release_traffic
short_description: Count requests, failures and times of each app host in a balancer's log
description: It only reads. A request that was offered to several hosts counts for each of them.
options:
  log: {type: path, required: true, description: "The access log, a JSON object a line."}
  hosts: {type: list, elements: dict, required: true, description: App hosts as name and address.}
  port: {type: int, required: true, description: Port of their pages.}
  since: {type: dict, description: "A place in the log as this module returned it in end; nothing is counted without."}
"""

RETURN = """
end:
  type: dict
  returned: always
  description: Where the log ends now.
  contains:
    inode: {type: int, description: Of the file.}
    offset: {type: int, description: In bytes.}
traffic: {type: dict, returned: always, description: "{host: {requests, failures, times: [seconds]}}"}
"""


class Traffic(TypedDict):
    """Requests to some hosts. times: seconds of those that were answered."""

    requests: int
    failures: int
    times: list[float]


def count(lines: Iterable[str], hosts: Mapping[str, str]) -> dict[str, Traffic]:
    """{host: {requests, failures, times}} of log lines; hosts: {address with port: name}."""
    traffic: dict[str, Traffic] = {name: {"requests": 0, "failures": 0, "times": []} for name in hosts.values()}
    for line in lines:
        try:
            entry = json.loads(line)
        except ValueError:
            continue  # half a line, being written
        for name, failed, seconds in tally(entry, hosts):
            host = traffic[name]
            host["requests"] += 1
            host["failures"] += failed
            if seconds is not None:
                host["times"].append(seconds)
    return traffic


def lines_since(log: str, since: Mapping[str, int]) -> list[str]:
    """Lines after a place, also where the log was rotated since. Raises OSError where there is no log."""
    before = f"{log}.1"
    rotated = (
        os.stat(log).st_ino != since["inode"] and os.path.exists(before) and os.stat(before).st_ino == since["inode"]
    )
    lines = []
    for path, offset in ((before, since["offset"]), (log, 0)) if rotated else ((log, since["offset"]),):
        with open(path, encoding="utf-8", errors="replace") as file:
            file.seek(int(offset))
            lines += file.readlines()
    return lines


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        supports_check_mode=True,
        argument_spec={
            "log": {"type": "path", "required": True},
            "hosts": {"type": "list", "elements": "dict", "required": True},
            "port": {"type": "int", "required": True},
            "since": {"type": "dict"},
        },
    )
    given = module.params
    hosts = {f"{host['address']}:{given['port']}": host["name"] for host in given["hosts"]}
    stat = os.stat(given["log"])
    lines = lines_since(given["log"], given["since"]) if given["since"] else []
    module.exit_json(changed=False, end={"inode": stat.st_ino, "offset": stat.st_size}, traffic=count(lines, hosts))


if __name__ == "__main__":
    main()
