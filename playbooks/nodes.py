"""Put a host into a pool of a standing tier, or take one out of it.

    nodes.py add INVENTORY POOL NODE [ADDRESS] [-- words for ansible-playbook]
    nodes.py remove INVENTORY NODE [POOL] [-- words for ansible-playbook]
    nodes.py write add INVENTORY POOL NODE ADDRESS    only the line in the inventory; prints {"changed": …}
    nodes.py write remove INVENTORY NODE [POOL]

Input that cannot be right is refused here, with exit code 2, before anything is touched. The playbooks add_node.yml
and remove_node.yml do the rest: they ask the tier, and change the inventory themselves once they know that it can be done.
"""

import difflib
import ipaddress
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import yaml

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "roles/preflight/library"))
import preflight

POOLS = ["lb", "app", "media", "cache", "db"]
JOBS = [*POOLS, "quorum", "monitor", "backup"]
NAME = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?")


class Refused(Exception):
    """Why nothing is done, and what to type instead."""


def last_line(node):
    """Number of the last line of a YAML node, from 0, without the comments that follow it."""
    if isinstance(node, yaml.MappingNode) and not node.flow_style:
        return max([node.start_mark.line, *(last_line(part) for pair in node.value for part in pair)])
    if isinstance(node, yaml.SequenceNode) and not node.flow_style:
        return max([node.start_mark.line, *map(last_line, node.value)])
    return node.end_mark.line


def sections(node):
    """Yield (group, node of its hosts) for every group of an inventory that has hosts."""
    for group, _line, body in preflight.keys(node):
        for section, _line, content in preflight.keys(body):
            if section == "hosts" and isinstance(content, yaml.MappingNode):
                yield group, content
            elif section == "children":
                yield from sections(content)


class Inventory:
    """The text of an inventory, and who is in it."""

    def __init__(self, text, name="inventory"):
        self.text, self.name = text, name
        tree = yaml.compose(text, preflight.VaultLoader)
        self.sections = list(sections(tree))
        self.lines = {}      # host: number of the line that brings it in, from 1
        self.addresses = {}  # address: host
        self.groups = {}     # group: its hosts in their order
        for group, _line, hosts in preflight.inventory_groups(tree):
            for host, (line, variables) in hosts.items():
                self.groups.setdefault(group, []).append(host)
                if host not in self.lines or "ansible_host" in variables:
                    self.lines[host] = line
                self.addresses |= {variables[v][1]: host for v in ("ansible_host", "private_address") if v in variables}

    def pools(self, host):
        """The pools that a host is in."""
        return [pool for pool in POOLS if host in self.groups.get(pool, [])]

    def jobs(self, host):
        """All that a host does for the tier."""
        return [job for job in JOBS if host in self.groups.get(job, [])]

    def address(self, host):
        """The address of a host, as this machine reaches it."""
        return next(address for address, name in self.addresses.items() if name == host)

    def place(self, host):
        """Where a host stands, as file and line."""
        return f"{self.name}:{self.lines[host]}"

    def with_host(self, pool, host, address):
        """The text with a host more, after the last one of its pool. Raises Refused where the file is written another way."""
        hosts = dict(self.sections).get(pool)
        if hosts is None or hosts.flow_style or not hosts.value:
            raise Refused(f"{self.name} does not list the hosts of '{pool}' one a line: write them like those of inventories/local.yml.")
        indent = " " * hosts.value[0][0].start_mark.column
        lines = self.text.splitlines(keepends=True)
        place = last_line(hosts)
        if not lines[place].endswith("\n"):
            lines[place] += "\n"
        lines.insert(place + 1, f"{indent}{host}: {{ansible_host: {address}}}\n")
        return "".join(lines)

    def without_host(self, host, pool=""):
        """The text without a host, in one pool or in whichever groups it is. Raises Refused where the file is written another way."""
        gone, stays = set(), []
        for group, hosts in self.sections:
            for key, value in hosts.value:
                if key.value != host:
                    continue
                if hosts.flow_style:
                    raise Refused(f"{self.name} does not list its hosts one a line: take {host} out of it by hand.")
                if pool in ("", group):
                    gone |= set(range(key.start_mark.line, last_line(value) + 1))
                else:
                    stays.append((key, value))
        lines = self.text.splitlines(keepends=True)
        kept = {number: line for number, line in enumerate(lines) if number not in gone}
        # What the inventory says of the host goes where it is still named.
        if stays and not any(isinstance(value, yaml.MappingNode) for _key, value in stays):
            kept[stays[0][0].start_mark.line] = self.moved(lines, sorted(gone), stays[0][0].start_mark.column)
        return "".join(line for _number, line in sorted(kept.items()))

    @staticmethod
    def moved(lines, numbers, column):
        """Lines of a host, as they are where its name begins in another column."""
        before = len(lines[numbers[0]]) - len(lines[numbers[0]].lstrip())
        return "".join(" " * column + lines[number].rstrip("\n")[before:] + "\n" for number in numbers)


