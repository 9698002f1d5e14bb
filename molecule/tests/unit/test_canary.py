"""The verdict on a canary, and what a balancer's log says of each host."""

import json
import pathlib

import pytest

LIMITS = {"seconds": 60, "requests": 100, "wait": 600, "errors": 0.01, "slower": 1.5, "slack": 0.1}


from plugins.filter import canary
from plugins.modules import release_traffic as traffic


def host(requests: int, failures: int = 0, seconds: float = 0.05) -> dict[str, int | list[float]]:
    return {"requests": requests, "failures": failures, "times": [seconds] * requests}


@pytest.mark.parametrize(
    ("new", "old", "elapsed", "state", "why"),
    [
        (host(200), host(200), 61, "promote", "app1 200 requests, 0.0 % failed"),
        (host(200), host(200), 59, "watch", ""),
        (host(99), host(200), 61, "watch", ""),
        (host(99), host(200), 600, "back", "too few came in 600 s"),
        (host(200, 3), host(200), 61, "back", "it fails"),
        (host(200, 2), host(200), 61, "promote", ""),
        (host(200, 20), host(200, 20), 61, "promote", ""),
        (host(40, 5), host(40), 5, "back", "it fails"),
        (host(40, 4), host(40), 5, "watch", ""),
        (host(200, seconds=0.3), host(200, seconds=0.1), 61, "back", "it is slow"),
        (host(200, seconds=0.14), host(200, seconds=0.01), 61, "back", "it is slow"),
        (host(200, seconds=0.1), host(200, seconds=0.01), 61, "promote", ""),
    ],
)
def test_canary_verdict_of_requests_and_failures(
    new: dict[str, int | list[float]], old: dict[str, int | list[float]], elapsed: int, state: str, why: str
) -> None:
    verdict = canary.canary_verdict([{"app1": new, "app2": old}], ["app1"], LIMITS, elapsed)
    assert verdict["state"] == state and why in verdict["why"], verdict


def test_requests_of_several_balancers_are_added_up() -> None:
    verdict = canary.canary_verdict([{"app1": host(60), "app2": host(60)}] * 2, ["app1"], LIMITS, 61)
    assert verdict["state"] == "promote" and "app1 120 requests" in verdict["why"]


def entry(upstream: str, upstream_status: str, upstream_time: str, status: str = "200") -> str:
    return json.dumps(
        {"upstream": upstream, "upstream_status": upstream_status, "upstream_time": upstream_time, "status": status}
    )


def test_a_retried_request_counts_for_every_backend() -> None:
    hosts = {"10.0.0.1:8000": "app1", "10.0.0.2:8000": "app2"}
    counts = traffic.count(
        [
            entry("10.0.0.1:8000", "200", "0.050"),
            entry("10.0.0.1:8000, 10.0.0.2:8000", "502, 200", "0.001, 0.070"),
            entry("10.0.0.2:8000 : 10.0.0.1:8000", "504 : 200", "3.000 : 0.010"),
            entry("10.0.0.1:8000", "-", "2.000", "499"),  # the visitor left
            entry("10.0.0.9:8080", "404", "0.001"),  # a media host
            entry("", "", ""),  # answered by the balancer itself
            '{"upstream": "10.0.0.1',  # being written
        ],
        hosts,
    )
    assert counts == {
        "app1": {"requests": 3, "failures": 1, "times": [0.05, 0.001, 0.01]},
        "app2": {"requests": 2, "failures": 1, "times": [0.07, 3.0]},
    }


def test_a_log_is_read_from_an_offset_across_a_rotation(tmp_path: pathlib.Path) -> None:
    log = tmp_path / "access.log"
    log.write_text("one\n")
    since = {"inode": log.stat().st_ino, "offset": 4}
    with log.open("a") as more:
        more.write("two\n")
    assert traffic.lines_since(str(log), since) == ["two\n"]
    log.rename(tmp_path / "access.log.1")
    log.write_text("three\n")
    assert traffic.lines_since(str(log), since) == ["two\n", "three\n"]
