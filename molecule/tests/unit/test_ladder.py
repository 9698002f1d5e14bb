"""From one box to the full tier: what the drawings say, and which verbs lead from one to the next."""

import pathlib
import re
import shutil

import pytest
from repository import ROOT

from controller.commands import climb, node
from controller.environment import Environment
from controller.errors import Refused
from controller.inventory import Inventory
from controller.tiers import GROUPS, POOLS, TIERS
from plugins.modules import preflight

LIVE = ROOT / "inventories/ladder.yml"
RUNGS = climb.drawings(LIVE)
NAMES = list(RUNGS)
MAY_BE_EMPTY = [group for group, tier in TIERS.items() if tier["may_be_empty"]]
FACTS = Environment(LIVE).declared
# By the name of a rung: what is true from there on, and was not before.
TRUE_FROM = {
    "one-box": lambda jobs, hosts: hosts == {"box1"} and all(jobs[pool] == ["box1"] for pool in [*POOLS, "quorum"]),
    "database-apart": lambda jobs, hosts: alone(jobs, "db"),
    "media-apart": lambda jobs, hosts: alone(jobs, "media"),
    "balancer": lambda jobs, hosts: alone(jobs, "lb") and len(jobs["app"]) > 1,
    "apps": lambda jobs, hosts: alone(jobs, "app") and len(jobs["app"]) > 1,
    "cache": lambda jobs, hosts: alone(jobs, "cache") and not set(jobs["cache"]) & set(jobs["quorum"]),
    "hot-spare": lambda jobs, hosts: all(len(jobs[pool]) > 1 for pool in POOLS) and len(jobs["quorum"]) == 3,
}


def alone(jobs: dict[str, list[str]], pool: str) -> bool:
    """Whether the hosts of a pool do nothing else, votes apart."""
    return all(host not in jobs[other] for host in jobs[pool] for other in GROUPS if other not in (pool, "quorum"))


def jobs(name: str) -> dict[str, list[str]]:
    """{job: its hosts} of a drawing."""
    groups = climb.read(RUNGS[name]).groups
    return {job: groups.get(job, []) for job in GROUPS}


def applied(text: str, step: list[str]) -> str:
    """The text of an inventory after a verb."""
    given = dict(word.split("=") for word in step[1:])
    if step[0] == "add-node":
        return Inventory(text).with_host(given["POOL"], given["NODE"], given["ADDRESS"])
    if step[0] == "remove-node":
        there = Inventory(text)
        pool = node.check_remove(there, given["NODE"], FACTS, given["POOL"])
        return there.without_host(given["NODE"], pool if there.jobs(given["NODE"]) != [pool] else "")
    return text


def complaints(text: str, tmp_path: pathlib.Path) -> list[str]:
    """What preflight has to say about an inventory of the ladder."""
    path = tmp_path / "inventories/ladder.yml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return list(preflight.check_inventory(path, "ladder", GROUPS, FACTS, MAY_BE_EMPTY))


def test_rungs_match_the_drawings() -> None:
    assert [name.partition("-")[2] for name in NAMES] == list(TRUE_FROM)
    assert [int(name.partition("-")[0]) for name in NAMES] == list(range(1, len(NAMES) + 1))


@pytest.mark.parametrize("name", NAMES)
def test_each_rung_has_the_change_that_the_name_describes(name: str) -> None:
    is_true, hosts = TRUE_FROM[name.partition("-")[2]], set(climb.read(RUNGS[name]).lines)
    assert is_true(jobs(name), hosts)
    for lower in NAMES[: NAMES.index(name)]:
        assert not is_true(jobs(lower), set(climb.read(RUNGS[lower]).lines)), f"{lower} is that already"


@pytest.mark.parametrize("name", NAMES)
def test_preflight_accepts_every_rung(name: str, tmp_path: pathlib.Path) -> None:
    assert complaints(RUNGS[name].read_text(), tmp_path) == []


def test_a_name_is_the_same_host_on_every_rung() -> None:
    addresses: dict[str, str] = {}
    for name in NAMES:
        rung = climb.read(RUNGS[name])
        for host in rung.lines:
            assert addresses.setdefault(host, rung.address(host)) == rung.address(host)
    assert len(set(addresses.values())) == len(addresses)


def test_the_highest_rung_is_the_tier_of_every_environment() -> None:
    local = Inventory((ROOT / "inventories/local.yml").read_text()).groups
    assert {job: len(hosts) for job, hosts in jobs(NAMES[-1]).items()} == {job: len(local[job]) for job in GROUPS}


