"""Run ansible-playbook and read the results; read an inventory by ansible-inventory, and how to log in to its hosts."""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

# A host that is off or frozen may not hold up what the others say: no connection is shared, and none is waited for.
SSH = "-o ControlMaster=no -o ControlPath=none -o PreferredAuthentications=publickey -o ConnectTimeout=2"


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


def hosts(inventory: str | os.PathLike[str], group: str = "app", **environment: str) -> dict[str, dict[str, Any]]:
    """{name: its variables} of the hosts of a group; environment is laid over this process's own. Exits with 2 where the inventory cannot be read."""
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
    listed = json.loads(done.stdout)
    known = listed["_meta"]["hostvars"]
    return {name: known[name] for name in (known if group == "all" else listed.get(group, {}).get("hosts", []))}


def ssh(variables: Mapping[str, Any]) -> list[str]:
    """The words that log in to a host as the operator, on a connection of their own."""
    return [
        "ssh",
        "-o",
        "BatchMode=yes",
        "-o",
        "ConnectTimeout=5",
        "-o",
        "ControlMaster=no",
        "-o",
        "ControlPath=none",
        "-o",
        "ServerAliveInterval=15",
        "-o",
        "LogLevel=ERROR",
        "-p",
        str(variables.get("ansible_port", 22)),
        "-i",
        os.path.expanduser(variables["ansible_ssh_private_key_file"]),
        *shlex.split(variables.get("ansible_ssh_common_args", "")),
        f"{variables['ansible_user']}@{variables['ansible_host']}",
    ]
