"""Repeat to the pgpool of this host what Patroni says about the databases.

Patroni alone decides which database is the primary:

* a standby that every commit waits for gets reads; any other standby gets none, because it
  may show a visitor less than he has just written. Sessions that hang on a frozen standby are ended;
* when pgpool's primary is not Patroni's, or pgpool does not answer after Patroni's has changed,
  pgpool is killed and systemd starts it again with the right status. Sessions to the old primary
  are lost anyway, and this works where pgpool hangs on a frozen host. A pgpool that does not answer
  although nothing has changed may only be slow: it is killed after SILENT_WITHIN seconds;
* while there is no primary and the old one does not answer, the databases that do answer
  serve reads. Writes fail at once instead of hanging;
* when all databases were away and are back, pgpool is restarted: a child of it that met none
  remembers them as down, and fails whoever it serves, for as long as it lives.

It never promotes anything.

    pgpool-follow status    write the status file that pgpool reads at its start
    pgpool-follow run       follow Patroni for ever
    pgpool-follow await DB  in a planned switchover: bring pgpool to the new primary at once; end when it is there
    pgpool-follow restart   restart pgpool; end when it has Patroni's primary
    pgpool-follow spare DB  before a standby stops: detach it as soon as no commit waits for it; end when that is done

Everything is read from /etc/pgpool2/follow.json: databases ([{name, address}], in the order
of pgpool's node numbers), db_port, patroni_port and pcp_port (TCP).
"""

import json
import pathlib
import sys
import time
import typing

from pgpool_follow.hosts import Databases, Pgpool
from pgpool_follow.state import (
    Action,
    Attach,
    Detach,
    EndHung,
    Observation,
    Restart,
    State,
    led_by,
    performed,
    pgpool_due,
    step,
    to_probe,
)

CONFIG = pathlib.Path("/etc/pgpool2/follow.json")
RUN = pathlib.Path("/run/pgpool")

INTERVAL = 1.0  # seconds between two looks at Patroni
LOST_INTERVAL = 0.3  # … and seconds between those
OTHERS_WITHIN = 60.0  # seconds after the start of this program that pgpool may still have the databases of before
HURRY = 0.1  # seconds between two looks while requests wait at the door …
HURRY_AGAIN = 2.0  # … and before pgpool is restarted again


def observe(state: State, databases: Databases, pgpool: Pgpool) -> Observation:
    """Ask what the next step needs, and nothing else: each question may take its whole time limit."""
    cluster = databases.look()
    nodes = to_probe(state, cluster, len(databases.names))
    reachable = any(map(databases.answers, nodes)) if nodes else None
    if not pgpool_due(state, cluster, time.monotonic()):
        return Observation(time.monotonic(), cluster, reachable)
    view = pgpool.view()
    now = time.monotonic()
    same_nodes = pgpool.addresses == [address for address, _ in databases.addresses]
    return Observation(now, cluster, None, True, view, same_nodes, view is None and pgpool.starting())


def act(action: Action, databases: Databases, pgpool: Pgpool) -> bool:
    """Do what was decided. Returns whether a node has sessions that are to be looked at again."""
    match action:
        case Restart(reason, primary):
            print(reason.value.format(primary=databases.names[primary], view=action.view), flush=True)
            pgpool.restart()
        case Attach(node) | Detach(node):
            verb = "attach_node" if isinstance(action, Attach) else "detach_node"
            print(f"{verb} {databases.names[node]}", flush=True)
            pgpool.pcp(verb, "-n", str(node))
        case EndHung(node):
            return not databases.answers(node) and pgpool.end_hung(node)
    return False


def follow(databases: Databases, pgpool: Pgpool) -> typing.NoReturn:
    """Compare Patroni's view with pgpool's for ever, and act on the difference."""
    state = State(others_until=time.monotonic() + OTHERS_WITHIN)
    while True:
        time.sleep(LOST_INTERVAL if state.lost else INTERVAL)  # between two looks: Patroni does not call
        state, actions = step(state, observe(state, databases, pgpool))
        for action in actions:
            busy = act(action, databases, pgpool)
            state = performed(state, action, time.monotonic(), busy)


def write_status(databases: Databases) -> None:
    """Write what pgpool reads at its start: a line for each node, up or down."""
    usable = databases.look().usable
    nodes = range(len(databases.names))
    if (
        not usable
    ):  # Patroni is silent, or slow: databases that answer serve reads, and nobody waits for one that is off
        usable = frozenset(node for node in nodes if databases.answers(node))
    lines = ["up" if node in usable or not usable else "down" for node in nodes]
    (RUN / "pgpool_status").write_text("\n".join(lines) + "\n")


def await_primary(databases: Databases, pgpool: Pgpool, name: str) -> None:
    """Restart pgpool as soon as a database is the primary; end when pgpool has it for its primary."""
    node = databases.names.index(name)
    restart_at = 0.0  # not before this time (monotonic seconds)
    while True:
        time.sleep(HURRY)  # between two looks; RuntimeMaxSec of its unit is the deadline
        if databases.look().primary != node:
            continue
        view = pgpool.view()
        if led_by(view, node):
            return
        if time.monotonic() >= restart_at and not (view is None and pgpool.starting()):
            print(f"the primary is now {name}: restarting pgpool", flush=True)
            pgpool.restart()
            restart_at = time.monotonic() + HURRY_AGAIN


def detach_standby(databases: Databases, pgpool: Pgpool, name: str) -> None:
    """Detach a standby as soon as Patroni counts on it no more; end when pgpool has."""
    node = databases.names.index(name)
    while True:
        time.sleep(HURRY)  # between two looks; RuntimeMaxSec of its unit is the deadline
        view = pgpool.view()
        if view is not None and len(view) > node and not view[node][0]:
            return
        cluster = databases.look()
        if cluster.primary is not None and node not in cluster.usable:
            act(Detach(node), databases, pgpool)


def restart(databases: Databases, pgpool: Pgpool) -> None:
    """Restart pgpool; end when it has Patroni's primary for its own."""
    pgpool.restart()
    while True:
        time.sleep(HURRY)  # between two looks; the caller has a deadline
        primary = databases.look().primary
        view = pgpool.view()
        if primary is not None and led_by(view, primary):
            return


def main() -> None:
    """Do what the arguments say."""
    config = json.loads(CONFIG.read_text())
    databases, pgpool = Databases(config), Pgpool(config)
    match sys.argv[1:]:
        case ["status"]:
            write_status(databases)
        case ["run"]:
            follow(databases, pgpool)
        case ["restart"]:
            restart(databases, pgpool)
        case ["await", name] if name in databases.names:
            await_primary(databases, pgpool, name)
        case ["spare", name] if name in databases.names:
            detach_standby(databases, pgpool, name)
        case _:
            sys.exit(__doc__)
