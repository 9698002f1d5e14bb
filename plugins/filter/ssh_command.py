"""The command line by which a program of this machine logs in to a host."""

import shlex
from collections.abc import Callable, Mapping
from typing import Any

from controller.environment.login import command, login

CONNECT_S = 10  # seconds a host has to take a connection


def ssh_command(variables: Mapping[str, Any]) -> str:
    """The words of ssh as a shell takes them. variables: those of Ansible's ssh connection, by their names; None where a host has none."""
    host = login(variables["ansible_host"], variables)
    return shlex.join(command(host, connect_s=CONNECT_S, session=True))


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """{name: function}."""
        return {"ssh_command": ssh_command}
