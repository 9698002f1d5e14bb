"""Which tier was out of what, and what visitors got."""

import csv
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import TypedDict

from controller.load.probe import Sample, rate

Figures = dict[str, Any]  # of a host: see figures()
Point = tuple[float, float, float]  # seconds since it began, requests a second, 95th percentile in seconds


class Row(TypedDict):
    """What visitors got of a kind: counts, requests a second, and seconds within which a share of them was answered."""

    kind: str
    requests: int
    failures: int
    rate: float
    p50: float
    p95: float
    p99: float
    worst: float


# Of a host's processor, memory or time: what is more has nothing left.
CPU_FULL, IO_FULL, MEMORY_FULL = 0.85, 0.25, 0.95
WAITING = 0.5  # of those at a door, in the mean
TIERS = {"lb": "balancers", "app": "app hosts", "media": "media hosts", "cache": "cache", "db": "databases"}
KINDS = {"page": "app", "session": "app", "change": "app", "static": "media", "media": "media"}


def figures(seen: Sequence[Sample], contained: bool) -> Figures | None:
    """What a host's samples come to: parts of 1 for cpu (of the machine's cores), memory, io; cores used; who waits where; None where nobody tells."""
    if len(seen) < 2:
        return None
    cores = seen[-1].get("cores", 1.0)
    told = {"cores": cores, "queues": {}}
    if contained and "usage" in seen[-1]:
        mean, most = rate(seen, "usage", 1e-6)
        told |= {"used": mean, "cpu": mean / cores, "cpu_most": most / cores}
        told["memory"] = max(
            (
                (one["used"] - one.get("inactive", 0)) / 1024 / one["MemTotal"]
                for one in seen
                if "used" in one and "MemTotal" in one
            ),
            default=None,
        )
    else:
        ticks = [
            (
                after["busy"] - before["busy"],
                after["busy"] + after["idle"] + after["iowait"] - before["busy"] - before["idle"] - before["iowait"],
            )
            for before, after in zip(seen, seen[1:])
        ]
        shares = [busy / total for busy, total in ticks if total > 0] or [0.0]
        told |= {
            "cpu": statistics.mean(shares),
            "cpu_most": max(shares),
            "used": statistics.mean(shares) * cores,
            "memory": max(1 - one["MemAvailable"] / one["MemTotal"] for one in seen),
        }
    own = "own" if contained else "host"
    told["io"] = rate(seen, f"{own}-io", 1e-6)[0]
    told["cpu_wait"] = rate(seen, f"{own}-cpu", 1e-6)[0]
    for door in sorted({name for one in seen for name in one if name.startswith("queue-")}):
        waiting = [one.get(door, 0.0) for one in seen]
        told["queues"][door.removeprefix("queue-")] = (statistics.mean(waiting), max(waiting))
    for name in ("transactions", "rolled-back", "lookups", "found"):
        counts = [one[name] for one in seen if name in one]
        if len(counts) > 1:
            told[name], told[f"{name}-rate"] = counts[-1] - counts[0], rate(seen, name)[0]
    for name in ("apache-busy", "apache-idle", "pool-busy", "pool-all"):
        values = [one[name] for one in seen if name in one]
        if values:
            told[name] = statistics.mean(values)
    return told


def waiting(host: Figures | None, door: str) -> float:
    """How many waited at a door of a host, in the mean."""
    return host["queues"].get(door, (0.0, 0.0))[0] if host else 0.0


