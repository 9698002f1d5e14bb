#!/usr/bin/python
"""Find the tracebacks of requests in an app host's journal."""

import subprocess

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.request_errors import result

DOCUMENTATION = """
module: request_errors
short_description: Find the tracebacks of requests in an app host's journal
description:
  - Nothing is changed.
options:
  requests: {type: list, elements: str, required: true, description: "Ids of requests, as a balancer gave them."}
  since: {type: float, default: 300, description: Seconds back to look at.}
"""

RETURN = """
tracebacks: {type: dict, returned: always, description: "{request: lines of its last traceback}, of those that have one."}
"""


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        supports_check_mode=True,
        argument_spec={
            "requests": {"type": "list", "elements": "str", "required": True},
            "since": {"type": "float", "default": 300},
        },
    )
    try:
        module.exit_json(changed=False, **result(**module.params))
    except (OSError, subprocess.CalledProcessError) as error:
        module.fail_json(msg=f"The journal cannot be read: {error}.")


if __name__ == "__main__":
    main()
