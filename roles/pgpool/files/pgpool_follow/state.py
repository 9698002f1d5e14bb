"""What pgpool-follow does about the difference between Patroni's view and pgpool's: pure functions, without a clock."""

import dataclasses
import enum

PGPOOL_EVERY = 10.0  # seconds between two looks at pgpool, while nothing changes
SILENT_WITHIN = 30.0  # seconds without an answer that a pgpool with the right primary may only be slow
SURE_AFTER = 2  # looks in a row that must agree before anything is done …
PATIENT_AFTER = 10  # … and before a standby that still follows is detached, which ends the sessions that have it
LOST_AFTER = 2  # looks in a row without a primary before reads go on without it …
HUNG_AFTER = 3.0  # seconds without progress that make a session a hung one
CALL_AGAIN = 10.0  # seconds before the same node is attached or detached again
RESTART_AGAIN = 5.0  # seconds before pgpool is restarted again; doubles each time …
RESTART_MOST = 60.0  # … up to this many

# pgpool's nodes by number: whether it uses the node, whether it takes it for the primary.
View = list[tuple[bool, bool]]


@dataclasses.dataclass(frozen=True)
class Cluster:
    """The databases as Patroni describes them, by node number.

    primary is None unless exactly one database holds the lock and runs. usable: the nodes that pgpool should use; all
    that run, where there is no primary. following: those that at least follow the primary.
    """

    primary: int | None
    usable: frozenset[int]
    following: frozenset[int] = frozenset()


class Reason(enum.Enum):
    """Why pgpool is restarted, as the journal has it."""

    PRIMARY_LOST = "{primary} is lost: restarting pgpool for reads"
    DATABASES_BACK = "databases are back: restarting pgpool"
    WRONG_PRIMARY = "the primary is {primary}, pgpool says {view}: restarting pgpool"


@dataclasses.dataclass(frozen=True)
class Restart:
    """Restart pgpool, and not again within hold_s seconds of that; None leaves that time as it is."""

    reason: Reason
    primary: int
    hold_s: float | None
    view: View | None = None


@dataclasses.dataclass(frozen=True)
class Attach:
    """Attach a node to pgpool."""

    node: int


@dataclasses.dataclass(frozen=True)
class Detach:
    """Detach a node from pgpool."""

    node: int


@dataclasses.dataclass(frozen=True)
class EndHung:
    """End the sessions that hang on a node, where its PostgreSQL does not answer."""

    node: int


Action = Restart | Attach | Detach | EndHung


@dataclasses.dataclass(frozen=True)
class Observation:
    """What was seen at a time (monotonic seconds).

    reachable: whether any of to_probe() answers; None where that is empty. asked: whether pgpool was asked; then view
    is None where it does not answer, same_nodes is whether its nodes are the databases, starting whether it has just
    started.
    """

    at: float
    cluster: Cluster
    reachable: bool | None = None
    asked: bool = False
    view: View | None = None
    same_nodes: bool = True
    starting: bool = False


@dataclasses.dataclass(frozen=True)
class State:
    """What follow() remembers between two observations. Times are monotonic seconds."""

    others_until: float  # until then pgpool may have the databases of before
    primary: int | None = None  # the last one, until it is given up
    lost: int = 0  # looks in a row without a primary
    all_gone: bool = False  # whether no database has answered since the last primary
    agreed: tuple[int, frozenset[int]] | None = None  # the primary and the usable nodes, as long as pgpool has the same
    asked_at: float = 0.0  # when pgpool was last asked …
    ask_every: float = PGPOOL_EVERY  # … and seconds until it is asked again
    led: int | None = None  # the primary that pgpool last agreed to
    silent_since: float | None = None  # when pgpool stopped to answer
    wrong: int = 0  # looks in a row at a pgpool with a wrong primary
    restart_s: float = RESTART_AGAIN  # seconds before the restart after the next one
    restart_at: float = 0.0  # no restart before this time
    # node -> looks in a row at which it was wrongly up or down
    differs: dict[int, int] = dataclasses.field(default_factory=dict)
    # node -> neither attached nor detached before this time
    call_at: dict[int, float] = dataclasses.field(default_factory=dict)


def led_by(view: View | None, node: int) -> bool:
    """Whether pgpool answers, uses a node and takes it for the primary."""
    return view is not None and len(view) > node and view[node] == (True, True)


