"""Which tier limits the site, and what visitors got."""

import csv
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypedDict

from controller.load.probe import Sample, rate
from controller.tiers import POOLS, TIERS

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
TITLES = {pool: TIERS[pool]["title"] for pool in POOLS}
KINDS = {"page": "app", "session": "app", "change": "app", "static": "media", "media": "media"}


def figures(samples: Sequence[Sample], contained: bool) -> Figures | None:
    """What a host's samples come to: parts of 1 for cpu (of the machine's cores), memory, io; cores used; who waits where; None where nobody tells."""
    if len(samples) < 2:
        return None
    cores = samples[-1].get("cores", 1.0)
    result: Figures = {"cores": cores, "queues": {}}
    if contained and "usage" in samples[-1]:
        mean, most = rate(samples, "usage", 1e-6)
        result |= {"used": mean, "cpu": (mean or 0.0) / cores, "cpu_most": (most or 0.0) / cores}
        result["memory"] = max(
            (
                (sample["used"] - sample.get("inactive", 0)) / 1024 / sample["MemTotal"]
                for sample in samples
                if "used" in sample and "MemTotal" in sample
            ),
            default=None,
        )
    else:
        ticks = [
            (
                after["busy"] - before["busy"],
                after["busy"] + after["idle"] + after["iowait"] - before["busy"] - before["idle"] - before["iowait"],
            )
            for before, after in zip(samples, samples[1:])
        ]
        shares = [busy / total for busy, total in ticks if total > 0] or [0.0]
        result |= {
            "cpu": statistics.mean(shares),
            "cpu_most": max(shares),
            "used": statistics.mean(shares) * cores,
            "memory": max(1 - sample["MemAvailable"] / sample["MemTotal"] for sample in samples),
        }
    own = "own" if contained else "host"
    result["io"] = rate(samples, f"{own}-io", 1e-6)[0]
    result["cpu_wait"] = rate(samples, f"{own}-cpu", 1e-6)[0]
    for door in sorted({name for sample in samples for name in sample if name.startswith("queue-")}):
        waiting = [sample.get(door, 0.0) for sample in samples]
        result["queues"][door.removeprefix("queue-")] = (statistics.mean(waiting), max(waiting))
    for name in ("transactions", "rolled-back", "lookups", "found"):
        counts = [sample[name] for sample in samples if name in sample]
        if len(counts) > 1:
            result[name], result[f"{name}-rate"] = counts[-1] - counts[0], rate(samples, name)[0]
    for name in ("apache-busy", "apache-idle", "pool-busy", "pool-all"):
        values = [sample[name] for sample in samples if name in sample]
        if values:
            result[name] = statistics.mean(values)
    return result


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
    known = {name: figures for name, figures in hosts.items() if figures}
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
    database_full = bool(database) and max(figures["cpu"] for figures in database.values()) >= CPU_FULL
    at_pool = max((waiting(figures, "pgpool") for figures in of("app").values()), default=0.0)
    if at_pool >= WAITING and not database_full and not saturated:
        name = max(of("app"), key=lambda host: waiting(known[host], "pgpool"))
        return "app", (
            f"{waiting(known[name], 'pgpool'):.1f} requests waited for a session of pgpool on {name}, and no database was out of processor: "
            f"the pool is too small. group_vars/all/pgpool.yml: pool_children, and db_max_connections"
        )
    by_tier = {tier: hardest(of(tier), "used" if contained else "cpu") for tier in TITLES if of(tier)}
    if machine and saturated:
        tier = max(by_tier, key=lambda tier_name: known[by_tier[tier_name]]["used"])
        return tier, (
            f"This machine's {machine['cores']:.0f} cores were {machine['cpu']:.0%} busy, and all hosts share them. {by_tier[tier]} used most, "
            f"{known[by_tier[tier]]['used']:.2f} cores: with machines of their own the {TITLES[tier]} would be out of processor first."
        )
    tier = max(by_tier, key=lambda tier_name: known[by_tier[tier_name]]["cpu"])
    figures = known[by_tier[tier]]
    if figures["cpu"] >= CPU_FULL:
        return (
            tier,
            f"{by_tier[tier]} was out of processor: {figures['cpu']:.0%} of its {figures['cores']:.0f} cores busy in the mean.",
        )
    for what, full, description in (
        ("io", IO_FULL, "waited for its disk {:.0%} of the time"),
        ("memory", MEMORY_FULL, "had {:.0%} of its memory in use"),
    ):
        tier = max(
            by_tier,
            key=lambda tier_name: max((figures.get(what) or 0.0 for figures in of(tier_name).values()), default=0.0),
        )
        name = hardest(of(tier), what)
        if (known[name].get(what) or 0.0) >= full:
            return tier, f"{name} {description.format(known[name][what])}."
    threads = max(of("app"), key=lambda host: waiting(known[host], "wsgi"), default="")
    if threads and waiting(known[threads], "wsgi") >= WAITING:
        return "app", (
            f"{waiting(known[threads], 'wsgi'):.1f} requests waited for a thread of the site on {threads}, whose processor was not out of time: "
            "group_vars/app.yml: app_threads, app_processes"
        )
    return "", "No tier was out of anything: load with more visitors (USERS)."


def requests(lines: Iterable[str]) -> tuple[list[Row], dict[str, Row]]:
    """(rows of the kinds, {tier: row}) of Locust's statistics; a row: {kind, requests, failures, rate, p50 … worst} in seconds.

    The kinds come first and all of them together last; that is the balancers' row, too: they see them all.
    """
    kinds: list[Row] = []
    tiers: dict[str, Row] = {}
    for line in csv.DictReader(lines):
        if not line["Name"] or not int(line["Request Count"]):
            continue
        p50, p95, p99, worst = (float(line[share]) / 1000 for share in ("50%", "95%", "99%", "100%"))
        row: Row = {
            "kind": "all" if line["Name"] == "Aggregated" else line["Name"],
            "requests": int(line["Request Count"]),
            "failures": int(line["Failure Count"]),
            "rate": float(line["Requests/s"]),
            "p50": p50,
            "p95": p95,
            "p99": p99,
            "worst": worst,
        }
        if line["Type"] == "tier":
            tiers[line["Name"]] = row
        else:
            kinds.append(row)
    every = [row for row in kinds if row["kind"] == "all"]
    return kinds, tiers | ({"lb": every[-1]} if every else {})


def history(lines: Iterable[str]) -> list[Point]:
    """[(seconds since it began, requests a second, 95th percentile in seconds)], while visitors were there."""
    points = []
    for row in csv.DictReader(lines):
        if row["Name"] == "Aggregated" and float(row["User Count"]) > 0:
            slow = float(row["95%"]) / 1000 if row["95%"] not in ("N/A", "") else 0.0
            points.append((float(row["Timestamp"]), float(row["Requests/s"]), slow))
    return [(at - points[0][0], per_second, slow) for at, per_second, slow in points]