def facts_of(path):
    """What group_vars say of the environment of an inventory, unrendered."""
    facts = yaml.safe_load((ROOT / f"group_vars/{path.stem}/main.yml").read_text())
    rehearsal = path.parent / "group_vars" / path.stem / "zz_rehearsal.yml"  # of playbooks/rehearsal.py
    return facts | yaml.safe_load(rehearsal.read_text()) if rehearsal.exists() else facts


def vault_of(path):
    """The file that has the secrets of an inventory's environment."""
    return path.parent / "group_vars" / path.stem / "vault.yml"


def state_of(path):
    """Where the controller keeps what belongs to an inventory's environment; a rehearsal's inventory lies in it."""
    above = path.resolve().parents[1]
    return above if above.parent.name == ".state" else ROOT / ".state" / path.stem


def near(word, words):
    """The end of a sentence about a word: "; did you mean …?" where it resembles one of several, or a full stop."""
    found = difflib.get_close_matches(word, words, 1)
    return f"; did you mean '{found[0]}'?" if found else "."


def typed(facts):
    """How a verb is told which environment it is for."""
    return facts.get("env_typed", f"ENV={facts['env_name']}")


def next_address(inventory, pool, facts):
    """The next free address of a pool's range: the ten that its first host is one of; when they are taken, the upper half of the network."""
    network = ipaddress.ip_network(facts["network_cidr"])
    first = min(ipaddress.ip_address(inventory.address(host)) for host in inventory.groups[pool])
    start = int(first) - int(network.network_address)
    start -= start % 10
    taken = {*inventory.addresses, facts["lb_vip"]}
    for offset in [*range(start + 1, start + 10), *range(network.num_addresses // 2 + 1, network.num_addresses - 1)]:
        address = str(network[offset])
        if address not in taken:
            return address
    raise Refused(f"network_cidr {network} has no free address left (group_vars/{facts['env_name']}/main.yml).")


def check_address(inventory, host, address, facts):
    """Raise Refused for an address that a host cannot have."""
    main = f"group_vars/{facts['env_name']}/main.yml"
    other = inventory.addresses.get(address)
    if other and other != host:
        raise Refused(f"{address} is the address of {other} ({inventory.place(other)}).")
    if address == facts["lb_vip"]:
        raise Refused(f"{address} is lb_vip ({main}): it must be nobody's.")
    try:
        number = ipaddress.ip_address(address)
    except ValueError:
        if facts["env_containers"] or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.-]*", address):
            raise Refused(f"ADDRESS={address} is no address.") from None
        return
    if facts["env_containers"]:
        network = ipaddress.ip_network(facts["network_cidr"])
        if number not in network or number in (network[0], network[1], network[-1]):
            raise Refused(f"{address} is outside what hosts of network_cidr {network} may have ({main}).")


def check_add(inventory, pool, host, address, facts):
    """The address of a host that may come into a pool. Raises Refused for one that may not."""
    usage = f"Type it like this: make add-node {typed(facts)} POOL=app NODE=app3" + ("" if facts["env_containers"] else " ADDRESS=198.51.100.23")
    if not pool or not host:
        raise Refused(f"{'POOL' if not pool else 'NODE'}= is missing. {usage}")
    if pool not in POOLS:
        raise Refused(f"POOL={pool} is none that hosts are added to{near(pool, POOLS)} There are: {', '.join(POOLS)}.")
    if not NAME.fullmatch(host):
        raise Refused(f"NODE={host} is no name of a host: lower-case letters, digits and hyphens, a letter first.")
    if host in (*inventory.groups, *POOLS, "localhost", "all"):
        raise Refused(f"NODE={host} is the name of a group. {usage}")
    if host in inventory.lines:
        if pool not in inventory.pools(host):
            raise Refused(f"{host} is in '{', '.join(inventory.pools(host)) or 'another group'}' already ({inventory.place(host)}): choose another name.")
        if address and address != inventory.address(host):
            raise Refused(f"{host} has the address {inventory.address(host)} already ({inventory.place(host)}): leave ADDRESS= out, "
                          f"or take it out first: make remove-node {typed(facts)} NODE={host}")
        return inventory.address(host)
    if not address and not facts["env_containers"]:
        raise Refused(f"ADDRESS= is missing: nobody but you knows the address of a real host. {usage}")
    address = address or next_address(inventory, pool, facts)
    check_address(inventory, host, address, facts)
    return address


def check_remove(inventory, host, facts, pool=""):
    """The pool that a host may leave, as far as the inventory tells; pool where one is named. Raises Refused for one that may not."""
    if not host:
        raise Refused(f"NODE= is missing. Type it like this: make remove-node {typed(facts)} NODE=app3")
    if host not in inventory.lines:
        raise Refused(f"There is no {host} in {inventory.name}{near(host, inventory.lines)}")
    pools = inventory.pools(host)
    if pool:
        if pool not in pools:
            raise Refused(f"{host} is not in '{pool}' ({inventory.name}); it is in: {', '.join(pools) or 'none that hosts leave'}.")
        pools = [pool]
    elif host in inventory.groups.get("quorum", []):
        votes = inventory.groups["quorum"]
        others = [other for pool in pools for other in inventory.groups[pool] if other not in votes]
        raise Refused(f"{host} is one of the {len(votes)} that agree on which database is primary ({inventory.name}, quorum): it stays."
                      + (f" One of its jobs can go: make remove-node {typed(facts)} NODE={host} POOL={pools[-1]}" if len(pools) > 1 else
                         f" Others of its pool can go: make remove-node {typed(facts)} NODE={others[-1]}" if others else ""))
    if not pools:
        raise Refused(f"{host} is in none of the pools that hosts leave ({', '.join(POOLS)}).")
    if len(pools) > 1:
        raise Refused(f"{host} is in several pools ({', '.join(pools)}). Say which one it leaves: make remove-node {typed(facts)} "
                      f"NODE={host} POOL={pools[-1]}")
    if inventory.groups[pools[0]] == [host]:
        raise Refused(f"{host} is the last of '{pools[0]}'. Put another in first: make add-node {typed(facts)} POOL={pools[0]} NODE=…")
    return pools[0]


def told(do):
    """What a function returns; 2, and why on stderr, where it raises Refused."""
    try:
        return do()
    except Refused as reason:
        print(f"Nothing was touched. {reason}", file=sys.stderr)
        return 2


def write(path, text):
    """Replace a file's content at once, if it is another. Returns whether it was."""
    if path.exists() and path.read_text() == text:
        return False
    new = path.with_name(f".{path.name}.new")
    new.write_text(text)
    if path.exists():
        shutil.copymode(path, new)
    new.replace(path)
    return True


def play(inventory, playbook, words, **given):
    """Run a playbook; its exit code."""
    extra = [word for name, value in given.items() for word in ("-e", f"{name}={value}")]
    return subprocess.run(["ansible-playbook", "-i", str(inventory), str(ROOT / "playbooks" / playbook), *extra, *words], check=False).returncode


def run(words):
    """Do what the words of the command line say; the exit code. Raises Refused."""
    words, _dashes, more = (words, None, []) if "--" not in words else (words[:words.index("--")], "--", words[words.index("--") + 1:])
    only_write = words[:1] == ["write"]
    verb, path, *given = words[only_write:] if len(words) > 1 + only_write else ("", "")
    if verb not in ("add", "remove"):
        sys.exit(__doc__)
    path = pathlib.Path(path).resolve()
    facts = facts_of(path)
    inventory = Inventory(path.read_text(), os.path.relpath(path, ROOT))
    if verb == "remove":
        host, pool = (given + ["", ""])[:2]
        if only_write:
            print(json.dumps({"changed": write(path, inventory.without_host(host, pool))}))
            return 0
        pool = check_remove(inventory, host, facts, pool)
        stays = inventory.jobs(host) != [pool]
        inventory.without_host(host, pool if stays else "")  # raises where it cannot be done later
        return play(path, "remove_node.yml", more, node=host, node_pool=pool, node_stays=stays)
    pool, host, address = (given + ["", "", ""])[:3]
    address = check_add(inventory, pool, host, address, facts)
    text = inventory.text if host in inventory.lines else inventory.with_host(pool, host, address)
    if only_write:
        print(json.dumps({"changed": write(path, text)}))
        return 0
    # As the inventory will be. Its own name, for the time that it takes to know that it may.
    planned = path.with_suffix(".yaml")
    planned.write_text(text)
    try:
        return play(planned, "add_node.yml", more, node=host, node_pool=pool, node_address=address, node_inventory=path)
    finally:
        planned.unlink()


if __name__ == "__main__":
    sys.exit(told(lambda: run(sys.argv[1:])))
