"""The plugin that reads a balancer's log."""

import importlib.machinery
import importlib.util
import json
import time

import pytest

from test_repository import ROOT


@pytest.fixture(name="plugin")
def plugin_fixture():
    """The plugin as a module."""
    path = str(ROOT / "roles/munin_node/files/answers_")
    spec = importlib.util.spec_from_loader("answers_", importlib.machinery.SourceFileLoader("answers_", path))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def line(ago, status="200", took="0.010", size="300"):
    """A line of the log, so many seconds old."""
    when = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(time.time() - ago))
    return json.dumps({"time": when, "status": status, "request_time": took, "bytes": size}) + "\n"


def test_counts_what_is_young_and_across_a_rotation(plugin, tmp_path):
    (tmp_path / "access.log.1").write_text(line(1000) + line(200, "404"))
    (tmp_path / "access.log").write_text("no line\n" + "".join(line(100, took=f"{n / 100:.3f}") for n in range(1, 101)) + line(1, "502", "9.0", "-"))
    answers = [answer for _when, answer in plugin.lines(tmp_path / "access.log", time.time() - plugin.WINDOW)]
    assert plugin.values("status", answers) == {"s2": "0.333", "s3": "0.000", "s4": "0.003", "s5": "0.003"}
    assert plugin.values("bytes", answers) == {"sent": f"{101 * 300 / 300:.0f}"}
    assert plugin.values("time", answers) == {"half": "0.500", "p95": "0.960", "p99": "1.000"}


def test_nobody_came(plugin, tmp_path):
    answers = list(plugin.lines(tmp_path / "access.log", 0))
    assert plugin.values("time", answers) == {"half": "0", "p95": "0", "p99": "0"}
    assert set(plugin.values("status", answers).values()) == {"0.000"} and plugin.values("bytes", answers) == {"sent": "0"}


def test_every_value_is_described(plugin, monkeypatch):
    monkeypatch.setenv("slow_warning", "3")
    for what in ("status", "time", "bytes"):
        described = [word for word in plugin.description(what) if ".label " in word]
        assert [word.partition(".")[0] for word in described] == list(plugin.values(what, []))
    assert "p95.warning 3" in plugin.description("time")
