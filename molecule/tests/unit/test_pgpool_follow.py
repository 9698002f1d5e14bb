"""pgpool-follow kills no pgpool that only starts, and lets none begin with a database that is off."""

import itertools

import pytest
from repository import program

LED = [(True, True), (True, False)]


class Over(Exception):
    """Ends a loop that has no end."""


@pytest.fixture(name="program")
def program_fixture(monkeypatch, tmp_path):
    """The program, whose looks take no time and of which there are a hundred."""
    module = program("roles/pgpool/files/pgpool-follow")
    looks, clock = iter(range(100)), [1000.0]

    def sleep(seconds):
        if next(looks, None) is None:
            raise Over
        clock[0] += seconds

    monkeypatch.setattr(module.time, "sleep", sleep)
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    module.RUN = tmp_path
    return module


class Databases:
    """What Patroni and PostgreSQL say."""

    names, addresses = ["db1", "db2"], [("192.0.2.1", 5432), ("192.0.2.2", 5432)]

    def __init__(self, look, answering=()):
        self.look, self.answering = lambda: look, answering

    def answers(self, node):
        """Whether PostgreSQL answers."""
        return node in self.answering


class Pool:
    """A pgpool that answers with a view, or not at all, and starts for a while after each start."""

    def __init__(self, program, view, starts):
        self.program, self.said, self.starts, self.restarts = program, view, starts, []
        self.addresses, self.since = ["192.0.2.1", "192.0.2.2"], program.time.monotonic()

    def view(self):
        """What it says of its nodes."""
        return self.said

    def starting(self):
        """Whether it has just started."""
        return self.program.time.monotonic() - self.since < self.starts

    def restart(self):
        """Note a start."""
        self.restarts.append(self.program.time.monotonic())
        self.since = self.program.time.monotonic()

    def pcp(self, *_words):
        """Take a command."""

    def end_hung(self, _node):
        """End no session."""


def followed(program, view, starts):
    """The pgpool after a hundred looks, with db1 as Patroni's primary."""
    pool = Pool(program, view, starts)
    with pytest.raises(Over):
        program.follow(Databases((0, {0, 1}, {0, 1})), pool)
    return pool


def test_one_that_starts_is_not_killed(program):
    assert followed(program, None, starts=120).restarts == []


def test_one_that_may_only_be_slow_is_started_anew_later(program):
    restarts = followed(program, None, starts=10).restarts
    assert len(restarts) == 3 and all(
        30 <= later - earlier <= 45 for earlier, later in itertools.pairwise([1000, *restarts])
    )


def test_one_that_is_silent_after_the_primary_has_changed_is_started_anew_at_once(program):
    """It agreed to one, and hangs on it."""
    pool = Pool(program, LED, starts=0)
    databases = Databases((0, {0, 1}, {0, 1}))

    def later():
        if program.time.monotonic() < 1010:
            return 0, {0, 1}, {0, 1}
        pool.said = None
        return 1, {1}, {1}

    databases.look = later
    with pytest.raises(Over):
        program.follow(databases, pool)
    assert 1010 <= pool.restarts[0] <= 1014


def test_one_with_a_wrong_primary_is_started_anew_at_once(program):
    assert followed(program, [(True, False), (True, True)], starts=60).restarts[0] - 1000 <= 3


def test_one_that_agrees_is_left_alone(program):
    assert followed(program, LED, starts=0).restarts == []


@pytest.mark.parametrize(
    ("wanted", "answering", "status"),
    [({0, 1}, (), "up up"), ({0}, (), "up down"), (set(), (0,), "up down"), (set(), (), "up up")],
)
def test_it_begins_with_the_databases_that_are_there(program, tmp_path, wanted, answering, status):
    program.write_status(Databases((None, wanted, set()), answering))
    assert (tmp_path / "pgpool_status").read_text().split() == status.split()
