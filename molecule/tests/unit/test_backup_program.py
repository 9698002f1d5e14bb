"""What the backup host's program need not ask again."""

import json
import os
import pathlib
import types
from collections.abc import Callable
from typing import Any

import pytest


@pytest.mark.parametrize(
    ("change", "calls"),
    [
        (lambda directory: None, 1),
        (lambda directory: (directory / "media/snapshots/two").write_text("y"), 2),
        (lambda directory: (directory / "media/snapshots/one").unlink(), 2),
        (lambda directory: os.utime(directory / "media/snapshots/one", (1, 1)), 2),
        (lambda directory: (directory / "media/keys/one").write_text("other"), 2),
        (lambda directory: (directory / "media/config").unlink(), 2),
        (lambda directory: (directory / "key").write_text("other"), 2),
    ],
)
def test_restic_runs_again_when_the_repository_or_the_key_has_changed(
    program: types.ModuleType,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[..., Any],
    calls: int,
) -> None:
    asks = []
    monkeypatch.setattr(
        program,
        "run",
        lambda *args, **_more: (
            asks.append(args) or json.dumps([{"time": "2026-11-29T23:30:30.8614947Z", "hostname": "media1"}])
        ),
    )
    backups = program.Backups({}, tmp_path / "state.json")
    for _ in range(2):
        backups.note(media=backups.media())
    change(tmp_path)
    backups.note(media=backups.media())
    assert len(asks) == calls
    assert backups.state()["media"]["at"] == 1795995030


def test_restic_runs_again_after_a_failure_and_after_the_cache_expires(
    program: types.ModuleType, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asks = []
    monkeypatch.setattr(program, "run", lambda *args, **_more: asks.append(args) or "[]")
    backups = program.Backups({}, tmp_path / "state.json")
    backups.note(media=backups.media())
    backups.note(media={"result": "broken"})
    backups.note(media=backups.media())
    assert len(asks) == 2
    now = program.time.time()
    monkeypatch.setattr(program.time, "time", lambda: now + program.MEDIA_AGAIN)
    backups.media()
    assert len(asks) == 3


def test_a_backup_with_a_time_in_the_future_is_a_problem(
    program: types.ModuleType, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = {"media1": "2026-11-29T23:30:30Z", "media2": "2026-11-29T23:40:31Z"}
    monkeypatch.setattr(
        program,
        "run",
        lambda *_args, **_more: json.dumps([{"time": at, "hostname": host} for host, at in times.items()]),
    )
    monkeypatch.setattr(program.time, "time", lambda: 1795995030)
    assert (
        program.Backups({}, tmp_path / "state.json")
        .media()["result"]
        .startswith("media2 sent one that is dated in the future")
    )
    monkeypatch.setattr(program.time, "time", lambda: 1795995031 + 600 - program.MEDIA_AHEAD)
    assert program.Backups({}, tmp_path / "other.json").media()["result"] == "ok"
