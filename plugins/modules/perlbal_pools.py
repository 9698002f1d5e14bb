#!/usr/bin/python
"""Bring the pools of a Perlbal that runs into a declared state."""

import time
from collections.abc import Mapping, Sequence

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.perlbal import console

DOCUMENTATION = """
module: perlbal_pools
short_description: Bring the pools of a Perlbal that runs into a declared state
description:
  - Hosts are added and removed on its console, without a restart. A host that is removed finishes what it is at.
  - Its configuration on disk is left as it is.
options:
  port: {type: int, required: true, description: "Port of the console, on 127.0.0.1."}
  pools: {type: dict, required: true, description: "Who is to be in each pool, as {pool: [address:port]}."}
  wait_s: {type: int, default: 0, description: "Seconds to await the last request of hosts that are in no pool; 0 awaits none."}
"""

RETURN = """
commands: {type: list, returned: always, description: What the console was told.}
"""


Pools = Mapping[str, Sequence[str]]  # {pool: [address:port]}


def nodes(port: int, pool: str) -> list[str]:
    """Who is in a pool, as a list of address:port."""
    return [line.split()[0] for line in console(port, f"show pool {pool}")[0]]


def needed(wanted: Pools, current: Pools) -> list[str]:
    """Commands that make pools found into pools wanted, both as {pool: [address:port]}; additions come first."""
    verbs = [("add", wanted, current), ("remove", current, wanted)]
    return [
        f"pool {pool} {verb} {node}"
        for verb, these, those in verbs
        for pool in wanted
        for node in these[pool]
        if node not in those[pool]
    ]


def busy(port: int, pools: Pools) -> list[str]:
    """Who is at work on a request and in no pool, as a list of address:port."""
    members = {node for pool in pools.values() for node in pool}
    return [line.split()[0] for line in console(port, "backends")[0] if line.split()[0] not in members]


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        supports_check_mode=True,
        argument_spec={
            "port": {"type": "int", "required": True},
            "pools": {"type": "dict", "required": True},
            "wait_s": {"type": "int", "default": 0},
        },
    )
    port, pools, wait_s = (module.params[name] for name in ("port", "pools", "wait_s"))
    try:
        commands = needed(pools, {pool: nodes(port, pool) for pool in pools})
        if module.check_mode:
            module.exit_json(changed=bool(commands), commands=commands)
        console(port, *commands)
        deadline = time.monotonic() + wait_s
        while wait_s and (left := busy(port, pools)):
            if time.monotonic() > deadline:
                module.fail_json(
                    msg=f"{', '.join(left)} still works on requests after {wait_s} s. Nobody sends it new ones; the same can be run again."
                )
            time.sleep(0.1)  # between two looks at a condition with a deadline
    except (OSError, ValueError) as error:
        module.fail_json(msg=f"Perlbal's console on 127.0.0.1:{port}: {error}. On this host: systemctl status perlbal")
    module.exit_json(changed=bool(commands), commands=commands)


if __name__ == "__main__":
    main()
