#!/usr/bin/python
"""Ask a balancer what it saw of each host behind it."""

import datetime
import json
import os
import pathlib
import re
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ansible.module_utils.balancer_log import tally
from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.perlbal import console

DOCUMENTATION = """
module: backend_counters
short_description: Ask a balancer what it saw of each host behind it
description: Nothing is changed. A request that was offered to several hosts counts for each of them.
options:
  engine: {type: str, required: true, description: "nginx or perlbal."}
  log: {type: path, required: true, description: "Its access log, a JSON object a line."}
  minutes: {type: float, required: true, description: How far to look back in the log.}
  console_port: {type: int, required: true, description: "Port of perlbal's console, on 127.0.0.1."}
  vip: {type: str, required: true, description: The virtual IP.}
  pools: {type: dict, required: true, description: "Who the inventory has in each pool, as {pool: {address:port: name}}."}
"""

RETURN = """
engine: {type: str, returned: always, description: As it was given.}
holds: {type: bool, returned: always, description: Whether this balancer has the virtual IP.}
began: {type: float, returned: for perlbal, description: "When it began to count in all, in seconds since 1970."}
hosts:
  type: list
  returned: always
  description: "A dict for each host, in the order of the pools: pool, node (address:port), name, used (whether it gets new requests), requests, failed, mean and
    slowest (in seconds, null where there is no answer) since so many minutes ago, open (requests under way) and, for perlbal, requests_in_all and failed_in_all."
"""

BLOCK = 1 << 20  # bytes of a log that are read at once, from its end


def backwards(path: str) -> Iterator[bytes]:
    """Yield the lines of a file, the last one first. None where there is no file."""
    try:
        with open(path, "rb") as file:
            rest, position = b"", file.seek(0, os.SEEK_END)
            while position:
                start = max(0, position - BLOCK)
                file.seek(start)
                first, *lines = (file.read(position - start) + rest).split(b"\n")
                yield from reversed(lines)
                rest, position = first, start
            yield rest
    except FileNotFoundError:
        return


def entries(log: str, since: float) -> Iterator[dict[str, str]]:
    """Yield entries of a log and of the one that was rotated before it, the last one first, back to a time in seconds since 1970."""
    for path in (log, f"{log}.1"):
        for line in backwards(path):
            try:
                entry = json.loads(line)
            except ValueError:
                continue  # an empty line, or half a one that is being written
            if datetime.datetime.fromisoformat(entry["time"]).timestamp() < since:
                return
            yield entry


def under_way(table: str) -> dict[str, int]:
    """{address:port: connections to it}, from the text of /proc/net/tcp."""
    connections: dict[str, int] = {}
    for line in table.splitlines()[1:]:
        _number, _local, remote, state = line.split()[:4]
        if state == "01":
            address, port = remote.split(":")
            node = ".".join(str(byte) for byte in reversed(bytes.fromhex(address))) + f":{int(port, 16)}"
            connections[node] = connections.get(node, 0) + 1
    return connections


def nginx_pools(config: str) -> dict[str, set[str]]:
    """{pool: addresses with ports that get new requests}, from the text of nginx.conf."""
    return {
        name: {
            node
            for node, options in re.findall(r"^\s*server (\S+?)((?: [^;]*)?);", body, re.M)
            if " down" not in options
        }
        for name, body in re.findall(r"^\s*upstream (\w+) \{(.*?)^\s*\}", config, re.M | re.S)
    }


def perlbal_nodes(lines: Iterable[str]) -> dict[str, dict[str, int]]:
    """{address:port: {counter: number}}, from what its console says to `nodes`."""
    counters: dict[str, dict[str, int]] = {}
    for line in lines:
        node, counter, number = line.split()[:3]
        if counter in ("attempts", "failures"):
            counters.setdefault(node, {})[counter] = int(number)
    return counters


def counted(
    logged: Iterable[Mapping[str, str]],
    pools: Mapping[str, Mapping[str, str]],
    used: Mapping[str, Iterable[str]],
    table: str,
) -> list[dict[str, Any]]:
    """The hosts as the module returns them, but for perlbal's own counters.

    logged: entries of the log; pools: {pool: {address:port: name}}; used: {pool: nodes that get new requests}; table: text of /proc/net/tcp.
    """
    busy = under_way(table)
    nodes = {node: node for pool in used.values() for node in pool} | {
        node: node for pool in pools.values() for node in pool
    }
    counters: dict[str, dict[str, Any]] = {
        node: {"requests": 0, "failed": 0, "mean": None, "slowest": None} for node in nodes
    }
    answers = dict.fromkeys(nodes, 0)
    for entry in logged:
        for node, failed, seconds in tally(entry, nodes):
            backend = counters[node]
            backend["requests"] += 1
            backend["failed"] += failed
            if seconds is not None:
                answers[node] += 1
                backend["mean"] = (backend["mean"] or 0) + (seconds - (backend["mean"] or 0)) / answers[node]
                backend["slowest"] = max(seconds, backend["slowest"] or 0)
    return [
        {
            "pool": pool,
            "node": node,
            "name": names.get(node, node),
            "used": node in used.get(pool, ()),
            "open": busy.get(node, 0),
            **counters[node],
        }
        for pool, names in pools.items()
        for node in [*names, *sorted(set(used.get(pool, ())) - set(names))]
    ]


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        supports_check_mode=True,
        argument_spec={
            "engine": {"type": "str", "required": True},
            "log": {"type": "path", "required": True},
            "minutes": {"type": "float", "required": True},
            "console_port": {"type": "int", "required": True},
            "vip": {"type": "str", "required": True},
            "pools": {"type": "dict", "required": True},
        },
    )
    params = module.params
    result: dict[str, Any] = {
        "holds": bool(
            subprocess.run(
                ["ip", "-oneline", "address", "show", "to", params["vip"]], capture_output=True, check=True
            ).stdout.strip()
        )
    }
    names = list(params["pools"])
    try:
        if params["engine"] == "perlbal":
            *lines, nodes, uptime = console(
                params["console_port"], *(f"show pool {name}" for name in names), "nodes", "uptime", within=2.0
            )
            used = {name: {line.split()[0] for line in pool} for name, pool in zip(names, lines)}
            result["began"] = float(dict(line.split() for line in uptime)["starttime"])
        else:
            used = nginx_pools(pathlib.Path("/etc/nginx/nginx.conf").read_text(encoding="utf-8"))
        hosts = counted(
            entries(params["log"], time.time() - 60 * params["minutes"]),
            params["pools"],
            used,
            pathlib.Path("/proc/net/tcp").read_text(encoding="ascii"),
        )
    except (OSError, ValueError) as error:
        module.fail_json(
            msg=f"{params['engine']} does not tell: {error}. On this host: systemctl status {params['engine']}"
        )
    if params["engine"] == "perlbal":
        totals = perlbal_nodes(nodes)
        for host in hosts:
            total = totals.get(host["node"], {})
            host.update(requests_in_all=total.get("attempts", 0), failed_in_all=total.get("failures", 0))
    module.exit_json(changed=False, hosts=hosts, engine=params["engine"], **result)


if __name__ == "__main__":
    main()
