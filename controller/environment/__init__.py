"""An environment: where its files are, whether it is rehearsed, its vault, its variables, and how its hosts are logged in to.

Nothing else in Python knows a path below `.state/` or a vault's password file (molecule/tests/policy/test_rooms.py).
"""

import dataclasses
import functools
import os
import pathlib
from typing import Any

from controller.environment import rendering
from controller.environment.login import Login
from controller.environment.login import command as ssh_command

ROOT = pathlib.Path(__file__).resolve().parents[2]
STATE = ROOT / ".state"  # what belongs to environments and to this checkout, and to nobody else
RELEASES = STATE / "releases"  # of all environments
REHEARSAL = "-rehearsal"  # ends the name of the state directory of a rehearsal
PASSWORD_VARIABLE = "ANSIBLE_VAULT_PASSWORD_FILE"


@dataclasses.dataclass(frozen=True)
class Host:
    """A host: how to log in, and the rendered values, as {variable: value}."""

    name: str
    login: Login
    values: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Rendered:
    """What is rendered of an environment. hosts: {name: Host}; groups: {group: names}."""

    hosts: dict[str, Host]
    groups: dict[str, list[str]]


@dataclasses.dataclass(frozen=True)
class Environment:
    """An environment. inventory: its file; extra_vars: what `-e` gives Ansible; other: whether it is another one than that of this process,
    whose vault's password ANSIBLE_VAULT_PASSWORD_FILE names."""

    inventory: pathlib.Path
    extra_vars: tuple[str, ...] = ()
    other: bool = False

    @classmethod
    def named(cls, name: str, rehearsed: bool = False) -> "Environment":
        """The environment that make means by ENV= and REHEARSE=."""
        directory = STATE / f"{name}{REHEARSAL}" / "inventory" if rehearsed else ROOT / "inventories"
        return cls(directory / f"{name}.yml")

    # ---------------------------------------------------------------- paths

    @property
    def name(self) -> str:
        """What ENV= is."""
        return self.inventory.stem

    @property
    def rehearsed(self) -> bool:
        """Whether this is a rehearsal, whose inventory lies in its state directory (controller/commands/rehearse.py)."""
        return self.inventory.resolve().parent.parent.parent.name == STATE.name

    @property
    def state(self) -> pathlib.Path:
        """The directory of what the controller keeps of the environment: keys, passwords, reports."""
        directory = self.inventory.resolve().parent.parent
        return directory if self.rehearsed else directory / STATE.name / self.name

    @property
    def vault(self) -> pathlib.Path:
        """The file that has the secrets."""
        return self.inventory.parent / "group_vars" / self.name / "vault.yml"

    @property
    def rehearsal_variables(self) -> pathlib.Path:
        """The file that a rehearsal lays over the variables of the environment (controller/commands/rehearse.py); the last of its directory wins."""
        return self.vault.with_name("zz_rehearsal.yml")

    @property
    def own_password_file(self) -> pathlib.Path:
        """Where the vault's password is, unless the operator keeps it elsewhere."""
        return self.state / "vault-password"

    @property
    def password_file(self) -> pathlib.Path | None:
        """The file with the vault's password; None where there is none."""
        given = os.environ.get(PASSWORD_VARIABLE)
        paths = [pathlib.Path(given)] if given else []
        paths = [self.own_password_file, *paths] if self.other or not paths else paths
        return next((path for path in paths if path.is_file()), None)

    @property
    def certificate_authority(self) -> pathlib.Path:
        """The certificate that the environment's own authority signs with."""
        return self.state / "ca.crt"

    # ---------------------------------------------------------------- what make and other programs are given

    @property
    def make_args(self) -> str:
        """The arguments of make that name the environment."""
        return f"ENV={self.name}{' REHEARSE=1' if self.rehearsed else ''}"

    @property
    def password_variable(self) -> dict[str, str]:
        """The environment variable that names the vault's password to a program; none where there is no password."""
        return {PASSWORD_VARIABLE: str(path)} if (path := self.password_file) else {}

    @property
    def own_variables(self) -> dict[str, str]:
        """Environment variables of a program that works on this environment alone, which may not be built yet."""
        return {
            "ENV": self.name,
            "INVENTORY": str(self.inventory),
            PASSWORD_VARIABLE: str(self.own_password_file),
        }

    # ---------------------------------------------------------------- variables

    @functools.cached_property
    def declared(self) -> dict[str, Any]:
        """The variables that group_vars/ENV/main.yml sets, unrendered, and make_args: what is known without the vault. Raises OSError."""
        import yaml  # which most verbs do without

        variables = yaml.safe_load((ROOT / "group_vars" / self.name / "main.yml").read_text(encoding="utf-8"))
        laid_over = self.rehearsal_variables
        over = yaml.safe_load(laid_over.read_text(encoding="utf-8")) if laid_over.exists() else {}
        return {"make_args": self.make_args, **variables, **over}

    @functools.cached_property
    def rendered(self) -> Rendered:
        """The hosts with what queries need, rendered. Raises Unusable."""
        content = rendering.rendered(self.inventory, self.extra_vars, self.password_file, self.state / "rendered.json")
        hosts = {name: Host(name, Login(**host["login"]), host["values"]) for name, host in content["hosts"].items()}
        return Rendered(hosts, content["groups"])

    @property
    def hosts(self) -> dict[str, Host]:
        """{name: Host}. Raises Unusable."""
        return self.rendered.hosts

    @property
    def groups(self) -> dict[str, list[str]]:
        """{group: names of hosts}. Raises Unusable."""
        return self.rendered.groups

    @functools.cached_property
    def view(self) -> rendering.View:
        """Ansible's own view. Raises AnsibleError."""
        return rendering.view(self.inventory, self.extra_vars, self.password_file)

    def value(self, expression: str, host: str = "localhost") -> Any:
        """The value of any Ansible expression in a host's eyes. Raises AnsibleError where it cannot be evaluated."""
        variables = self.view.variables.get_vars(host=self.view.inventory.get_hosts(host)[0])
        return self.view.template(f"[{expression}]", variables)[0]

    # ---------------------------------------------------------------- hosts

    def ssh(self, host: str, session: bool = True) -> list[str]:
        """Words of an ssh to a host, on a connection of its own, which has 5 s to stand (login.command). Raises Unusable."""
        return ssh_command(self.hosts[host].login, connect_s=5, session=session)

    def terminal(self, host: str) -> list[str]:
        """Words of an ssh that gives the program on the host this terminal, where there is one. Raises Unusable."""
        first, *others = self.ssh(host)
        return [first, "-t", *others]
