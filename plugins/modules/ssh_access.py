#!/usr/bin/python
"""Ask whether the operator can log in to hosts."""

import concurrent.futures
import shlex
import subprocess
from typing import TypedDict

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
module: ssh_access
short_description: Ask whether the operator can log in to hosts
description:
  - Runs on this machine, once for all hosts; a task for each host would take three times as long.
options:
  logins:
    type: dict
    required: true
    description: "The commands of ssh that log in, as {host: command line}."
"""

RETURN = """
answers: {type: dict, returned: always, description: "What ssh ended with and printed, as {host: {rc, stderr}}. It ends with 255 where nobody could log in."}
"""

AT_ONCE = 20  # logins


class Answer(TypedDict):
    """How a login ended: the exit code of ssh, and what it printed as an error."""

    rc: int
    stderr: str


def log_in(command: str) -> Answer:
    """Log in and out again."""
    done = subprocess.run(
        [*shlex.split(command), "true"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    return {"rc": done.returncode, "stderr": done.stderr.strip()}


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(argument_spec={"logins": {"type": "dict", "required": True}}, supports_check_mode=True)
    logins = module.params["logins"]
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as threads:
        module.exit_json(changed=False, answers=dict(zip(logins, threads.map(log_in, logins.values()))))


if __name__ == "__main__":
    main()
