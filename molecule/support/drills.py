"""Drills: a fault under load, and limits for what visitors may notice of it."""

import contextlib
import dataclasses
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from faults import (
    Fault,
    Repair,
    databases_down,
    databases_stopped,
    each,
    engine,
    etcd_leader,
    kill_postgres,
    last,
    no_repair,
    on_host,
    power_cut,
    service,
    switchover,
    with_stalled_standby,
)
from target import Target
from visitors import CHANGES, Load

SETTLED_S = 2.0  # seconds of undisturbed service after the last repair: a second fault in its wake would show

Row = dict[str, Any]  # {column: seconds, a count, or a host}; failures: list of sentences


@dataclasses.dataclass(frozen=True)
class Drill:
    """A fault, its repair, and what may come of it at most."""

    fault: Fault
    repair: Repair
    limits: Mapping[str, float]  # {column: maximum}, in seconds or as a count
    hold: float = 1.0  # seconds of service without the broken part
    held: tuple[str, ...] = ()  # kinds of requests that the broken part may hold until it is repaired


def longest(moments: Sequence[float], start: float, end: float) -> float:
    """The longest time in [start, end] between two neighbours of a sorted list of moments."""
    inside = [start, *(m for m in moments if start < m < end), end]
    return max(b - a for a, b in zip(inside, inside[1:]))


@contextlib.contextmanager
def watch_virtual_ip(target: Target) -> Iterator[list[float]]:
    """A list of the moments at which two balancers had the virtual IP."""
    duplicates: list[float] = []
    stopped = threading.Event()

    def watch() -> None:
        while not stopped.wait(0.3):
            if len(target.holders()) > 1:
                duplicates.append(time.time())

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield duplicates
    finally:
        stopped.set()
        watcher.join()


def measure(target: Target, drill: Drill, load: Load) -> Row:
    """Drill under a load; the row of the table."""
    target.await_healthy()
    load.mark()
    keys = target.fill_cache() if "cache lost" in drill.limits else None
    with watch_virtual_ip(target) as duplicates:
        started = time.time()
        unavailable = drill.fault(target)
        try:
            load.await_service(started + 0.5, without=unavailable, held=drill.held)
            served = time.time()
            roles = target.holder(), target.primary()
            time.sleep(drill.hold)  # service without the broken part
            share = target.cached_share(keys, unavailable) if keys else 1.0
        finally:
            repaired = time.time()
            drill.repair(target, unavailable)
        load.await_service(repaired)
        recovered = time.time()
        target.await_healthy()
        time.sleep(SETTLED_S)  # to see what comes in the wake of the repair
        load.await_answers(recovered)
        ended = time.time()
    requests, commits, reads = load.requests(started), load.commits(started), load.commits(started, "read")
    apps = [app for app in target.groups["app"] if app not in unavailable]
    failures = [r for r in requests if r.failure]
    good = [r for r in requests if not r.failure]
    servers = [c.server for c in commits]
    blocks = [server for before, server in zip([None, *servers], servers) if server != before]
    lost, duplicated = load.lost_and_duplicated(commits)
    return {
        "requests": len(requests),
        "failed": len(failures),
        "failed again": sum(r.started > recovered for r in failures),
        "pages failed": sum(r.kind not in CHANGES for r in failures),
        "gap": longest([r.ended for r in good], started, ended),
        "slowest page": max((r.ended - r.started for r in good if r.kind not in CHANGES), default=0),
        "slowest change": max((r.ended - r.started for r in good if r.kind in CHANGES), default=0),
        "commits": len(commits),
        "lost": len(lost),
        "twice": len(duplicated),
        "writes paused": max(longest([c.ended for c in commits if c.app == app], started, ended) for app in apps),
        "reads paused": max(longest([c.ended for c in reads if c.app == app], started, ended) for app in apps),
        "recovered": served - started,
        "signed out": sum("signed out" in r.failure or "/accounts/login" in r.failure for r in failures),
        "cache lost": 1 - share,
        "two primaries": len(blocks) - len(set(blocks)),
        "two holders": len(duplicates),
        "moved again": int((target.holder(), target.primary()) != roles),
        "primary": target.primary(),
        "holder": target.holder(),
        "failures": duplicated
        + sorted({f"{r.kind}: {r.failure}"[:140] for r in failures})
        + [f"lost: {sentence}" for sentence in lost[:20]],
    }


ALWAYS = {"lost": 0, "twice": 0, "signed out": 0, "two primaries": 0, "two holders": 0, "moved again": 0}


def excess(row: Row, drill: Drill) -> list[str]:
    """Sentences about what exceeds its limit."""
    return [
        f"{column}: {row[column]:.2f}, at most {most}"
        for column, most in {**ALWAYS, **drill.limits}.items()
        if row[column] > most
    ]


