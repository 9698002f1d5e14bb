"""Faults of a standing tier and their repairs, as drills combine them."""

import os
import random
import time
from collections.abc import Callable

from target import Target, run
from tier import ROOT

Choice = Callable[[Target], str]  # names a host
Act = Callable[[Target, str], object]  # does something to a host
Fault = Callable[[Target], list[str]]  # breaks something; the hosts that are away because of it
Repair = Callable[[Target, list[str]], None]  # brings those hosts back

DATABASES_OFF_S = 5.0  # seconds that all databases are off …
DATABASES_STOPPED_S = 10.0  # … or stopped: children of every pgpool look for a database meanwhile and find none


def on_host(choose: Choice, act: Act) -> Fault:
    """A fault of one host: choose(target) names it, act(target, host) breaks it."""

    def fault(target: Target) -> list[str]:
        host = choose(target)
        act(target, host)
        return [host]

    return fault


def each(act: Act) -> Repair:
    """A repair of every host that is away."""

    def repair(target: Target, hosts: list[str]) -> None:
        for host in hosts:
            act(target, host)

    return repair


def service(verb: str, *units: str) -> Act:
    """An act on units of a host, by systemctl."""
    return lambda target, host: target.on(host, f"systemctl {verb} {' '.join(units)}")


def engine(verb: str) -> Act:
    """An act on the engine of a balancer, by systemctl."""
    return lambda target, host: target.on(host, f"systemctl {verb} {target.engine}")


def last(group: str) -> Choice:
    """The last host of a group."""
    return lambda target: target.groups[group][-1]


def etcd_leader(target: Target) -> str:
    """The host whose etcd leads the others."""

    def leader() -> str:
        for host in target.groups["quorum"]:
            url = f"http://{target.address[host]}:{target.facts['etcd_metrics_port']}/metrics"
            if "\netcd_server_is_leader 1\n" in (target.try_on(host, f"curl -s -m 1 {url}") or ""):
                return host
        return ""

    return target.wait(leader, "leader of etcd")


def with_stalled_standby(act: Act) -> Act:
    """An act on the primary after its standby has received nothing for a while."""

    def stall_and_act(target: Target, host: str) -> None:
        for standby in target.groups["db"]:
            if standby != host:
                target.stall(standby)
        act(target, host)
        for standby in target.groups["db"]:
            if standby != host:
                target.try_on(standby, "pkill -KILL -f '[p]ostgres.*walreceiver'")

    return stall_and_act


def kill_postgres(target: Target, host: str) -> None:
    """Kill PostgreSQL; Patroni on its host stays up."""
    target.on(host, "pkill -KILL -o -x postgres")


def power_cut(target: Target) -> list[str]:
    """Every host off at once, and on again one after the other in a seeded random order."""
    hosts = list(target.groups["all"])
    target.kill(*hosts)
    seed = int(os.environ.get("SEED") or time.time())
    print(f"  SEED={seed}", flush=True)
    random.Random(seed).shuffle(hosts)
    target.start(*hosts)
    return []


def databases_down(target: Target) -> list[str]:
    """Every database off at once, and on again."""
    target.kill(*target.groups["db"])
    time.sleep(DATABASES_OFF_S)  # how long they are off is part of the fault
    target.start(*target.groups["db"])
    return []


def databases_stopped(target: Target) -> list[str]:
    """Every database stopped in order, and started."""
    for verb in ("stop", "start"):
        for host in target.groups["db"]:
            target.on(host, f"systemctl {verb} patroni")
        if verb == "stop":
            time.sleep(DATABASES_STOPPED_S)  # how long they are stopped is part of the fault
    return []


def switchover(target: Target) -> list[str]:
    """A planned switchover, by the operator's verb."""
    run("make", "--no-print-directory", "--directory", str(ROOT), "failover", *target.tier.words)
    return []


def no_repair(_target: Target, _hosts: list[str]) -> None:
    """Nothing: the tier repairs the fault."""
