"""Put a host into a pool of a standing environment, or take one out of it.

    node.py add --inventory PATH --pool app --node app3 [--address ADDRESS]
    node.py remove --inventory PATH --node app3 [--pool app]

With --write-only they change the line in the inventory and nothing else, and print {"changed": …}.
Input that cannot be right is refused here, with exit code 2, before anything is touched. The playbooks add_node.yml
and remove_node.yml do the rest: they ask the hosts, and change the inventory themselves once they know that it can be done.
"""

import argparse
import ipaddress
import json
import os
import pathlib
import re
import subprocess
import sys
from collections.abc import Sequence

from controller import arguments
from controller.environment import Environment
from controller.errors import Refused, exit_code, near
from controller.inventory import ROOT, Facts, Inventory, write
from controller.tiers import POOLS

NAME = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?")


def next_address(inventory: Inventory, pool: str, facts: Facts) -> str:
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


def check_address(inventory: Inventory, host: str, address: str, facts: Facts) -> None:
    """Raise Refused for an address that a host cannot have."""
    main = f"group_vars/{facts['env_name']}/main.yml"
    other = inventory.addresses.get(address)
    if other and other != host:
        raise Refused(f"{address} is the address of {other} ({inventory.location(other)}).")
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


def check_add(inventory: Inventory, pool: str, host: str, address: str, facts: Facts) -> str:
    """The address of a host that may come into a pool. Raises Refused for one that may not."""
    usage = f"Type it like this: make add-node {facts['make_args']} POOL=app NODE=app3" + (
        "" if facts["env_containers"] else " ADDRESS=198.51.100.23"
    )
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
            raise Refused(
                f"{host} is in '{', '.join(inventory.pools(host)) or 'another group'}' already ({inventory.location(host)}): choose another name."
            )
        if address and address != inventory.address(host):
            raise Refused(
                f"{host} has the address {inventory.address(host)} already ({inventory.location(host)}): leave ADDRESS= out, "
                f"or take it out first: make remove-node {facts['make_args']} NODE={host}"
            )
        return inventory.address(host)
    if not address and not facts["env_containers"]:
        raise Refused(f"ADDRESS= is missing: nobody but you knows the address of a real host. {usage}")
    address = address or next_address(inventory, pool, facts)
    check_address(inventory, host, address, facts)
    return address


def check_remove(inventory: Inventory, host: str, facts: Facts, pool: str = "") -> str:
    """The pool that a host may leave, as far as the inventory tells; pool where one is named. Raises Refused for one that may not."""
    if not host:
        raise Refused(f"NODE= is missing. Type it like this: make remove-node {facts['make_args']} NODE=app3")
    if host not in inventory.lines:
        raise Refused(f"There is no {host} in {inventory.name}{near(host, inventory.lines)}")
    pools = inventory.pools(host)
    if pool:
        if pool not in pools:
            raise Refused(
                f"{host} is not in '{pool}' ({inventory.name}); it is in: {', '.join(pools) or 'none that hosts leave'}."
            )
        pools = [pool]
    elif host in inventory.groups.get("quorum", []):
        votes = inventory.groups["quorum"]
        others = [other for pool in pools for other in inventory.groups[pool] if other not in votes]
        raise Refused(
            f"{host} is one of the {len(votes)} that agree on which database is primary ({inventory.name}, quorum): it stays."
            + (
                f" One of its jobs can go: make remove-node {facts['make_args']} NODE={host} POOL={pools[-1]}"
                if len(pools) > 1
                else f" Others of its pool can go: make remove-node {facts['make_args']} NODE={others[-1]}"
                if others
                else ""
            )
        )
    if not pools:
        raise Refused(f"{host} is in none of the pools that hosts leave ({', '.join(POOLS)}).")
    if len(pools) > 1:
        raise Refused(
            f"{host} is in several pools ({', '.join(pools)}). Say which one it leaves: make remove-node {facts['make_args']} "
            f"NODE={host} POOL={pools[-1]}"
        )
    if inventory.groups[pools[0]] == [host]:
        raise Refused(
            f"{host} is the last of '{pools[0]}'. Put another in first: make add-node {facts['make_args']} POOL={pools[0]} NODE=…"
        )
    return pools[0]


def play(inventory: pathlib.Path, playbook: str, options: Sequence[str], **variables: object) -> int:
    """Run a playbook; its exit code."""
    extra = [word for name, value in variables.items() for word in ("-e", f"{name}={value}")]
    command = ["ansible-playbook", "-i", str(inventory), str(ROOT / "playbooks" / playbook), *extra, *options]
    return subprocess.run(command, check=False).returncode


def add(args: argparse.Namespace, facts: Facts, inventory: Inventory, options: Sequence[str]) -> int:
    """Add a host; the exit code. Raises Refused."""
    path, pool, host = args.inventory, args.pool, args.node
    address = check_add(inventory, pool, host, args.address, facts)
    text = inventory.text if host in inventory.lines else inventory.with_host(pool, host, address)
    if args.write_only:
        print(json.dumps({"changed": write(path, text)}))
        return 0
    # As the inventory will be, under a name of its own until it is known that the host may be added.
    planned = path.with_suffix(".yaml")
    planned.write_text(text)
    try:
        return play(
            planned, "add_node.yml", options, node=host, node_group=pool, node_address=address, node_inventory=path
        )
    finally:
        planned.unlink()


def remove(args: argparse.Namespace, facts: Facts, inventory: Inventory, options: Sequence[str]) -> int:
    """Remove a host; the exit code. Raises Refused."""
    path, host = args.inventory, args.node
    if args.write_only:
        print(json.dumps({"changed": write(path, inventory.without_host(host, args.pool))}))
        return 0
    pool = check_remove(inventory, host, facts, args.pool)
    stays = inventory.jobs(host) != [pool]
    inventory.without_host(host, pool if stays else "")  # raises where it cannot be done later
    return play(path, "remove_node.yml", options, node=host, node_group=pool, node_stays=stays)


def run(argv: Sequence[str]) -> int:
    """Do what the words of a command line say; the exit code. Raises Refused."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb in ("add", "remove"):
        options = verbs.add_parser(verb)
        arguments.add_inventory(options)
        options.add_argument("--pool", default="")
        options.add_argument("--node", default="")
        options.add_argument("--write-only", action="store_true", help="change the inventory and nothing else")
        options.add_argument("--check", action="store_true", help="a dry run")
        arguments.add_extra_vars(options)
        if verb == "add":
            options.add_argument("--address", default="")
    args = parser.parse_args(argv)
    args.inventory = args.inventory.resolve()
    inventory = Inventory(args.inventory.read_text(), os.path.relpath(args.inventory, ROOT))
    more = [*(["--check", "--diff"] if args.check else []), *arguments.extra_vars(args)]
    return {"add": add, "remove": remove}[args.verb](args, Environment(args.inventory).declared, inventory, more)


if __name__ == "__main__":
    sys.exit(exit_code(lambda: run(sys.argv[1:])))