def to_probe(state: State, cluster: Cluster, count: int) -> list[int]:
    """The nodes, of so many, of which one answer decides whether reads go on without a primary."""
    if cluster.primary is not None or state.lost + 1 < LOST_AFTER:
        return []
    if not cluster.usable:
        return [] if state.all_gone else list(range(count))
    return [] if state.primary is None or state.primary in cluster.usable else [state.primary]


def pgpool_due(state: State, cluster: Cluster, now: float) -> bool:
    """Whether pgpool is to be asked."""
    if cluster.primary is None or state.all_gone:
        return False
    return (cluster.primary, cluster.usable) != state.agreed or now >= state.asked_at + state.ask_every


def step(state: State, seen: Observation) -> tuple[State, list[Action]]:
    """The next state, and what to do, in this order."""
    primary = seen.cluster.primary
    if primary is None:
        return without_primary(state, seen)
    state = dataclasses.replace(state, primary=primary, lost=0)
    if state.all_gone:
        state = dataclasses.replace(state, all_gone=False, agreed=None)
        return state, [Restart(Reason.DATABASES_BACK, primary, hold_s=RESTART_AGAIN)]
    return with_primary(state, seen, primary) if seen.asked else (state, [])


def without_primary(state: State, seen: Observation) -> tuple[State, list[Action]]:
    """step() where no database is the primary."""
    state = dataclasses.replace(state, lost=state.lost + 1)
    if seen.reachable is not False:
        return state, []
    if not seen.cluster.usable:
        return dataclasses.replace(state, all_gone=True), []
    assert state.primary is not None  # it was probed
    restart = Restart(Reason.PRIMARY_LOST, state.primary, hold_s=None)
    return dataclasses.replace(state, primary=None, agreed=None), [restart]


def with_primary(state: State, seen: Observation, primary: int) -> tuple[State, list[Action]]:
    """step() where a database is the primary, and pgpool was asked."""
    now, view = seen.at, seen.view
    state = dataclasses.replace(state, agreed=None, asked_at=now, ask_every=PGPOOL_EVERY)
    if view is not None and not seen.same_nodes and now < state.others_until:
        return (
            state,
            [],
        )  # a database comes or goes: the play that adds or removes it restarts pgpool, while nobody is hurt
    if view is None:
        silent_since = now if state.silent_since is None else state.silent_since
        state = dataclasses.replace(state, silent_since=silent_since)
        if seen.starting or (state.led in (None, primary) and now - silent_since < SILENT_WITHIN):
            return state, []  # it does not answer in time, which says nothing about its primary
    else:
        state = dataclasses.replace(state, silent_since=None)
    if view is None or not led_by(view, primary):
        state = dataclasses.replace(state, wrong=state.wrong + 1)
        if state.wrong < SURE_AFTER or now < state.restart_at:
            return state, []
        restart = Restart(Reason.WRONG_PRIMARY, primary, hold_s=state.restart_s, view=view)
        doubled = min(2 * state.restart_s, RESTART_MOST)
        return dataclasses.replace(state, wrong=0, silent_since=None, restart_s=doubled), [restart]
    return with_same_primary(state, seen, primary, view)


def with_same_primary(state: State, seen: Observation, primary: int, view: View) -> tuple[State, list[Action]]:
    """step() where pgpool's primary is Patroni's: the standbys may differ."""
    usable = seen.cluster.usable
    state = dataclasses.replace(
        state,
        led=primary,
        wrong=0,
        restart_s=RESTART_AGAIN if seen.at >= state.restart_at else state.restart_s,
        agreed=(primary, usable) if {node for node, (up, _) in enumerate(view) if up} == usable else None,
        differs=state.differs
        | {node: 0 if up == (node in usable) else state.differs.get(node, 0) + 1 for node, (up, _) in enumerate(view)},
    )
    actions: list[Action] = []
    for node, (up, _) in enumerate(view):
        enough = PATIENT_AFTER if up and node in seen.cluster.following else SURE_AFTER
        if state.differs[node] >= enough and seen.at >= state.call_at.get(node, 0.0):
            actions.append(Detach(node) if up else Attach(node))
    return state, actions + [EndHung(node) for node, (up, _) in enumerate(view) if not up and node not in usable]


def performed(state: State, action: Action, now: float, busy: bool) -> State:
    """The state after an action that has ended now. busy: what act() returned."""
    match action:
        case Restart(hold_s=float() as hold_s):
            return dataclasses.replace(state, restart_at=now + hold_s)
        case Attach(node) | Detach(node):
            return dataclasses.replace(state, call_at=state.call_at | {node: now + CALL_AGAIN})
        case EndHung() if busy:
            return dataclasses.replace(state, ask_every=HUNG_AFTER)
    return state
