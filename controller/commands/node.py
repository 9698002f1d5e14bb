"""Put a host into a pool of a standing tier, or take one out of it.

    node.py add INVENTORY POOL NODE [ADDRESS] [-- words for ansible-playbook]
    node.py remove INVENTORY NODE [POOL] [-- words for ansible-playbook]
    node.py write add INVENTORY POOL NODE ADDRESS    only the line in the inventory; prints {"changed": …}
    node.py write remove INVENTORY NODE [POOL]

Input that cannot be right is refused here, with exit code 2, before anything is touched. The playbooks add_node.yml
and remove_node.yml do the rest: they ask the tier, and change the inventory themselves once they know that it can be done.
"""

import ipaddress
import json
import os
import pathlib
import re
import subprocess
import sys

from controller.errors import Refused, near, told
from controller.inventory import POOLS, ROOT, Inventory, facts_of, typed, write

NAME = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?")


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
        return play(path, "remove_node.yml", more, node=host, node_group=pool, node_stays=stays)
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
        return play(planned, "add_node.yml", more, node=host, node_group=pool, node_address=address, node_inventory=path)
    finally:
        planned.unlink()


if __name__ == "__main__":
    sys.exit(told(lambda: run(sys.argv[1:])))