KILL, START = Target.kill, each(Target.start)
FREEZE, THAW = Target.freeze, each(Target.thaw)
IN_FLIGHT = 6  # requests that one host may be working on: one for each visitor
NO_FAILURE: dict[str, float] = {"failed": 0}
BALANCER = {"gap": 1.5}
STANDBY = {"failed": IN_FLIGHT, "pages failed": 0, "writes paused": 10}
PRIMARY = {"writes paused": 30, "recovered": 35, "pages failed": 0}

DRILLS = {
    "balancer_stopped": Drill(on_host(Target.holder, engine("stop")), each(engine("start")), BALANCER),
    "balancer_killed": Drill(on_host(Target.holder, KILL), START, BALANCER),
    "balancer_frozen": Drill(on_host(Target.holder, FREEZE), THAW, BALANCER),
    "app_stopped": Drill(
        on_host(last("app"), service("stop", "apache2")), each(service("start", "apache2")), NO_FAILURE
    ),
    "apache_killed": Drill(
        on_host(last("app"), service("kill --signal=KILL", "apache2")), no_repair, {"failed": IN_FLIGHT}
    ),
    "app_killed": Drill(on_host(last("app"), KILL), START, {"failed": IN_FLIGHT}),
    "app_frozen": Drill(on_host(last("app"), FREEZE), THAW, {"failed": 0, "slowest page": 4}, hold=12, held=CHANGES),
    "media_stopped": Drill(
        on_host(last("media"), service("stop", "lighttpd")), each(service("start", "lighttpd")), NO_FAILURE
    ),
    "media_killed": Drill(on_host(last("media"), KILL), START, NO_FAILURE),
    # Once 5 s, not for each question.
    "media_frozen": Drill(on_host(last("media"), FREEZE), THAW, NO_FAILURE | {"slowest change": 8}),
    "cache_stopped": Drill(
        on_host(last("cache"), service("stop", "memcached")),
        each(service("start", "memcached")),
        NO_FAILURE | {"cache lost": 0.7},
    ),
    "cache_killed": Drill(on_host(last("cache"), KILL), START, NO_FAILURE | {"cache lost": 0.7}),
    "cache_frozen": Drill(on_host(last("cache"), FREEZE), THAW, NO_FAILURE | {"cache lost": 0.7}),
    "switchover": Drill(switchover, no_repair, {"failed": 0, "writes paused": 5}),
    "postgres_killed": Drill(on_host(Target.primary, kill_postgres), no_repair, PRIMARY),
    "primary_killed": Drill(on_host(Target.primary, with_stalled_standby(KILL)), START, PRIMARY),
    "primary_frozen": Drill(on_host(Target.primary, with_stalled_standby(FREEZE)), THAW, PRIMARY),
    "primary_cut_off": Drill(
        on_host(Target.primary, with_stalled_standby(Target.disconnect)), each(Target.connect), PRIMARY
    ),
    "primary_mute": Drill(on_host(Target.primary, with_stalled_standby(Target.mute)), each(Target.unmute), PRIMARY),
    # A change that was just reading from the standby hangs with it, and is ended; pages are asked for again.
    "standby_killed": Drill(on_host(Target.standby, KILL), START, STANDBY),
    "standby_frozen": Drill(on_host(Target.standby, FREEZE), THAW, STANDBY),
    "quorum_member_stopped": Drill(
        on_host(last("quorum"), service("stop", "etcd")), each(service("start", "etcd")), NO_FAILURE
    ),
    # On its return the leader may end every lock by mistake (etcd issue 15247): the primary has to take its own again.
    "quorum_leader_frozen": Drill(on_host(etcd_leader, FREEZE), THAW, NO_FAILURE, hold=25),
    "monitor_killed": Drill(on_host(last("monitor"), KILL), START, NO_FAILURE),
    "pgpool_killed": Drill(
        on_host(last("app"), service("kill --signal=KILL", "pgpool2")), no_repair, {"failed": IN_FLIGHT, "recovered": 3}
    ),
    "databases_down": Drill(databases_down, no_repair, {"recovered": 60, "failed again": 0}),
    "databases_stopped": Drill(databases_stopped, no_repair, {"recovered": 60, "failed again": 0}),
    "power_cut": Drill(power_cut, no_repair, {"recovered": 90, "failed again": 0}),
}

COLUMNS = [
    "requests",
    "failed",
    "gap",
    "slowest page",
    "slowest change",
    "commits",
    "lost",
    "writes paused",
    "reads paused",
    "recovered",
    "primary",
    "holder",
]


def line(cells: Sequence[str]) -> str:
    """A row of the table."""
    return "  ".join(f"{cell:<{24 if n == 0 else max(6, len(COLUMNS[n - 1]))}}" for n, cell in enumerate(cells))


def cells(name: str, row: Row) -> list[str]:
    """What the table shows of the row of a drill."""
    return [name, *(f"{row[c]:.1f} s" if isinstance(row[c], float) else str(row[c]) for c in COLUMNS)]