def bottleneck(
    hosts: Mapping[str, Figures | None],
    tiers: Mapping[str, Sequence[str]],
    machine: Figures | None,
    visitors: float,
    contained: bool,
) -> tuple[str, str]:
    """(tier, or "visitors", "machine", "" for none; why, as a sentence).

    hosts: {name: figures or None}; machine: figures of this machine; visitors: cores that the visitors themselves used.
    """
    known = {name: told for name, told in hosts.items() if told}
    if not known:
        return "", "No host told how it was."
    if visitors >= 0.9:
        return "visitors", (
            f"The visitors themselves used {visitors:.2f} of the one core they can use: what the tier could do is more than this. "
            "Ask from several machines, or with longer pauses."
        )

    def of(tier: str) -> dict[str, Figures]:
        return {name: known[name] for name in tiers.get(tier, []) if name in known}

    def hardest(among: Mapping[str, Figures], what: str) -> str:
        return max(among, key=lambda name: among[name].get(what) or 0.0)

    saturated = bool(contained and machine and machine["cpu"] >= CPU_FULL)
    database = of("db")
    database_full = bool(database) and max(told["cpu"] for told in database.values()) >= CPU_FULL
    at_pool = max((waiting(told, "pgpool") for told in of("app").values()), default=0.0)
    if at_pool >= WAITING and not database_full and not saturated:
        name = max(of("app"), key=lambda one: waiting(known[one], "pgpool"))
        return "app", (
            f"{waiting(known[name], 'pgpool'):.1f} requests waited for a session of pgpool on {name}, and no database was out of processor: "
            f"the pool is too small. group_vars/all/pgpool.yml: pool_children, and db_max_connections"
        )
    by_tier = {tier: hardest(of(tier), "used" if contained else "cpu") for tier in TIERS if of(tier)}
    if contained and saturated:
        tier = max(by_tier, key=lambda one: known[by_tier[one]]["used"])
        return tier, (
            f"This machine's {machine['cores']:.0f} cores were {machine['cpu']:.0%} busy, and all hosts share them. {by_tier[tier]} used most, "
            f"{known[by_tier[tier]]['used']:.2f} cores: with machines of their own the {TIERS[tier]} would be out of processor first."
        )
    tier = max(by_tier, key=lambda one: known[by_tier[one]]["cpu"])
    told = known[by_tier[tier]]
    if told["cpu"] >= CPU_FULL:
        return (
            tier,
            f"{by_tier[tier]} was out of processor: {told['cpu']:.0%} of its {told['cores']:.0f} cores busy in the mean.",
        )
    for what, full, words in (
        ("io", IO_FULL, "waited for its disk {:.0%} of the time"),
        ("memory", MEMORY_FULL, "had {:.0%} of its memory in use"),
    ):
        tier = max(by_tier, key=lambda one: max((told.get(what) or 0.0 for told in of(one).values()), default=0.0))
        name = hardest(of(tier), what)
        if (known[name].get(what) or 0.0) >= full:
            return tier, f"{name} {words.format(known[name][what])}."
    threads = max(of("app"), key=lambda one: waiting(known[one], "wsgi"), default="")
    if threads and waiting(known[threads], "wsgi") >= WAITING:
        return "app", (
            f"{waiting(known[threads], 'wsgi'):.1f} requests waited for a thread of the site on {threads}, whose processor was not out of time: "
            "group_vars/app.yml: app_threads, app_processes"
        )
    return "", "No tier was out of anything: let more visitors loose (USERS)."


def requests(lines: Iterable[str]) -> tuple[list[Row], dict[str, Row]]:
    """(rows of the kinds, {tier: row}) of Locust's statistics; a row: {kind, requests, failures, rate, p50 … worst} in seconds.

    The kinds come first and all of them together last; that is the balancers' row, too: they see them all.
    """
    kinds, tiers = [], {}
    for said in csv.DictReader(lines):
        if not said["Name"] or not int(said["Request Count"]):
            continue
        row = {
            "kind": "all" if said["Name"] == "Aggregated" else said["Name"],
            "requests": int(said["Request Count"]),
            "failures": int(said["Failure Count"]),
            "rate": float(said["Requests/s"]),
        }
        row |= {
            name: float(said[share]) / 1000
            for name, share in (("p50", "50%"), ("p95", "95%"), ("p99", "99%"), ("worst", "100%"))
        }
        if said["Type"] == "tier":
            tiers[said["Name"]] = row
        else:
            kinds.append(row)
    every = [row for row in kinds if row["kind"] == "all"]
    return kinds, tiers | ({"lb": every[-1]} if every else {})


def history(lines: Iterable[str]) -> list[Point]:
    """[(seconds since it began, requests a second, 95th percentile in seconds)], while visitors were there."""
    found = []
    for row in csv.DictReader(lines):
        if row["Name"] == "Aggregated" and float(row["User Count"]) > 0:
            slow = float(row["95%"]) / 1000 if row["95%"] not in ("N/A", "") else 0.0
            found.append((float(row["Timestamp"]), float(row["Requests/s"]), slow))
    return [(at - found[0][0], per_second, slow) for at, per_second, slow in found]
