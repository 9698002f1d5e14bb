#!/usr/bin/python
"""Ask whether the operator can log in to hosts."""

import concurrent.futures
import shlex
import subprocess

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
module: knock
short_description: Ask whether the operator can log in to hosts
description:
  - Runs on this machine, once for all hosts; a task for each host would take three times as long.
options:
  doors:
    type: dict
    required: true
    description: "The commands of ssh that log in, as {host: words of a shell}."
"""

RETURN = """
answers: {type: dict, returned: always, description: "What ssh ended with and said, as {host: {rc, stderr}}. It ends with 255 where nobody could log in."}
"""

AT_ONCE = 20  # logins


def knock(words):
    """Log in and out again; what ssh ended with and said."""
    done = subprocess.run(
        [*shlex.split(words), "true"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    return {"rc": done.returncode, "stderr": done.stderr.strip()}


def main():
    """Knock at all doors."""
    module = AnsibleModule(argument_spec={"doors": {"type": "dict", "required": True}}, supports_check_mode=True)
    doors = module.params["doors"]
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        module.exit_json(changed=False, answers=dict(zip(doors, pool.map(knock, doors.values()))))


if __name__ == "__main__":
    main()
