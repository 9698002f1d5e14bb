"""Describe an environment of real hosts as containers on this machine: the same inventory and variables, other addresses.

Writes inventory/ of the state directory: the inventory with every address moved into a network of this machine, links to the repository's
group_vars, and playbooks/vars/rehearsal.yml laid over the environment's own. Written anew when the inventory has changed since: hosts keep
their addresses, and those that only the rehearsal had are named. Exits with 2 where the environment cannot be rehearsed.
"""

import ipaddress
import json
import os
import pathlib
import shutil
import string
import sys
import zlib
from collections.abc import Iterable, Iterator, Mapping

import yaml

from controller import arguments
from controller.environment import ROOT, Environment
from controller.errors import Refused, exit_code
from controller.inventory import Inventory, sections, write
from plugins.modules import preflight

ADDRESSES = ("ansible_host", "private_address")
# May stay: they say nothing about where a host is.
HARMLESS = ("ansible_python_interpreter",)
VIP = 100  # number of the virtual IP in the network


def network_of(env: str) -> str:
    """The first three numbers of an environment's network on this machine: the same in every checkout, apart from that of local."""
    return f"172.30.{100 + zlib.crc32(env.encode()) % 100}"


def variables(node: yaml.Node | None) -> Iterator[tuple[str, str, yaml.Node]]:
    """Yield (host, name of a variable, node of its value) for every variable of a host."""
    for _group, hosts in sections(node):
        for host, _line, body in preflight.keys(hosts):
            for name, _number, value in preflight.keys(body):
                yield host, name, value


def group_variables(node: yaml.Node | None) -> Iterator[tuple[int, str]]:
    """Yield (line, name) for every variable that an inventory gives a group."""
    for _group, _line, body in preflight.keys(node):
        for section, _number, content in preflight.keys(body):
            if section == "vars":
                yield from ((line, name) for name, line, _value in preflight.keys(content))
            elif section == "children":
                yield from group_variables(content)


def new_addresses(old: Mapping[str, str], network: str, known: Mapping[str, str]) -> dict[str, str]:
    """{host: its address in the network}, where it had one before its own; else by the last number of its real one; else the next that is free.

    old: {host: its real address}; known: {host: address} of an earlier rehearsal. Raises Refused where there are too many hosts.
    """
    room = [number for number in range(2, 255) if number != VIP]
    numbers = {
        host: int(known[host].rpartition(".")[2]) for host in old if known.get(host, "").startswith(f"{network}.")
    }
    for host in (host for host in old if host not in numbers):
        try:
            number = int(ipaddress.IPv4Address(old[host])) % 256
        except ValueError:
            continue  # a name
        if number in room and number not in numbers.values():
            numbers[host] = number
    for host in (host for host in old if host not in numbers):
        free = [number for number in room if number not in numbers.values()]
        if not free:
            raise Refused(f"A rehearsal has room for {len(room)} hosts, and the inventory has {len(old)}.")
        numbers[host] = free[0]
    return {host: f"{network}.{number}" for host, number in numbers.items()}


def moved(text: str, name: str, network: str, known: Mapping[str, str] | Iterable[tuple[str, str]] = ()) -> str:
    """The text of an inventory with every host in the network, everything else as it was. Raises Refused where it says more than addresses."""
    tree = yaml.compose(text, preflight.VaultLoader)
    for line, variable in group_variables(tree):
        if variable.startswith("ansible_") or variable in ADDRESSES:
            raise Refused(
                f"{name}:{line}: how to reach hosts belongs into group_vars, where a rehearsal replaces it: move {variable} there."
            )
    settings = list(variables(tree))
    for host, variable, value in settings:
        if variable.startswith("ansible_") and variable not in (*ADDRESSES, *HARMLESS, "ansible_port"):
            raise Refused(
                f"{name}:{value.start_mark.line + 1}: {variable} of {host} says how to reach it, and a rehearsal could go there: "
                "put it into group_vars."
            )
    old: dict[str, str] = {}
    for host, variable, value in settings:
        if variable == "ansible_host":
            old[host] = value.value
    new = new_addresses(old, network, dict(known))
    values = [
        (value, new.get(host, str(value.value)) if variable in ADDRESSES else "22")
        for host, variable, value in settings
        if variable in (*ADDRESSES, "ansible_port")
    ]
    for value, word in sorted(values, key=lambda pair: -pair[0].start_mark.index):
        text = text[: value.start_mark.index] + word + text[value.end_mark.index :]
    return text


