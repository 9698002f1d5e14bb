"""Units, timers, ports and access of a host, from what systemctl, ss and nft print, for the module host_snapshot."""

import re

from ansible.module_utils.snapshot_files import any_of

PASSING = [
    "user@*",
    "user-runtime-dir@*",
    "sshd@*",
    "ssh@*",
    "run-*",
    "session-*",
    "site-job@[0-9]*",
]  # units that come and go with who logs in


def blocks(shown: str) -> list[dict[str, str]]:
    """Dicts of what `systemctl show` prints, one for each unit. A property that it prints several times is joined into one."""
    units = []
    for block in filter(str.strip, shown.split("\n\n")):
        values: dict[str, list[str]] = {}
        for name, value in (line.split("=", 1) for line in block.splitlines() if "=" in line):
            values.setdefault(name, []).append(value)
        units.append({name: ", ".join(parts) for name, parts in values.items()})
    return units


def units(listing: str, shown: str) -> dict[str, str]:
    """{unit: whether it is enabled, and runs}. What runs only when something asks for it is told when it failed."""
    states: dict[str, str] = {}
    for line in listing.splitlines():
        name, state = line.split()[:2]
        if (
            state != "transient"
            and not any_of(name, PASSING)
            and name.rpartition(".")[2] in ("service", "socket", "timer", "path")
        ):
            states[name] = state
    for unit in blocks(shown):
        name = unit.get("Id", "")
        if (
            any_of(name, PASSING)
            or unit.get("LoadState") in ("not-found", None)
            or unit.get("UnitFileState") == "transient"
        ):
            continue
        # Started by a timer, by a socket, or by a question over D-Bus.
        on_demand = (
            unit.get("Type") == "oneshot"
            or unit.get("TriggeredBy")
            or unit.get("BusName")
            and unit.get("UnitFileState") == "static"
        )
        active_state = unit.get("ActiveState")
        note = (
            ", failed"
            if active_state == "failed"
            else ", running"
            if active_state in ("active", "reloading") and not on_demand
            else ""
        )
        if note or name in states:
            states[name] = (states.get(name) or unit.get("UnitFileState") or "no file") + note
    return states


def timers(shown: str) -> dict[str, str]:
    """{timer: when}."""
    result = {}
    for unit in blocks(shown):
        settings = [
            re.sub(r" ; next_elapse=[^}]*", " ", value).strip("{ }")
            for name, value in sorted(unit.items())
            if name != "Id" and value not in ("", "0")
        ]
        result[unit["Id"]] = "; ".join(settings)
    return result


def ports(listing: str) -> dict[str, str]:
    """{"tcp address:port": programs that listen there}. Ports that are lent to who asks are none."""
    listeners: dict[str, set[str]] = {}
    for line in listing.splitlines():
        fields = line.split()
        protocol, local = fields[0], re.sub(r"%[^:\]]+", "", fields[4])
        address, _colon, port = local.rpartition(":")
        # Docker's own resolver, which is in every container.
        if address.startswith("127.0.0.11") or protocol == "udp" and int(port) >= 32768:
            continue
        # A child that serves somebody just now may call itself by a path and what it does: munin-node's do.
        names = set(re.findall(r'\("([^"]+)"', line))
        programs = {name for name in names if not name.startswith("/")} or names
        listeners.setdefault(f"{protocol} {local}", set()).update(programs)
    return {name: " ".join(sorted(programs)) or "the kernel" for name, programs in listeners.items()}


def access(shown: str, ruleset: str) -> dict[str, str]:
    """{what: who may reach it}: the addresses that units take packets from, and the rules of the packet filter."""
    rules_of = {}
    for unit in blocks(shown):
        for name in ("IPAddressAllow", "IPAddressDeny"):
            if unit.get(name):
                rules_of[f"{unit['Id']} {name}"] = " ".join(sorted(set(unit[name].split())))
    rules = [
        re.sub(r"counter packets \d+ bytes \d+ ?", "", line)
        for line in ruleset.splitlines()
        if "127.0.0.11" not in line
    ]
    if any(line.strip() for line in rules):
        rules_of["packet filter"] = "\n".join(rules)
    return rules_of
