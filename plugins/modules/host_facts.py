#!/usr/bin/python
"""Tell what settings are computed from: a host's memory, its processors, and which interface has which address."""

import json
import os
import pathlib
import socket
from collections.abc import Iterable, Mapping
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
module: host_facts
short_description: Tell a host's memory, its processors, and which interface has which address
description:
  - What plays gather (facts_modules in ansible.cfg), in a fifth of the time that ansible.builtin.setup takes for its smallest subsets with these.
options: {}
"""

RETURN = """
ansible_facts:
  type: dict
  returned: always
  description: What plays know of the host.
  contains:
    memtotal_mb: {type: int, description: "The memory in MiB, rounded down."}
    processor_vcpus: {type: int, description: Processors online.}
    disk_mb: {type: int, description: "The size in MiB of the file system that databases are on, or would be."}
    interfaces: {type: dict, description: "{IPv4 address: interface}."}
    networks: {type: dict, description: "{interface: its IPv4 addresses, each with the length of its prefix}."}
    ipv6: {type: bool, description: Whether the kernel has IPv6.}
    policy_left: {type: bool, description: Whether a cut-off installation of Ansible's has left its word that no package starts a service.}
    configured_daemons: {type: list, description: "Services whose units a role, or somebody else, has told something."}
    hostnames: {type: list, description: "The host's own name, now and at its next boot."}
    has: {type: list, description: Which of cloud-init and systemd-resolved are installed.}
    image_holds: {type: bool, description: Whether the host came from a golden image and holds back what that installed.}
"""

HAS = {"cloud-init": "/etc/cloud/cloud.cfg.d", "systemd-resolved": "/usr/lib/systemd/system/systemd-resolved.service"}


def steady(mebibytes: int) -> int:
    """Memory rounded down by an eighth at most: a kernel keeps some MiB more or less for itself at each boot, and no setting may move with them."""
    step = 1 << max(0, mebibytes.bit_length() - 4)
    return mebibytes // step * step


def disk(path: pathlib.Path) -> int:
    """The size in MiB of the file system that a path is on, or would be on."""
    existing = next(directory for directory in (path, *path.parents) if directory.exists())
    sizes = os.statvfs(existing)
    return sizes.f_blocks * sizes.f_frsize // 2**20


def networks(links: Iterable[Mapping[str, Any]]) -> dict[str, list[str]]:
    """{interface: its IPv4 addresses, each with the length of its prefix}, of what ip tells of links; of one without an address it tells {}."""
    addresses = {
        link["ifname"]: [f"{address['local']}/{address['prefixlen']}" for address in link.get("addr_info", [])]
        for link in links
        if link
    }
    return {name: [] for _number, name in socket.if_nameindex()} | addresses


def main() -> None:
    """Look at the host."""
    module = AnsibleModule(argument_spec={}, supports_check_mode=True)
    _rc, output, _err = module.run_command(["ip", "-json", "-4", "address"], check_rc=True)
    links = json.loads(output)
    kept = pathlib.Path("/etc/hostname")
    left = pathlib.Path("/usr/sbin/policy-rc.d")
    policy = left.read_bytes() if left.is_file() else None
    module.exit_json(
        changed=False,
        ansible_facts={
            "memtotal_mb": steady(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2**20),
            "processor_vcpus": os.cpu_count(),
            "disk_mb": disk(pathlib.Path("/var/lib/postgresql")),
            "interfaces": {address["local"]: link["ifname"] for link in links for address in link.get("addr_info", [])},
            "networks": networks(links),
            "ipv6": os.path.exists("/proc/net/if_inet6"),
            "policy_left": policy == b"#!/bin/sh\nexit 101\n",
            "configured_daemons": [
                path.name.removesuffix(".service.d") for path in pathlib.Path("/etc/systemd/system").glob("*.service.d")
            ],
            "hostnames": sorted(
                {socket.gethostname(), kept.read_text(encoding="utf-8").strip() if kept.is_file() else ""}
            ),
            "has": [name for name, path in HAS.items() if os.path.exists(path)],
            "image_holds": os.path.exists("/etc/systemd/system-generators/image-hold"),
        },
    )


if __name__ == "__main__":
    main()
