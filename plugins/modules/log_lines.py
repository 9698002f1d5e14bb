#!/usr/bin/python
"""Find lines in the logs that a host keeps of all."""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.log_search import result

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


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        supports_check_mode=True,
        argument_spec={
            "directory": {"type": "path", "required": True},
            "request": {"type": "str", "default": ""},
            "host": {"type": "str", "default": ""},
            "unit": {"type": "str", "default": ""},
            "since": {"type": "float", "default": 0},
            "most": {"type": "int", "default": 10000},
        },
    )
    module.exit_json(changed=False, **result(**module.params))


if __name__ == "__main__":
    main()
