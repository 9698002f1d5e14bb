#!/usr/bin/python
"""Ask a host what it does for the tier, and what is wrong with it."""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.host_look import look

DOCUMENTATION = """
module: host_status
short_description: Ask a host what it does for the tier, and what is wrong with it
description:
  - Nothing is changed. Every question a host asks of another has an answer, or none, within a second, all of them at once.
options:
  name:
    type: str
    required: true
    description: Name of this host in the inventory.
  groups:
    type: dict
    required: true
    description: Groups of the inventory, as {group: hosts}. Those that are no tier are passed over.
  addresses:
    type: dict
    required: true
    description: Addresses at which the hosts reach each other, as {host: address}.
  facts:
    type: dict
    required: true
    description: Settings of the tier.
returned:
  does: what each of the host's tiers does, as {tier: words}.
  sees: whom this host uses, as {pool: {host or address: whether it answers}}.
  wrong: sentences.
  wrong_itself: those of them that are about this host, whoever does not answer it.
  raw: what only makes sense beside that of the other hosts.
  asked: groups and facts, as they were given.
"""


def main():
    """Run as an Ansible module."""
    module = AnsibleModule(supports_check_mode=True, argument_spec={
        "name": {"type": "str", "required": True},
        "groups": {"type": "dict", "required": True},
        "addresses": {"type": "dict", "required": True},
        "facts": {"type": "dict", "required": True},
    })
    module.exit_json(changed=False, **look(**module.params))


if __name__ == "__main__":
    main()
