"""Run ansible-playbook and read the results; read an inventory by ansible-inventory."""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from controller.environment import login

# A host that is off or frozen may not hold up what the others say: no connection is shared, and none is waited for.
SSH = shlex.join(login.connection())


def results(
    inventory: str | os.PathLike[str], playbook: str | os.PathLike[str], options: Sequence[str] = (), **environment: str
) -> list[dict[str, dict[str, Any]]]:
    """The results of a playbook, as {host: result} for each task in its order; options are ansible-playbook's, environment is laid over this process's own.

    Exits where Ansible did not get as far as asking.
    """
    done = subprocess.run(
        ["ansible-playbook", "-i", inventory, *options, str(playbook)],
        capture_output=True,
        text=True,
        check=False,
        env=dict(
            os.environ,
            ANSIBLE_STDOUT_CALLBACK="ansible.posix.json",
            ANSIBLE_LOG_PATH="",
            ANSIBLE_STRATEGY="linear",
            ANSIBLE_SSH_ARGS=SSH,
            **environment,
        ),
    )
    try:
        tasks = [task["hosts"] for play in json.loads(done.stdout)["plays"] for task in play["tasks"]]
    except ValueError:
        tasks = []
    if not tasks:
        print(done.stdout, done.stderr, sep="\n", file=sys.stderr)
        sys.exit(2)
    return tasks


def ask(
    inventory: str | os.PathLike[str], playbook: str | os.PathLike[str], options: Sequence[str] = (), **environment: str
) -> dict[str, dict[str, Any]]:
    """The same for a playbook of one task, as {name: result}."""
    [hosts] = results(inventory, playbook, options, **environment)
    return hosts


def unrendered(inventory: str | os.PathLike[str], **environment: str) -> dict[str, dict[str, Any]]:
    """{host: its variables as they are written}; environment is laid over this process's own. Exits with 2 where the inventory cannot be read."""
    done = subprocess.run(
        ["ansible-inventory", "-i", inventory, "--list"],
        capture_output=True,
        text=True,
        check=False,
        env=dict(os.environ, **environment),
    )
    if done.returncode:
        print(done.stderr, file=sys.stderr)
        sys.exit(2)
    variables: dict[str, dict[str, Any]] = json.loads(done.stdout)["_meta"]["hostvars"]
    return variables
