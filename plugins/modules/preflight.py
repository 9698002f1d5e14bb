#!/usr/bin/python
"""Find what is wrong in an environment's files, before a host is touched."""

import difflib
import ipaddress
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml
from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
module: preflight
short_description: Check an inventory and the variables beside it
description:
  - Reads files only. Every complaint names the file and the line to change.
options:
  root: {type: path, required: true, description: The repository.}
  inventory: {type: path, required: true, description: The inventory file.}
  groups: {type: list, elements: str, required: true, description: Groups a tier must have; no other group may exist.}
  may_be_empty: {type: list, elements: str, required: true, description: Those of them that need no hosts where the inventory names them.}
  values: {type: dict, required: true, description: The environment's own variables, as group_vars set them.}
"""

Hosts = Mapping[str, tuple[int, Mapping[str, tuple[int, str]]]]  # {host: (line, {variable: (line, value)})}

# Addresses that RFC 5737 reserves for documentation: an inventory nobody has filled in.
EXAMPLE_NETWORKS = [ipaddress.ip_network(n) for n in ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24")]

# What one host cannot be at once, and why.
LOST = "what destroys one takes the other along"
APART = {
    "monitor": {"lb": "both want the ports of the web"},
    "backup": {"db": LOST, "media": LOST, "app": "both want the same ports"},
}

# What YAML takes a word for that is not in quotes, by its tag: 1.10 is the number 1.1, no is false, 2026-11-30 a day.
READ_AS = {
    f"tag:yaml.org,2002:{kind}": type_name
    for kind, type_name in (("float", "number"), ("int", "number"), ("bool", "truth value"), ("timestamp", "date"))
}

# Set by Ansible's users rather than read by a role.
CONNECTION = re.compile(r"^(ansible_\w+|mitogen_\w+|private_address|host_share)$")


def keys(node: yaml.Node | None) -> Iterator[tuple[str, int, yaml.Node]]:
    """Yield (name, line, value node) for each key of a YAML mapping node; lines count from 1."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield key.value, key.start_mark.line + 1, value


class VaultLoader(yaml.SafeLoader):
    """A loader that reads past Ansible's own tags."""


VaultLoader.add_multi_constructor("!", lambda loader, suffix, node: None)


def compose(path: pathlib.Path) -> yaml.Node | None:
    """The YAML node tree of a file; None where it is vaulted or empty. Raises yaml.YAMLError."""
    text = path.read_text()
    return None if text.startswith("$ANSIBLE_VAULT") else yaml.compose(text, VaultLoader)


def inventory_groups(node: yaml.Node | None) -> Iterator[tuple[str, int, Hosts]]:
    """Yield (group, line, {host: (line, {variable: (line, value)})}) for every group of an inventory tree."""
    for group, line, body in keys(node):
        hosts = {}
        for section, _line, content in keys(body):
            if section == "hosts":
                for host, host_line, variables in keys(content):
                    hosts[host] = (host_line, {n: (v_line, v.value) for n, v_line, v in keys(variables)})
            elif section == "children":
                yield from inventory_groups(content)
        yield group, line, hosts


def check_inventory(
    path: pathlib.Path, env: str, required: Sequence[str], values: Mapping[str, Any], may_be_empty: Sequence[str] = ()
) -> Iterator[str]:
    """Yield a complaint for everything wrong with who is where. Groups in may_be_empty need no hosts, but have to be named."""
    name = f"inventories/{path.name}"
    groups = list(inventory_groups(compose(path)))
    known = {*required, "all", env}
    addresses: dict[str, tuple[str, int]] = {}
    for group, line, hosts in groups:
        if group not in known:
            near = difflib.get_close_matches(group, known, 1)
            yield f"{name}:{line}: unknown group '{group}'" + (f"; did you mean '{near[0]}'?" if near else "")
        for host, (_host_line, variables) in hosts.items():
            for variable, (line, value) in variables.items():
                if variable in ("ansible_host", "private_address"):
                    other = addresses.setdefault(value, (host, line))
                    if other[0] != host:
                        yield f"{name}:{line}: {host} has the address {value} of {other[0]} (line {other[1]})"
    placed = {host for _g, _l, hosts in groups for host, (_hl, v) in hosts.items() if "ansible_host" in v}
    reached: dict[str, dict[str, tuple[int, str]]] = {}
    for _group, _line, hosts in groups:
        for host, (_host_line, variables) in hosts.items():
            reached.setdefault(host, {}).update(variables)
    for host, variables in reached.items():
        line, text = variables.get("private_address") or variables.get("ansible_host") or (0, "{{")
        if "{{" not in text and not is_ipv4(text):
            yield (
                f"{name}:{line}: other hosts reach {host} at '{text}'. The lists of who may come in, and the virtual IP, take IPv4 addresses: "
                "put one there, as private_address where ansible_host is to stay"
            )
    for _group, _line, hosts in groups:
        for host, (line, _variables) in hosts.items():
            if host not in placed:
                yield f"{name}:{line}: {host} has no ansible_host in any group"
    if env not in {group for group, _line, _hosts in groups}:
        yield f"{name}:1: there is no group '{env}': the hosts of {path.name} belong under it, as children"
    members: dict[str, set[str]] = {}
    for group, _line, hosts in groups:
        members.setdefault(group, set()).update(hosts)
    for group in required:
        if not members.get(group) and not (group in may_be_empty and group in members):
            yield f"{name}:1: the group '{group}' has no hosts" + (
                f"; where there are to be none, write {group}: {{hosts: {{}}}}" if group in may_be_empty else ""
            )
    if len(members.get("quorum", ())) % 2 == 0 and members.get("quorum"):
        yield f"{name}:1: 'quorum' has {len(members['quorum'])} hosts: an even number survives no more than one fewer would"
    for group, _line, hosts in groups:
        for host, (line, _variables) in hosts.items():
            # A vote that is the only one freezes with the primary: nobody else can have become it meanwhile.
            if (
                group == "quorum"
                and host in members.get("db", ())
                and len(members["db"]) > 1
                and len(members["quorum"]) > 1
            ):
                yield (
                    f"{name}:{line}: {host} is a database and in 'quorum' too. A primary that freezes and thaws together with "
                    "the leader of etcd may take its lock back, and lose what another primary acknowledged: choose a host that is none"
                )
            for excluded, why in APART.get(group, {}).items():
                if host in members.get(excluded, ()):
                    yield f"{name}:{line}: {host} is in '{group}' and in '{excluded}' too: {why}"
    yield from check_addresses(name, addresses, values)


def is_ipv4(text: str) -> bool:
    """Whether a text is an IPv4 address."""
    try:
        return ipaddress.ip_address(text).version == 4
    except ValueError:
        return False


def check_addresses(name: str, addresses: Mapping[str, tuple[str, int]], values: Mapping[str, Any]) -> Iterator[str]:
    """Yield a complaint for each address that cannot work."""
    main = f"group_vars/{values['env_name']}/main.yml"
    network = ipaddress.ip_network(values["network_cidr"])
    for text, (host, line) in addresses.items():
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            continue  # a name, to log in by
        if values["env_containers"] and address not in network:
            yield f"{name}:{line}: {host} at {text} is outside network_cidr {network} ({main})"
        if not values["env_containers"] and any(address in example for example in EXAMPLE_NETWORKS):
            yield f"{name}:{line}: {host} still has the example address {text}: put your host's own"
    if values["lb_vip"] in addresses:
        host, line = addresses[values["lb_vip"]]
        yield f"{name}:{line}: {host} has the address of lb_vip ({main}): it must be nobody's"
    elif values["env_containers"] and ipaddress.ip_address(values["lb_vip"]) not in network:
        yield f"{main}: lb_vip {values['lb_vip']} is outside network_cidr {network}"


def declared(root: pathlib.Path) -> dict[str, set[str]]:
    """{name: types} of what some role's argument_specs declare."""
    names: dict[str, set[str]] = {}
    for path in root.glob("roles/*/meta/argument_specs.yml"):
        for entry in ((yaml.safe_load(path.read_text()) or {}).get("argument_specs") or {}).values():
            for name, option in (entry.get("options") or {}).items():
                names.setdefault(name, set()).add((option or {}).get("type", "str"))
    return names


def names_read(text: str) -> set[str]:
    """The words of a file, without its comments and the names of what it sets."""
    names = set()
    for line in text.splitlines():
        if not line.lstrip().startswith("#"):
            names.update(re.findall(r"\w+", re.sub(r"^\w+\s*:", "", line)))
    return names


def check_variables(root: pathlib.Path, inventory: pathlib.Path) -> Iterator[str]:
    """Yield a complaint for each variable that is set and that nothing reads."""
    sources = [
        p
        for d in ("group_vars", "roles", "playbooks", "plugins", "controller", "containers")
        for p in sorted((root / d).rglob("*"))
        if p.suffix in (".yml", ".j2", ".py") and p.is_file()
    ]
    read: set[str] = set().union(*(names_read(path.read_text()) for path in sources))
    names = declared(root)
    assigned: list[tuple[pathlib.Path, str, int]] = []
    for path in sorted((root / "group_vars").rglob("*.yml")):
        for name, line, value in keys(compose(path)):
            assigned.append((path.relative_to(root), name, line))
            if names.get(name) == {"str"} and value.tag in READ_AS:
                yield f"{path.relative_to(root)}:{line}: {name} is a text, and YAML reads {value.value} as a {READ_AS[value.tag]}: put it in quotes"
    for _group, _line, hosts in inventory_groups(compose(inventory)):
        for _host_line, variables in hosts.values():
            assigned += [
                (pathlib.Path("inventories", inventory.name), name, line) for name, (line, _v) in variables.items()
            ]
    for path, name, line in assigned:
        if name in names or CONNECTION.match(name):
            continue
        if name not in read:
            near = difflib.get_close_matches(name, names.keys() | {n for _p, n, _l in assigned} - {name}, 1)
            yield f"{path}:{line}: nothing reads '{name}'" + (f"; did you mean '{near[0]}'?" if near else "")


def check(
    root: pathlib.Path,
    inventory: pathlib.Path,
    required: Sequence[str],
    values: Mapping[str, Any],
    may_be_empty: Sequence[str] = (),
) -> list[str]:
    """Every complaint about an environment, as a list of sentences.

    root and inventory are pathlib.Paths; required names the groups of a tier, may_be_empty those of them that need no hosts; values holds
    env_name, env_containers, network_cidr and lb_vip. Raises OSError and yaml.YAMLError for
    files that cannot be read.
    """
    complaints = list(check_inventory(inventory, values["env_name"], required, values, may_be_empty))
    if values["env_name"] != inventory.stem:
        complaints.append(
            f"group_vars/{values['env_name']}/main.yml: env_name is '{values['env_name']}', "
            f"the inventory is {inventory.name}"
        )
    return complaints + list(check_variables(root, inventory))


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={
            "root": {"type": "path", "required": True},
            "inventory": {"type": "path", "required": True},
            "groups": {"type": "list", "elements": "str", "required": True},
            "may_be_empty": {"type": "list", "elements": "str", "required": True},
            "values": {"type": "dict", "required": True},
        },
        supports_check_mode=True,
    )
    p = module.params
    complaints = check(
        pathlib.Path(p["root"]), pathlib.Path(p["inventory"]), p["groups"], p["values"], p["may_be_empty"]
    )
    if complaints:
        module.fail_json(msg="Nothing was touched. To be put right first:\n" + "\n".join(complaints))
    module.exit_json(changed=False)


if __name__ == "__main__":
    main()
