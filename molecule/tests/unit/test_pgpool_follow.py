"""pgpool-follow kills no pgpool that only starts, and lets none begin with a database that is off."""

import dataclasses
import itertools
import pathlib
import types
from typing import Any

import pytest
from pgpool_follow import program as pgpool_follow
from pgpool_follow.state import (
    CALL_AGAIN,
    HUNG_AFTER,
    PATIENT_AFTER,
    PGPOOL_EVERY,
    RESTART_AGAIN,
    RESTART_MOST,
    SILENT_WITHIN,
    SURE_AFTER,
    Attach,
    Cluster,
    Detach,
    EndHung,
    Observation,
    Reason,
    Restart,
    State,
    performed,
    pgpool_due,
    step,
    to_probe,
)

LED = [(True, True), (True, False)]
BOTH = Cluster(0, frozenset({0, 1}), frozenset({0, 1}))


class Over(Exception):
    """Ends a loop that has no end."""


@pytest.fixture(name="program")
def program_fixture(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> types.ModuleType:
    """The program, whose looks take no time and of which there are a hundred."""
    looks, clock = iter(range(100)), [1000.0]

    def sleep(seconds: float) -> None:
        if next(looks, None) is None:
            raise Over
        clock[0] += seconds

    monkeypatch.setattr(pgpool_follow.time, "sleep", sleep)
    monkeypatch.setattr(pgpool_follow.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(pgpool_follow, "RUN", tmp_path)
    return pgpool_follow


class Databases:
    """What Patroni and PostgreSQL say."""

    names, addresses = ["db1", "db2"], [("192.0.2.1", 5432), ("192.0.2.2", 5432)]

    def __init__(self, cluster: Any, answering: tuple[int, ...] = ()) -> None:
        self.look, self.answering = lambda: cluster, answering

    def answers(self, node: int) -> bool:
        """Whether PostgreSQL answers."""
        return node in self.answering


class Pgpool:
    """A pgpool that answers with a view, or not at all, and starts for a while after each start."""

    def __init__(self, program: Any, view: Any, starts: Any) -> None:
        self.program, self.answer, self.starts = program, view, starts
        self.restarts: list[Any] = []
        self.addresses, self.since = ["192.0.2.1", "192.0.2.2"], program.time.monotonic()

    def view(self) -> Any:
        """What it says of its nodes."""
        return self.answer

    def starting(self) -> bool:
        """Whether it has just started."""
        return self.program.time.monotonic() - self.since < self.starts

    def restart(self) -> None:
        """Note a start."""
        self.restarts.append(self.program.time.monotonic())
        self.since = self.program.time.monotonic()

    def pcp(self, *_args: object) -> None:
        """Take a command."""

    def end_hung(self, _node: int) -> None:
        """End no session."""


def followed(program: types.ModuleType, view: list[tuple[bool, bool]] | None, starts: int) -> Any:
    """The pgpool after a hundred looks, with db1 as Patroni's primary."""
    pgpool = Pgpool(program, view, starts)
    with pytest.raises(Over):
        program.follow(Databases(BOTH), pgpool)
    return pgpool


def test_a_pgpool_that_starts_is_not_killed(program: types.ModuleType) -> None:
    assert followed(program, None, starts=120).restarts == []


def test_a_pgpool_that_may_only_be_slow_is_restarted_later(program: types.ModuleType) -> None:
    restarts = followed(program, None, starts=10).restarts
    assert len(restarts) == 3 and all(
        30 <= later - earlier <= 45 for earlier, later in itertools.pairwise([1000, *restarts])
    )


def test_a_pgpool_that_is_silent_after_the_primary_has_changed_is_restarted_at_once(program: types.ModuleType) -> None:
    """It agreed to the old primary, and hangs on it."""
    pgpool = Pgpool(program, LED, starts=0)
    databases = Databases(BOTH)

    def second_is_primary() -> Any:
        if program.time.monotonic() < 1010:
            return BOTH
        pgpool.answer = None
        return Cluster(1, frozenset({1}))

    databases.look = second_is_primary
    with pytest.raises(Over):
        program.follow(databases, pgpool)
    assert 1010 <= pgpool.restarts[0] <= 1014


def test_a_pgpool_with_a_wrong_primary_is_restarted_at_once(program: types.ModuleType) -> None:
    assert followed(program, [(True, False), (True, True)], starts=60).restarts[0] - 1000 <= 3


def test_a_pgpool_that_agrees_is_not_restarted(program: types.ModuleType) -> None:
    assert followed(program, LED, starts=0).restarts == []


@pytest.mark.parametrize(
    ("usable", "answering", "status"),
    [({0, 1}, (), "up up"), ({0}, (), "up down"), (set(), (0,), "up down"), (set(), (), "up up")],
)
def test_the_status_file_lists_the_reachable_databases(
    program: types.ModuleType, tmp_path: pathlib.Path, usable: set[int], answering: tuple[int], status: str
) -> None:
    program.write_status(Databases(Cluster(None, frozenset(usable)), answering))
    assert (tmp_path / "pgpool_status").read_text().split() == status.split()


def steps(state: Any, observations: list[Any]) -> Any:
    """The state and all (time, action) after observations, where each action takes no time."""
    done = []
    for observation in observations:
        state, actions = step(state, observation)
        done += [(observation.at, action) for action in actions]
        for action in actions:
            state = performed(state, action, observation.at, busy=False)
    return state, done


def looks(
    cluster: Any,
    view: list[tuple[bool, bool]] | None,
    count: int,
    begin: float = 1000.0,
    every: float = 1.0,
    **more: bool,
) -> list[Any]:
    """Observations of the same, so many seconds apart."""
    return [Observation(begin + every * number, cluster, asked=True, view=view, **more) for number in range(count)]


FRESH = State(others_until=0.0)


def test_a_wrong_primary_is_confirmed_and_restarts_back_off() -> None:
    wrong = [(True, False), (True, True)]
    state, done = steps(FRESH, looks(BOTH, wrong, SURE_AFTER - 1))
    assert done == [] and state.wrong == SURE_AFTER - 1
    _state, done = steps(FRESH, looks(BOTH, wrong, 400))
    assert {action.reason for _at, action in done} == {Reason.WRONG_PRIMARY}
    holds = [action.hold_s for _at, action in done]
    assert holds[:5] == [RESTART_AGAIN, 10.0, 20.0, 40.0, RESTART_MOST] and set(holds[5:]) == {RESTART_MOST}
    assert all(later - at >= action.hold_s for (at, action), (later, _) in itertools.pairwise(done))


def test_the_back_off_is_reset_when_pgpool_agrees() -> None:
    state, _done = steps(FRESH, looks(BOTH, [(True, False), (True, True)], SURE_AFTER))
    assert state.restart_s > RESTART_AGAIN
    state, _done = steps(state, looks(BOTH, LED, 1, begin=state.restart_at - 1))
    assert state.restart_s > RESTART_AGAIN
    state, _done = steps(state, looks(BOTH, LED, 1, begin=state.restart_at))
    assert state.restart_s == RESTART_AGAIN


def test_a_silent_pgpool_is_restarted_late_or_at_once_after_a_failover() -> None:
    state, _done = steps(FRESH, looks(BOTH, LED, 1))
    _state, done = steps(state, looks(BOTH, None, 60))
    assert [at for at, _action in done][0] == 1000 + SILENT_WITHIN + SURE_AFTER - 1
    changed = Cluster(1, frozenset({1}))
    _state, done = steps(state, looks(changed, None, 60))
    assert [at for at, _action in done][0] == 1000 + SURE_AFTER - 1
    assert steps(state, looks(changed, None, 60, starting=True))[1] == []


def test_standbys_are_attached_soon_and_detached_patiently_while_they_follow() -> None:
    _state, done = steps(FRESH, looks(BOTH, [(True, True), (False, False)], 30))
    assert [at for at, _action in done] == [1000 + SURE_AFTER - 1 + CALL_AGAIN * number for number in range(3)]
    assert {action for _at, action in done} == {Attach(1)}
    _state, done = steps(FRESH, looks(Cluster(0, frozenset({0})), LED, 5))
    assert done == [(1000 + SURE_AFTER - 1, Detach(1))]
    _state, done = steps(FRESH, looks(Cluster(0, frozenset({0}), frozenset({1})), LED, 15))
    assert done == [(1000 + PATIENT_AFTER - 1, Detach(1))]


def test_sessions_on_a_detached_node_are_checked_again_soon() -> None:
    cluster, view = Cluster(0, frozenset({0})), [(True, True), (False, False)]
    state, done = steps(FRESH, looks(cluster, view, 1))
    assert done == [(1000, EndHung(1))] and state.agreed == (0, {0})
    assert not pgpool_due(state, cluster, 1000 + PGPOOL_EVERY - 1) and pgpool_due(state, cluster, 1000 + PGPOOL_EVERY)
    assert pgpool_due(state, BOTH, 1000.0)
    busy = performed(state, EndHung(1), 1001.0, busy=True)
    assert not pgpool_due(busy, cluster, 1000 + HUNG_AFTER - 1) and pgpool_due(busy, cluster, 1000 + HUNG_AFTER)


def test_reads_continue_without_a_reachable_primary() -> None:
    led, standby = dataclasses.replace(FRESH, primary=0), Cluster(None, frozenset({1}))
    assert to_probe(led, standby, 2) == []  # once is no loss
    lost, actions = step(led, Observation(1000.0, standby))
    assert actions == [] and to_probe(lost, standby, 2) == [0]
    assert step(lost, Observation(1001.0, standby, reachable=True))[1] == []
    given_up, actions = step(lost, Observation(1001.0, standby, reachable=False))
    assert actions == [Restart(Reason.PRIMARY_LOST, 0, hold_s=None)]
    assert given_up.primary is None and to_probe(given_up, standby, 2) == []
    assert performed(given_up, actions[0], 1002.0, busy=False).restart_at == given_up.restart_at


def test_pgpool_is_restarted_once_when_all_databases_are_back() -> None:
    none = Cluster(None, frozenset())
    state, _done = steps(FRESH, [Observation(1000.0, none)])
    assert to_probe(state, none, 2) == [0, 1]
    assert not step(state, Observation(1001.0, none, reachable=True))[0].all_gone
    state, done = steps(state, [Observation(1001.0, none, reachable=False), Observation(1002.0, none)])
    assert state.all_gone and done == [] and to_probe(state, none, 2) == [] and not pgpool_due(state, BOTH, 1003.0)
    state, done = steps(state, [Observation(1003.0, BOTH)])
    assert done == [(1003.0, Restart(Reason.DATABASES_BACK, 0, hold_s=RESTART_AGAIN))]
    assert state.restart_at == 1003 + RESTART_AGAIN and pgpool_due(state, BOTH, 1004.0)


def test_other_databases_are_accepted_while_a_host_is_added_or_removed() -> None:
    state = State(others_until=1005.0)
    assert steps(state, looks(BOTH, [(True, False)], 5, same_nodes=False))[1] == []
    assert steps(state, looks(BOTH, [(True, False)], SURE_AFTER, begin=1005.0, same_nodes=False))[1] != []
