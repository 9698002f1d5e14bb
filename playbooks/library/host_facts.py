#!/usr/bin/python
"""Tell what settings are computed from: a host's memory, its processors, and which interface has which address."""

import json
import os

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
module: host_facts
short_description: Tell a host's memory, its processors, and which interface has which address
description:
  - What plays gather (facts_modules in ansible.cfg), in a fifth of the time that ansible.builtin.setup takes for its smallest subsets with these.
options: {}
returned:
  ansible_facts: memtotal_mb, the memory in MiB; processor_vcpus, processors online; interfaces, as {IPv4 address: interface};
    ipv6, whether the kernel has IPv6;
    image_holds, whether the host came from a golden image and holds back what that installed.
"""


def main():
    """Look at the host."""
    module = AnsibleModule(argument_spec={}, supports_check_mode=True)
    _rc, links, _err = module.run_command(["ip", "-json", "-4", "address"], check_rc=True)
    module.exit_json(changed=False, ansible_facts={
        "memtotal_mb": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2**20,
        "processor_vcpus": os.cpu_count(),
        "interfaces": {address["local"]: link["ifname"] for link in json.loads(links) for address in link.get("addr_info", [])},
        "ipv6": os.path.exists("/proc/net/if_inet6"),
        "image_holds": os.path.exists("/etc/systemd/system-generators/image-hold"),
    })


if __name__ == "__main__":
    main()