def check_variables(root: pathlib.Path, env: str, replaced: Iterable[str]) -> None:
    """Raise Refused for a variable of an environment that says how to reach hosts and that a rehearsal does not replace. Vaulted files are not read."""
    for path in sorted((root / f"group_vars/{env}").glob("*.yml")):
        for name, line, _value in preflight.keys(preflight.compose(path)):
            if name.startswith("ansible_") and name not in (*replaced, *HARMLESS):
                raise Refused(
                    f"{path.relative_to(root)}:{line}: {name} says how to reach hosts, and a rehearsal could go there: "
                    "say in playbooks/vars/rehearsal.yml what it is in one."
                )


def known_addresses(path: pathlib.Path) -> dict[str, str]:
    """{host: address} of an inventory file; empty where there is none."""
    if not path.exists():
        return {}
    inventory = Inventory(path.read_text())
    return {host: address for address, host in inventory.addresses.items()}


def link(path: pathlib.Path, target: pathlib.Path) -> None:
    """Make a link that works wherever the checkout is moved to. One that is right stays: another verb may be reading through it."""
    to = os.path.relpath(target, path.parent)
    if path.is_symlink() and os.readlink(path) == to:
        return
    path.unlink(missing_ok=True)
    path.symlink_to(to)


def build(source: pathlib.Path, state: pathlib.Path, root: pathlib.Path = ROOT) -> list[str]:
    """Write the tree; what there is to say about it, as a list of sentences. Raises Refused."""
    env, text = source.stem, source.read_text()
    own = yaml.safe_load((root / f"group_vars/{env}/main.yml").read_text())
    if own["env_containers"]:
        raise Refused(f"The hosts of {env} are containers already: there is nothing to rehearse. Leave REHEARSE=1 out.")
    rehearsal, network, notes = Environment(state / "inventory" / source.name), network_of(env), []
    inventory, variables_of_env = rehearsal.inventory, rehearsal.vault.parent
    names = [*own["site_hosts"], *(name for name in ("{{ lb_vip }}", "localhost") if name not in own["site_hosts"])]
    laid_over = string.Template((root / "playbooks/vars/rehearsal.yml").read_text()).substitute(
        env=env, network=network, site_hosts=json.dumps(names)
    )
    check_variables(root, env, yaml.safe_load(laid_over))
    variables_of_env.mkdir(parents=True, exist_ok=True)

    source_copy = state / "rehearsed.yml"
    if not inventory.exists() or not source_copy.exists() or source_copy.read_text() != text:
        before = known_addresses(inventory)
        new = moved(text, os.path.relpath(source, root), network, before)
        notes += [
            f"{host} was in the rehearsal only, and is not any more: its container goes with make down ENV={env} REHEARSE=1"
            for host in sorted(set(before) - set(Inventory(new).lines))
        ]
        write(inventory, new)
        shutil.copyfile(source, source_copy)

    for path in (root / "group_vars").iterdir():
        if not (root / "inventories" / f"{path.name}.yml").exists() and not (root / "inventories" / path.name).exists():
            link(variables_of_env.with_name(path.name), path)
    for path in (root / f"group_vars/{env}").glob("*.yml"):
        if path.name != rehearsal.vault.name:
            link(variables_of_env / path.name, path)
    write(rehearsal.rehearsal_variables, laid_over)
    return notes


def main() -> int:
    """Build, and print what there is to report. Raises Refused."""
    parser = arguments.parser_of(__doc__)
    parser.add_argument("--state", required=True, type=pathlib.Path, help="directory of the rehearsal")
    args = parser.parse_args()
    for sentence in build(args.inventory.resolve(), args.state.resolve()):
        print(f"rehearsal: {sentence}")
    return 0


if __name__ == "__main__":
    sys.exit(exit_code(main))
