"""What the inventory and group_vars of an environment say of its hosts, rendered once and kept until any of that changes."""

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
from collections.abc import Mapping
from typing import Any

from controller.environment.login import CONNECTION, login
from controller.errors import Unusable

ROOT = pathlib.Path(__file__).resolve().parents[2]
# Variables of each host that queries need, as names of group_vars and of this file. None of them is a secret.
DECLARED = pathlib.Path("playbooks/vars/status.yml")
VALUES = ("status_addresses", "status_facts", "log_dir")
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


@functools.cache
def load_plugins() -> None:
    """Let Ansible find filters and lookups; once in a process."""
    from ansible.plugins.loader import init_plugin_loader

    init_plugin_loader()


@dataclasses.dataclass(frozen=True)
class View:
    """Ansible's own view of an inventory: its DataLoader, InventoryManager and VariableManager."""

    loader: Any
    inventory: Any
    variables: Any

    def template(self, expression: str, variables: Mapping[str, Any]) -> Any:
        """The value of an expression in the eyes of who has these variables. Raises AnsibleError where it cannot be evaluated."""
        from ansible.template import Templar, trust_as_template

        text = trust_as_template("{{ " + expression + " | to_json }}")
        return json.loads(Templar(loader=self.loader, variables=variables).template(text))


def view(inventory: pathlib.Path, over: tuple[str, ...], password: pathlib.Path | None) -> View:
    """Read an inventory in this process: a command takes a second. Raises AnsibleError."""
    # Loading Ansible takes a second, which is saved where the values are kept.
    from ansible import constants, context
    from ansible.cli import CLI
    from ansible.inventory.manager import InventoryManager
    from ansible.parsing.dataloader import DataLoader
    from ansible.vars.hostvars import HostVars
    from ansible.vars.manager import VariableManager

    load_plugins()
    loader = DataLoader()
    # The group_vars beside an inventory are meant, not those of the directory this runs in.
    loader.set_basedir(str(ROOT / "playbooks"))
    # No password is needed before anything is built: groups and names are no secrets. Ansible insists otherwise.
    constants.DEFAULT_VAULT_PASSWORD_FILE = None
    passwords = [str(password)] if password else []
    loader.set_vault_secrets(
        CLI.setup_vault_secrets(loader, [], passwords, auto_prompt=False, initialize_context=False)
    )
    context.CLIARGS = {"extra_vars": over}
    hosts = InventoryManager(loader=loader, sources=[str(inventory)])
    variables = VariableManager(loader=loader, inventory=hosts)
    HostVars(hosts, variables, loader)  # makes itself known to the variables
    return View(loader, hosts, variables)


def connection_variables(variables: Mapping[str, Any]) -> list[str]:
    """Names of those of a host's variables that say how to log in to it."""
    return [
        name
        for name, value in variables.items()
        if name.startswith("ansible_")
        and isinstance(value, (str, int, bool, float))
        and (
            name.startswith(("ansible_ssh_", "ansible_become"))
            or name in ("ansible_connection", "ansible_password")
            or any(name in names for names in CONNECTION.values())
        )
    ]


def render(inventory: pathlib.Path, over: tuple[str, ...], password: pathlib.Path | None) -> tuple[dict, bool]:
    """(groups and the values of each host, as the file keeps them; whether they may be kept), by Ansible's own classes.

    They may not where a lookup was asked for them: what it returned may be another thing the next time. Raises Unusable.
    """
    from ansible import constants
    from ansible.errors import AnsibleError
    from ansible.plugins.loader import lookup_loader

    lookups, get = set(), lookup_loader.get

    @functools.wraps(get)
    def noted(plugin: str, *arguments: Any, **options: Any) -> Any:
        lookups.add(plugin.removeprefix("ansible.builtin."))
        return get(plugin, *arguments, **options)

    try:
        seen = view(inventory, over, password)
        declared = seen.loader.load_from_file(str(ROOT / DECLARED), trusted_as_template=True)
        declared = {name: value for name, value in declared.items() if name not in seen.variables.extra_vars}
        lookup_loader.get = noted
        hosts = {}
        for host in seen.inventory.get_hosts("all"):
            variables = seen.variables.get_vars(host=host) | declared
            names = connection_variables(variables)
            expression = ", ".join(f"'{name}': {name}" for name in [*VALUES, *names])
            values = seen.template("{" + expression + "}", variables)
            logged_in = login(host.name, {name: values[name] for name in names}, constants.HOST_KEY_CHECKING)
            hosts[host.name] = {
                "values": {name: values[name] for name in VALUES},
                "login": dataclasses.asdict(logged_in),
            }
        groups = {
            name: [str(host_name) for host_name in names] for name, names in seen.inventory.get_groups_dict().items()
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


def rendered(
    inventory: pathlib.Path, over: tuple[str, ...], password: pathlib.Path | None, path: pathlib.Path
) -> dict[str, Any]:
    """Groups and values as `render` makes them; from the file that keeps them, where nothing has changed since. Raises Unusable."""
    try:
        made_from = fingerprint(inventory, over, password)
        values = kept(path, made_from)
        if values is None:
            values, lasting = render(inventory, over, password)
            # What was changed meanwhile may be in the values, or not.
            if lasting and constant(inventory, over, password) and fingerprint(inventory, over, password) == made_from:
                keep(path, made_from, values)
    except OSError as error:
        raise Unusable(str(error)) from error
    return values