@pytest.mark.parametrize(("low", "high"), [*zip(NAMES, NAMES[1:]), (NAMES[0], NAMES[-1])])
def test_the_verbs_lead_from_rung_to_rung(low: str, high: str, tmp_path: pathlib.Path) -> None:
    """Every inventory on the way has nothing wrong, and no pool is ever without a host."""
    text, then = RUNGS[low].read_text(), climb.read(RUNGS[high])
    for step in climb.steps(Inventory(text), then):
        text = applied(text, step)
        assert complaints(text, tmp_path) == [], step
    end = Inventory(text)
    assert {pool: set(end.groups[pool]) for pool in POOLS} == {pool: set(then.groups[pool]) for pool in POOLS}
    assert all(end.address(host) == then.address(host) for host in end.lines)


def test_an_interrupted_climb_is_resumed() -> None:
    low, then = RUNGS[NAMES[0]].read_text(), climb.read(RUNGS[NAMES[1]])
    todo = climb.steps(Inventory(low), then)
    assert [step[0] for step in todo] == ["add-node", "failover", "remove-node"]
    assert climb.steps(Inventory(applied(low, todo[0])), then) == todo[1:]
    assert climb.steps(then, then) == []


def test_an_interrupted_climb_finishes_the_host_being_added(
    live: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its inventory has that host, and does not tell how far it has come."""
    climb.begin(live, NAMES[0])
    low, first = live.read_text(), climb.steps(climb.read(live), climb.read(RUNGS[NAMES[1]]))[0]
    for text, expected in ((low, "make add-node"), (applied(low, first), "make converge")):
        live.write_text(text)
        assert climb.climb(live, NAMES[1], True) == 0
        assert capsys.readouterr().out.startswith(expected)


def test_new_etcd_members_join_first_and_separately() -> None:
    low, top = climb.read(RUNGS[NAMES[0]]), climb.read(RUNGS[NAMES[-1]])
    assert climb.votes(low, low) == []
    assert climb.votes(low, top) == ["cache1", "cache2", "box1"]
    assert climb.votes(top, top) == ["box1", "cache1", "cache2"]  # one of them may have no seat yet


@pytest.mark.parametrize("broken", ["add-node", "up", "site", "converge"])
def test_a_failed_climb_prints_the_command_to_resume_and_resumes(
    broken: str, live: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made, low, top = [], NAMES[-2], NAMES[-1]
    monkeypatch.setattr(climb, "make", lambda _make_args, *args, **_how: made.append(args[0]) or args[0] != broken)
    climb.begin(live, low)
    assert climb.climb(live, top, False) == 1 and made[-1] == broken
    assert (
        f"ladder is on its way to {top}. When mended, go on: make climb ENV=ladder RUNG={top}"
        in capsys.readouterr().err
    )
    broken = ""
    made.clear()
    assert (
        climb.climb(live, top, False) == 0
        and made[-6:] == ["up", "site", "site", "site", "site", "converge"]
        and climb.standing(live) == top
    )


def test_etcd_members_add_new_hosts_to_the_allow_list_first() -> None:
    low, near, top = (climb.read(RUNGS[NAMES[index]]) for index in (0, -2, -1))
    assert climb.client_access(low, near) == []
    assert climb.client_access(near, top) == [["site", "LIMIT=box1", "TAGS=etcd_clients"]]


def test_hosts_are_added_before_others_are_removed() -> None:
    for low, high in zip(NAMES, NAMES[1:]):
        verbs = [
            (word, step[0])
            for step in climb.steps(climb.read(RUNGS[low]), climb.read(RUNGS[high]))
            for word in step
            if word.startswith("POOL=")
        ]
        assert all(
            verbs.index((pool, "add-node")) < verbs.index((pool, "remove-node"))
            for pool, verb in verbs
            if verb == "remove-node"
        )


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            (r"        cache:\n          hosts:\n            box1:\n", "        cache: {hosts: {}}\n"),
            "'cache' would be left without hosts",
        ),
        ((r"(        quorum:\n          hosts:\n)            box1:\n", r"\1            db1:\n"), "box1 has a vote"),
        ((r"172\.30\.30\.10\}", "172.30.30.9}"), "box1 is at 172.30.30.10"),
        (
            (r"(        cache:\n          hosts:\n)            box1:\n", r"\1            db1:\n"),
            "db1 would come into 'cache'",
        ),
    ],
)
def test_a_rung_that_no_verb_reaches_is_refused(change: tuple[str, str], reason: str) -> None:
    text = RUNGS[NAMES[1]].read_text()
    changed = re.sub(*change, text)
    assert changed != text
    with pytest.raises(Refused, match=reason):
        climb.steps(climb.read(RUNGS[NAMES[0]]), Inventory(changed))


@pytest.mark.parametrize(
    ("job", "reason"),
    [("quorum", "box1 has a vote"), ("monitor", "box1 has the graphs"), ("backup", "backup1 has the backups")],
)
def test_leaving_a_group_that_no_verb_removes_hosts_from_is_refused(job: str, reason: str) -> None:
    now, then = climb.read(RUNGS[NAMES[-1]]), climb.read(RUNGS[NAMES[-1]])
    then.groups[job] = [host for host in then.groups[job] if host not in ("box1", "backup1")]
    with pytest.raises(Refused, match=f"{reason} in .* and not in .*: no verb takes that away"):
        climb.steps(now, then)


@pytest.fixture
def live(tmp_path: pathlib.Path) -> pathlib.Path:
    """The inventory of a copy of the ladder, which nobody has begun yet."""
    shutil.copytree(ROOT / "inventories/ladder", tmp_path / "ladder")
    return tmp_path / "ladder.yml"


def test_a_ladder_begins_at_the_lowest_or_the_given_rung(live: pathlib.Path) -> None:
    climb.begin(live, "")
    assert climb.standing(live) == NAMES[0] and climb.following(live) == NAMES[1]
    climb.begin(live, NAMES[0])
    live.unlink()
    climb.begin(live, NAMES[3])
    assert live.read_text() == RUNGS[NAMES[3]].read_text()


def test_a_second_begin_on_another_rung_is_refused(live: pathlib.Path) -> None:
    climb.begin(live, "")
    for name, reason in (
        (NAMES[2], "1-one-box stands, not 3-media-apart"),
        ("3-media", "did you mean '3-media-apart'"),
    ):
        with pytest.raises(Refused, match=reason):
            climb.begin(live, name)
    assert live.read_text() == RUNGS[NAMES[0]].read_text()


def test_an_unknown_rung_is_refused(live: pathlib.Path) -> None:
    with pytest.raises(Refused, match=r"There is no rung 'x'\. There are: 1-one-box, "):
        climb.begin(live, "x")


def test_no_rung_follows_the_highest(live: pathlib.Path) -> None:
    climb.begin(live, NAMES[-1])
    with pytest.raises(Refused, match="the highest rung"):
        climb.following(live)
    live.write_text(Inventory(live.read_text()).without_host("app2"))
    with pytest.raises(Refused, match="none of its drawings"):
        climb.following(live)


@pytest.mark.parametrize(
    ("group", "reason"),
    [
        ("monitor", "box1 is in 'monitor' and in 'lb' too: both want the ports of the web"),
        ("backup", "box1 is in 'backup' and in 'db' too: what destroys one takes the other along"),
    ],
)
def test_conflicting_groups_of_a_host_are_refused(group: str, reason: str, tmp_path: pathlib.Path) -> None:
    text = RUNGS[NAMES[0]].read_text().replace(f"{group}: {{hosts: {{}}}}", f"{group}: {{hosts: {{box1: }}}}")
    assert any(reason in line for line in complaints(text, tmp_path))


def test_a_missing_group_is_reported(tmp_path: pathlib.Path) -> None:
    text = RUNGS[NAMES[0]].read_text().replace("        backup: {hosts: {}}\n", "")
    assert complaints(text, tmp_path) == [
        "inventories/ladder.yml:1: the group 'backup' has no hosts; where there are to be none, write backup: {hosts: {}}"
    ]


def test_a_database_is_not_in_a_quorum_of_several_hosts(tmp_path: pathlib.Path) -> None:
    text = applied(RUNGS[NAMES[0]].read_text(), ["add-node", "POOL=db", "NODE=db1", "ADDRESS=172.30.30.51"])
    assert complaints(text, tmp_path) == []
    votes = (
        text.rstrip()
        + "\n            cache1: {ansible_host: 172.30.30.41}\n            cache2: {ansible_host: 172.30.30.42}\n"
    )
    assert any("box1 is a database and in 'quorum' too" in line for line in complaints(votes, tmp_path))


def test_the_page_has_every_rung() -> None:
    page = (ROOT / "docs/ladder.md").read_text()
    assert all(name in page for name in NAMES)
