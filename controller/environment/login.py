"""How hosts are logged in to: by the variables that Ansible's ssh connection reads, and OpenSSH."""

import dataclasses
import os
import pathlib
import shlex
from collections.abc import Mapping
from typing import Any

from controller.errors import Unusable

CONNECT_S = 2  # seconds a host has to take a connection and to say that it speaks SSH
KEPT_S = 300  # seconds for which a connection stands unused
# How Ansible's ssh connection names what it takes from variables; the first that is set counts.
CONNECTION = {
    "address": ("ansible_host", "ansible_ssh_host"),
    "port": ("ansible_port", "ansible_ssh_port"),
    "user": ("ansible_user", "ansible_ssh_user"),
    "key": ("ansible_private_key_file", "ansible_ssh_private_key_file"),
    "arguments": ("ansible_ssh_args",),
    "common_arguments": ("ansible_ssh_common_args",),
    "extra_arguments": ("ansible_ssh_extra_args",),
    "check_host_key": ("ansible_host_key_checking", "ansible_ssh_host_key_checking"),
}
HARMLESS = {
    "ansible_ssh_retries",
    "ansible_ssh_pipelining",
    "ansible_ssh_timeout",
    "ansible_ssh_transfer_method",
}  # a query does nothing of the kind


@dataclasses.dataclass(frozen=True)
class Login:
    """How to log in to a host. arguments: further ones of ssh, as a shell would split them; check_host_key: whether an unknown key is refused."""

    address: str
    port: int | None = None
    user: str | None = None
    key: str | None = None
    arguments: str = ""
    check_host_key: bool = True


def login(name: str, variables: Mapping[str, Any], check_host_key: bool = True) -> Login:
    """How to log in to a host as Ansible would, by its rendered variables. Raises Unusable where that takes more than OpenSSH and a key."""
    known = {variable for names_of_setting in CONNECTION.values() for variable in names_of_setting} | HARMLESS
    beyond = sorted(
        variable
        for variable, value in variables.items()
        if variable not in known and variable.startswith(("ansible_ssh_", "ansible_become"))
    )
    beyond += [
        f"ansible_connection={kind}"
        for kind in [variables.get("ansible_connection", "ssh")]
        if kind not in ("ssh", "smart")
    ]
    beyond += [variable for variable in ("ansible_password",) if variable in variables]
    if beyond:
        raise Unusable(
            f"{name} is reached with {', '.join(beyond)}: this verb knows OpenSSH with a key and sudo without a password only."
        )
    settings = {
        what: next((variables[variable] for variable in names if variables.get(variable) not in (None, "")), None)
        for what, names in CONNECTION.items()
    }
    return Login(
        address=str(settings["address"] or name),
        port=int(settings["port"]) if settings["port"] else None,
        user=settings["user"],
        key=os.path.expanduser(settings["key"]) if settings["key"] else None,
        arguments=" ".join(
            filter(None, (settings["arguments"], settings["common_arguments"], settings["extra_arguments"]))
        ),
        check_host_key=check_host_key
        if settings["check_host_key"] is None
        else str(settings["check_host_key"]).lower() not in ("false", "no", "0", "off"),
    )


def options(**settings: object) -> list[str]:
    """Settings of OpenSSH as words of a command line."""
    return [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]


def connection(connect_s: int = CONNECT_S, socket: pathlib.Path | None = None) -> list[str]:
    """Options of a connection that a host has so many seconds to take: one that is kept at a socket for others, or one that nobody shares."""
    shared = {"ControlMaster": "auto", "ControlPath": socket, "ControlPersist": KEPT_S}
    own = {"ControlMaster": "no", "ControlPath": "none"}
    return options(**(shared if socket else own), PreferredAuthentications="publickey", ConnectTimeout=connect_s)


def command(
    host: Login, socket: pathlib.Path | None = None, connect_s: int = CONNECT_S, session: bool = False
) -> list[str]:
    """Words of an ssh that logs in as Ansible does; the first of two equal options counts.

    socket: of a connection that is kept for others; connect_s: seconds that the host has to take a connection; session: whether what runs on the
    host may be silent for long: a host that is gone is given up after 45 s, else after 10 s, and ssh prints errors only.
    """
    alive = options(ServerAliveInterval=15, ServerAliveCountMax=3, LogLevel="ERROR") if session else []
    settings = {"Port": host.port, "IdentityFile": host.key and f'"{host.key}"', "User": host.user and f'"{host.user}"'}
    return [
        "ssh",
        *options(BatchMode="yes"),
        *connection(connect_s, socket),
        *alive,
        *([] if host.check_host_key else options(StrictHostKeyChecking="no")),
        *options(**{name: value for name, value in settings.items() if value}),
        *shlex.split(host.arguments),
        # A connection to a host that is gone ends by itself.
        *options(ServerAliveInterval=5, ServerAliveCountMax=2),
        host.address,
    ]
