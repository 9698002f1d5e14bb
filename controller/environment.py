"""An environment as its inventory and group_vars describe it, rendered once and kept until any of that changes."""

import dataclasses
import functools
import hashlib
import json
import os
import pathlib
import re
import sys
import sysconfig
import tempfile
from typing import Any

from controller.ssh import Login

ROOT = pathlib.Path(__file__).resolve().parents[1]
# Variables of each host that queries need, as names of group_vars and of this file. None of them is a secret.
DECLARED = pathlib.Path("playbooks/vars/status.yml")
VALUES = ("status_addresses", "status_facts", "log_dir")
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
# Settings of how tasks are run and shown, and of no value: verbs and tests differ in them.
INDIFFERENT = {"ANSIBLE_STRATEGY", "ANSIBLE_DEPRECATION_WARNINGS", "ANSIBLE_NOCOLOR", "ANSIBLE_FORCE_COLOR"}
PURE_LOOKUPS = {
    "vars",
    "varnames",
    "items",
    "dict",
    "list",
    "indexed_items",
    "nested",
    "subelements",
    "together",
    "flattened",
    "sequence",
    "inventory_hostnames",
}  # what they return is made of variables alone
# What else may come to another thing the next time, though no file was changed: a clock, a die, a look at the disk.
FICKLE = re.compile(
    rb"\bnow\s*\(|\|\s*(?:random|shuffle|realpath)\b|\bis\s+(?:not\s+)?(?:file|exists|directory|link|link_exists|mount|same_file)\b"
)


class Unusable(Exception):
    """An environment that cannot be read, with the reason as a sentence."""


@dataclasses.dataclass(frozen=True)
class Host:
    """A host: how to log in, and the rendered values, as {variable: value}."""

    name: str
    login: Login
    values: dict


@dataclasses.dataclass(frozen=True)
class Environment:
    """An environment. hosts: {name: Host}; groups: {group: names}."""

    name: str
    state: pathlib.Path
    hosts: dict
    groups: dict


def state_directory(inventory: pathlib.Path) -> pathlib.Path:
    """Where an environment's keys and passwords are. A rehearsal's inventory lies in there (controller/commands/rehearse.py)."""
    directory = inventory.resolve().parents[1]
    return directory if directory.parent.name == ".state" else ROOT / ".state" / inventory.stem


def password_file(state: pathlib.Path) -> pathlib.Path | None:
    """The file with the vault's password; None where there is none."""
    path = pathlib.Path(os.environ.get("ANSIBLE_VAULT_PASSWORD_FILE") or state / "vault-password")
    return path if path.is_file() else None


# ------------------------------------------------------------------ what the values are made from


def sources(inventory: pathlib.Path, password: pathlib.Path | None) -> list[pathlib.Path]:
    """Every file that the values are made from, but for Ansible itself, in a fixed order."""
    trees = [
        directory / kind for directory in (inventory.parent, ROOT / "playbooks") for kind in ("group_vars", "host_vars")
    ]
    trees += [ROOT / "plugins", ROOT / "controller"]
    files = [
        inventory,
        ROOT / DECLARED,
        pathlib.Path(os.environ.get("ANSIBLE_CONFIG") or ROOT / "ansible.cfg"),
        *([password] if password else []),
    ]
    for tree in trees:
        for directory, below, names in os.walk(tree, followlinks=True):
            below[:] = [name for name in below if name != "__pycache__"]
            files += [pathlib.Path(directory, name) for name in names]
    return sorted(set(files))


def fingerprint(inventory: pathlib.Path, over: tuple[str, ...], password: pathlib.Path | None) -> str:
    """A name for all that the values are made from: another one as soon as any of it changes. Raises OSError."""
    packages = pathlib.Path(sysconfig.get_path("purelib"))
    settings = {
        name: value
        for name, value in os.environ.items()
        if (name.startswith("ANSIBLE_") and name not in INDIFFERENT) or name in ("HOME", "USER")
    }
    made_from = [
        sys.version,
        str(ROOT),
        str(inventory.resolve()),
        list(over),
        sorted(settings.items()),
        sorted(path.name for pattern in ("ansible*.dist-info", "jinja2*.dist-info") for path in packages.glob(pattern)),
        [
            (str(path), hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None)
            for path in sources(inventory, password)
        ],
    ]
    return hashlib.sha256(json.dumps(made_from).encode()).hexdigest()


def constant(inventory: pathlib.Path, over: tuple[str, ...], password: pathlib.Path | None) -> bool:
    """Whether the sources alone decide what the values are. An inventory that is a program, or asks a cloud, decides for itself."""
    if (
        not inventory.is_file()
        or os.access(inventory, os.X_OK)
        or re.search(rb"^plugin\s*:", inventory.read_bytes(), re.M)
    ):
        return False
    texts = [
        path.read_bytes()
        for path in sources(inventory, password)
        if path.suffix in (".yml", ".yaml", ".json", "") and path.is_file()
    ]
    return not any(word.startswith("@") for word in over) and not any(
        map(FICKLE.search, [*texts, *map(str.encode, over)])
    )


