#!/usr/bin/python
"""Ask a host what it does for the tier, and what is wrong with it."""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.host_health import check

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
    description: "Groups of the inventory, as {group: hosts}. Those that are no tier are passed over."
  addresses:
    type: dict
    required: true
    description: "Addresses at which the hosts reach each other, as {host: address}."
  facts:
    type: dict
    required: true
    description: Settings of the tier.
  services_only:
    type: bool
    default: false
    description: Ask only the services that others use of the host, and say as the message what is wrong with them.
"""

RETURN = """
does: {type: dict, returned: always, description: "What each of the host's tiers does, as {tier: words}."}
sees: {type: dict, returned: always, description: "Whom this host uses, as {pool: {host or address: whether it answers}}."}
wrong: {type: list, returned: always, description: "What is wrong with it, in sentences."}
wrong_itself: {type: list, returned: always, description: "Those of them that are about this host, whoever does not answer it."}
raw: {type: dict, returned: always, description: What only makes sense beside that of the other hosts.}
asked: {type: dict, returned: unless services_only, description: "Groups and facts, as they were given."}
msg: {type: str, returned: with services_only, description: What is wrong with its services; empty where nothing is.}
"""


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        supports_check_mode=True,
        argument_spec={
            "name": {"type": "str", "required": True},
            "groups": {"type": "dict", "required": True},
            "addresses": {"type": "dict", "required": True},
            "facts": {"type": "dict", "required": True},
            "services_only": {"type": "bool", "default": False},
        },
    )
    answer = check(**module.params)
    message = {"msg": "; ".join(answer["wrong"])} if module.params["services_only"] else {}
    module.exit_json(changed=False, **answer, **message)


if __name__ == "__main__":
    main()
