"""`make status`: what only the answers of several hosts together tell."""

import copy
from typing import Any

import pytest

from controller import health
from controller.commands import status

GROUPS = {"lb": ["lb1", "lb2"], "app": ["app1", "app2"], "db": ["db1", "db2"]}
CLUSTER: dict[str, Any] = {
    "members": [
        {"name": "db1", "role": "leader", "state": "running"},
        {"name": "db2", "role": "sync_standby", "state": "streaming", "lag": 0},
    ]
}


def answer(tier: str, raw: Any) -> dict[str, Any]:
    """What a host of a tier says while all is well."""
    return {
        "does": {tier: ""},
        "sees": {},
        "wrong": [],
        "raw": raw,
        "asked": {"groups": GROUPS, "facts": {"env_name": "x", "make_args": "ENV=x", "lb_vip": "192.0.2.9"}},
    }


WELL = {
    "lb1": answer("lb", {"holds": True}),
    "lb2": answer("lb", {"holds": False}),
    "app1": answer("app", {"release": "a", "primaries": ["db1"]}),
    "app2": answer("app", {"release": "a", "primaries": ["db1"]}),
    "db1": answer("db", {"role": "primary", "cluster": CLUSTER}),
    "db2": answer("db", {"role": "replica", "cluster": CLUSTER}),
}


def test_the_page_of_a_healthy_tier() -> None:
    text, wrong = status.page(WELL)
    assert wrong == []
    assert "all is well" in text
    assert "standby, streaming, 0 bytes behind, confirms commits" in text


@pytest.mark.parametrize(
    ("host", "raw", "sentence"),
    [
        ("lb2", {"holds": True}, "192.0.2.9 is held by lb1, lb2"),
        ("lb1", {"holds": False}, "192.0.2.9 is held by nobody"),
        ("app2", {"release": "b", "primaries": ["db1"]}, "different releases"),
        ("app2", {"release": "a", "primaries": ["db2"]}, "pgpool of app2 takes db2 for the primary, and it is db1"),
        ("db2", {"role": "primary", "cluster": CLUSTER}, "two primaries: db1, db2"),
        ("db1", {"role": "replica", "cluster": CLUSTER}, "no primary"),
        ("db1", {"role": "primary", "cluster": CLUSTER | {"pause": True}}, "Patroni is paused"),
        (
            "db1",
            {
                "role": "primary",
                "cluster": {"members": [CLUSTER["members"][0], CLUSTER["members"][1] | {"role": "replica"}]},
            },
            "No standby confirms",
        ),
        (
            "db1",
            {
                "role": "primary",
                "cluster": {"members": [CLUSTER["members"][0], CLUSTER["members"][1] | {"lag": 2**30}]},
            },
            "db2 does not keep up",
        ),
        (
            "db1",
            {"role": "primary", "cluster": CLUSTER, "lost_slots": ["db2"]},
            "db2 cannot catch up: db1 has no longer the WAL that it lacks",
        ),
    ],
)
def test_the_page_names_a_problem(host: str, raw: Any, sentence: str) -> None:
    hosts = copy.deepcopy(WELL)
    hosts[host]["raw"] = raw
    text, wrong = status.page(hosts)
    assert any(sentence in problem for problem in wrong), wrong
    assert sentence in text


@pytest.mark.parametrize(
    ("silent", "expected", "unexpected"),
    [
        (
            {"db1": {"msg": "busy", "not_asked": True}},
            ["db1 was not asked in time: busy", "None of the databases that answered is the primary; db1 did not"],
            "no primary",
        ),
        (
            {"db1": {"unreachable": True}, "db2": {"unreachable": True}},
            ["db1 does not answer over SSH", "db2 does not answer over SSH"],
            "primary",
        ),
        (
            {"lb1": {"unreachable": True}},
            ["lb1 does not answer over SSH", "None of the balancers that answered holds 192.0.2.9; lb1 did not"],
            "nobody",
        ),
        (
            {"lb1": {"msg": "busy", "not_asked": True}, "lb2": {"msg": "busy", "not_asked": True}},
            ["lb1 was not asked in time", "lb2 was not"],
            "192.0.2.9 is held",
        ),
    ],
)
def test_unknown_state_is_neither_healthy_nor_a_problem(silent: Any, expected: list[str], unexpected: str) -> None:
    """What only a host that did not answer knows is neither well nor wrong."""
    text, wrong = status.page(WELL | silent)
    assert all(any(problem.startswith(sentence) for problem in wrong) for sentence in expected), wrong
    assert not any(
        unexpected in problem for problem in wrong if problem not in expected and not problem.startswith("None of")
    ), wrong
    assert text.count("NOT ASKED") == sum("not_asked" in result for result in silent.values())


