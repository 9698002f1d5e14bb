"""The plugin that reads a balancer's log."""

import json
import pathlib
import time
import types

import pytest
from repository import program


@pytest.fixture(name="plugin")
def plugin_fixture() -> types.ModuleType:
    """The plugin as a module."""
    return program("roles/munin_node/files/answers_")


def line(ago: int, status: str = "200", took: str = "0.010", size: str = "300") -> str:
    """A line of the log, so many seconds old."""
    when = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(time.time() - ago))
    return json.dumps({"time": when, "status": status, "request_time": took, "bytes": size}) + "\n"


def test_recent_requests_are_counted_across_a_rotation(plugin: types.ModuleType, tmp_path: pathlib.Path) -> None:
    (tmp_path / "access.log.1").write_text(line(1000) + line(200, "404"))
    (tmp_path / "access.log").write_text(
        "no line\n" + "".join(line(100, took=f"{n / 100:.3f}") for n in range(1, 101)) + line(1, "502", "9.0", "-")
    )
    answers = [
        answer for _when, answer in plugin.lines(tmp_path / "access.log", time.time() - plugin.WINDOWS["status"])
    ]
    assert plugin.values("status", answers) == {"s2": "0.333", "s3": "0.000", "s4": "0.003", "s5": "0.003"}
    assert plugin.values("bytes", answers) == {"sent": f"{101 * 300 / 300:.0f}"}
    assert plugin.values("time", answers) == {"half": "0.500", "p95": "0.960", "p99": "1.000"}
    assert plugin.values("failed", answers) == {"failed": "0.98"}  # 1 of 102


def test_figures_without_requests_are_zero(plugin: types.ModuleType, tmp_path: pathlib.Path) -> None:
    answers = list(plugin.lines(tmp_path / "access.log", 0))
    assert plugin.values("time", answers) == {"half": "0", "p95": "0", "p99": "0"}
    assert (
        set(plugin.values("status", answers).values()) == {"0.000"}
        and plugin.values("failed", answers) == {"failed": "0.00"}
        and plugin.values("bytes", answers) == {"sent": "0"}
    )


def test_every_value_is_described(plugin: types.ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    for what in ("status", "time", "failed", "bytes"):
        described = [word for word in plugin.description(what, []) if ".label " in word]
        assert [word.partition(".")[0] for word in described] == list(plugin.values(what, []))


@pytest.mark.parametrize("came", [1, 2])
def test_few_requests_set_no_limits(plugin: types.ModuleType, monkeypatch: pytest.MonkeyPatch, came: int) -> None:
    for name, value in (("slow_warning", "3"), ("failed_critical", "5"), ("fewest", "2")):
        monkeypatch.setenv(name, value)
    answers = [{"status": "500", "request_time": "9"}] * came
    assert (
        ("p95.warning 3" in plugin.description("time", answers))
        == ("failed.critical 5" in plugin.description("failed", answers))
        == (came == 2)
    )


@pytest.mark.parametrize(("status", "failed"), [("500", "100.00"), ("504", "100.00"), ("505", "0.00"), ("404", "0.00")])
def test_client_errors_are_no_failures(plugin: types.ModuleType, status: str, failed: str) -> None:
    """Nobody is paged because somebody asks for HTTP/9."""
    assert plugin.values("failed", [{"status": status}]) == {"failed": failed}


def test_pages_of_maintenance_are_not_counted_as_failed(plugin: types.ModuleType) -> None:
    refused = [{"status": "503", "upstream": ""}, {"status": "503", "upstream": "192.0.2.1:80"}, {"status": "200"}, {}]
    assert [plugin.failed({"status": "200"} | answer) for answer in refused] == [False, True, False, False]
