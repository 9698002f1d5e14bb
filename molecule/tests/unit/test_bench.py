"""`make bench`: what it leaves alone."""

import json
import pathlib
import subprocess
import sys
from typing import Any

import bench
import pytest


@pytest.fixture
def directory(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """Where it works, with a release in it that somebody has built."""
    monkeypatch.setattr(bench, "RELEASES", tmp_path / "releases")
    monkeypatch.setattr(bench, "SOURCE", tmp_path / "bench-source")
    bench.SOURCE.mkdir()
    bench.RELEASES.mkdir()
    release("shop-0", "shop")
    return tmp_path


def release(name: str, source: str) -> None:
    """Files of a release that was built of a directory of this name."""
    for suffix in (".tar.gz", ".static.tar.gz", ".log"):
        (bench.RELEASES / (name + suffix)).touch()
    (bench.RELEASES / f"{name}.json").write_text(json.dumps({"source": {"from": source}}))


@pytest.mark.parametrize("ends", [0, 1], ids=["to its end", "cut off"])
def test_bench_removes_releases_of_the_bench_sources_only(
    directory: pathlib.Path, monkeypatch: pytest.MonkeyPatch, ends: int
) -> None:
    def part(_table: Any) -> None:
        release("newsbudget-1", "bench-source")
        release("shop-2", "shop")  # deployed by somebody meanwhile
        release("newsbudget-3", "demo")
        (bench.RELEASES / ".shop-4.source.tar").touch()  # packed for a build that runs
        if ends:
            sys.exit("failed")

    made, real = [], subprocess.run
    monkeypatch.setattr(bench, "PARTS", {"verbs": part})
    monkeypatch.setattr(bench, "make", lambda *args, **_extra: made.append(args))
    monkeypatch.setattr(bench, "yardstick", lambda: 1.0)
    monkeypatch.setattr(
        bench.subprocess,
        "run",
        lambda command, **how: (
            real(command, **how) if command[0] == "rm" else subprocess.CompletedProcess(command, 0, "", "")
        ),
    )
    monkeypatch.setattr(sys, "argv", ["bench.py", "verbs"])
    if ends:
        pytest.raises(SystemExit, bench.main)
    else:
        assert bench.main() == 0
    assert made == [("down",)] and not bench.SOURCE.exists()
    assert {path.name.partition(".")[0] or path.name for path in bench.RELEASES.iterdir()} == {
        "shop-0",
        "shop-2",
        "newsbudget-3",
        ".shop-4.source.tar",
    }
    assert len(list(bench.RELEASES.iterdir())) == 3 * 4 + 1