@pytest.mark.parametrize(
    ("sent", "seconds", "there", "complains"),
    [
        (True, 900, {"logs": {"seconds": 900, "to": {}}}, False),
        (False, 900, {"logs": {"seconds": 900, "to": {}}}, True),
        (False, 900, {"logs": {"seconds": 5, "to": {}}}, False),
        (False, 5, {"logs": {"seconds": 900, "to": {}}}, False),
        (False, 900, {}, False),
    ],
)
def test_a_host_whose_log_lines_do_not_reach_the_monitor_is_a_problem(
    sent: bool, seconds: float, there: dict[str, dict[str, dict[Any, Any] | int]], complains: bool
) -> None:
    hosts = copy.deepcopy(WELL) | {"monitor1": answer("monitor", there)}
    hosts["app1"]["raw"]["logs"] = {"seconds": seconds, "to": {"monitor1": sent}}
    assert status.page(hosts)[1] == (
        ["app1 sends no log lines to monitor1. On it: journalctl -u rsyslog"] if complains else []
    )


def test_a_host_that_does_not_answer_is_a_problem() -> None:
    text, wrong = status.page(WELL | {"app2": {"unreachable": True, "msg": "…"}})
    assert wrong == ["app2 does not answer over SSH"]
    assert "SILENT" in text


def test_an_outdated_image_is_reported_and_is_no_problem() -> None:
    hosts = copy.deepcopy(WELL)
    hosts["app1"]["raw"]["image"] = {"date": "2026-01-02", "lacks": ["brotli"], "spare": ["gzip"]}
    hosts["app2"]["raw"]["image"] = {"date": "2026-01-02", "lacks": [], "spare": []}
    text, wrong = status.page(hosts)
    assert wrong == []
    assert "all is well" in text
    assert (
        "    app1 came from an image of 2026-01-02 that is older than its packages (without brotli; still with gzip). "
        "Before another host does: make image ENV=x"
    ) in text.splitlines()
    assert "app2 came from" not in text


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({}, ""),
        (
            {"role": "replica"},
            "Not every database confirms commits: db1 (leader, running), db2 (sync_standby, streaming), db3 (replica",
        ),
        ({"state": "in archive recovery"}, "db3 does not keep up"),
        ({"state": "running"}, "db3 does not keep up"),
        (None, "Not every database confirms commits: db1 (leader, running), db2 (sync_standby, streaming)."),
    ],
)
def test_a_strict_judgement_wants_every_standby_to_confirm(changes: dict[str, str] | None, sentence: str) -> None:
    """Drills break any of them next."""
    third = (
        [] if changes is None else [{"name": "db3", "role": "quorum_standby", "state": "streaming", "lag": 0} | changes]
    )
    cluster = {"members": CLUSTER["members"] + third}
    answers = {
        "lb1": {"raw": {"holds": True}},
        "db1": {"raw": {"role": "primary", "cluster": cluster}},
        **{name: {"raw": {"role": None}} for name in ("db2", "db3")},
    }
    groups, facts = {"lb": ["lb1"], "db": ["db1", "db2", "db3"]}, {"lb_vip": "192.0.2.9", "make_args": "ENV=x"}
    _roles, problems = health.problems_across_hosts(answers, groups, facts, strict=True)
    assert (problems[0] if problems else "").startswith(sentence) and bool(problems) == bool(sentence)
    if changes is None or "role" in changes:
        assert health.problems_across_hosts(answers, groups, facts)[1] == []


def test_a_strict_judgement_of_a_primary_without_a_cluster_is_a_problem() -> None:
    answers: dict[str, Any] = {"lb1": {"raw": {"holds": True}}, "db1": {"raw": {"role": "primary", "cluster": {}}}}
    _roles, problems = health.problems_across_hosts(answers, {"lb": ["lb1"], "db": ["db1"]}, {}, strict=True)
    assert problems == ["Not every database confirms commits: no member."]