# ------------------------------------------------------------------ making them


def login(name: str, variables: dict, check_host_key: bool = True) -> Login:
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


@functools.cache
def load_plugins() -> None:
    """Let Ansible find filters and lookups; once in a process."""
    from ansible.plugins.loader import init_plugin_loader

    init_plugin_loader()


def render(inventory: pathlib.Path, over: tuple[str, ...], password: pathlib.Path | None) -> tuple[dict, bool]:
    """(groups and the values of each host, as the file keeps them; whether they may be kept), by Ansible's own classes.

    They may not where a lookup was asked for them: what it returned may be another thing the next time. Raises Unusable.
    """
    # Loading Ansible takes a second, which is saved where the values are kept.
    from ansible import constants, context
    from ansible.cli import CLI
    from ansible.errors import AnsibleError
    from ansible.inventory.manager import InventoryManager
    from ansible.parsing.dataloader import DataLoader
    from ansible.plugins.loader import lookup_loader
    from ansible.template import Templar, trust_as_template
    from ansible.vars.hostvars import HostVars
    from ansible.vars.manager import VariableManager

    lookups, get = set(), lookup_loader.get

    @functools.wraps(get)
    def noted(plugin: str, *arguments: Any, **options: Any) -> Any:
        lookups.add(plugin.removeprefix("ansible.builtin."))
        return get(plugin, *arguments, **options)

    try:
        load_plugins()
        loader = DataLoader()
        loader.set_basedir(
            str(ROOT / "playbooks")
        )  # the group_vars beside an inventory are meant, not those of the directory this runs in
        constants.DEFAULT_VAULT_PASSWORD_FILE = None
        loader.set_vault_secrets(
            CLI.setup_vault_secrets(
                loader, [], [str(password)] if password else [], auto_prompt=False, initialize_context=False
            )
        )
        context.CLIARGS = {"extra_vars": over}
        inventories = InventoryManager(loader=loader, sources=[str(inventory)])
        manager = VariableManager(loader=loader, inventory=inventories)
        HostVars(inventories, manager, loader)  # makes itself known to the variables
        declared = loader.load_from_file(str(ROOT / DECLARED), trusted_as_template=True)
        lookup_loader.get = noted
        hosts = {}
        for host in inventories.get_hosts("all"):
            host_variables = manager.get_vars(host=host)
            host_variables = host_variables | {
                name: value for name, value in declared.items() if name not in manager.extra_vars
            }
            names = [
                name
                for name in host_variables
                if name.startswith("ansible_")
                and isinstance(host_variables[name], (str, int, bool, float))
                and (
                    name.startswith(("ansible_ssh_", "ansible_become"))
                    or name in ("ansible_connection", "ansible_password")
                    or any(name in variables for variables in CONNECTION.values())
                )
            ]
            expression = ", ".join(f"'{name}': {name}" for name in [*VALUES, *names])
            rendered = json.loads(
                Templar(loader=loader, variables=host_variables).template(
                    trust_as_template("{{ {" + expression + "} | to_json }}")
                )
            )
            hosts[host.name] = {
                "values": {name: rendered[name] for name in VALUES},
                "login": dataclasses.asdict(
                    login(host.name, {name: rendered[name] for name in names}, constants.HOST_KEY_CHECKING)
                ),
            }
        groups = {
            name: [str(host_name) for host_name in names] for name, names in inventories.get_groups_dict().items()
        }
    except AnsibleError as error:
        raise Unusable(str(error)) from error
    finally:
        lookup_loader.get = get
    return {"hosts": hosts, "groups": groups}, lookups <= PURE_LOOKUPS


# ------------------------------------------------------------------ keeping them


def kept(path: pathlib.Path, made_from: str) -> dict | None:
    """The values that a file keeps, if they are made from the same; else None."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return content["rendered"] if content["made_from"] == made_from else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def keep(path: pathlib.Path, made_from: str, rendered: dict) -> None:
    """Replace the file at once, for its owner alone."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(
        "w", dir=path.parent, prefix=f".{path.name}.", delete=False, encoding="utf-8"
    ) as file:
        json.dump({"made_from": made_from, "rendered": rendered}, file)
    os.replace(file.name, path)


def load(inventory: str | os.PathLike, over: tuple[str, ...] = ()) -> Environment:
    """The environment of an inventory file; over: what `-e` gives Ansible. Raises Unusable."""
    inventory = pathlib.Path(inventory)
    state = state_directory(inventory)
    path, password = state / "rendered.json", password_file(state)
    try:
        made_from = fingerprint(inventory, over, password)
        rendered = kept(path, made_from)
        if rendered is None:
            rendered, lasting = render(inventory, over, password)
            # What was changed meanwhile may be in the values, or not.
            if lasting and constant(inventory, over, password) and fingerprint(inventory, over, password) == made_from:
                keep(path, made_from, rendered)
    except OSError as error:
        raise Unusable(str(error)) from error
    hosts = {name: Host(name, Login(**host["login"]), host["values"]) for name, host in rendered["hosts"].items()}
    return Environment(inventory.stem, state, hosts, rendered["groups"])
