"""What the backup host's program need not ask again."""

import importlib
import json
import os
import sys
import types

import pytest


@pytest.fixture(name="program")
def program_fixture(monkeypatch, tmp_path):
    """The module that looks at backups, without the driver that only the backup host has; its paths below tmp_path."""
    for name in ("psycopg2", "psycopg2.errors", "psycopg2.sql"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    sys.modules["psycopg2"].errors, sys.modules["psycopg2"].sql, sys.modules["psycopg2"].Error = sys.modules["psycopg2.errors"], sys.modules["psycopg2.sql"], Exception
    for name in [name for name in sys.modules if name.partition(".")[0] == "tier_backup"]:
        monkeypatch.delitem(sys.modules, name)  # an import of another test, with its own stand-in for the driver
    module = importlib.import_module("tier_backup.backups")
    for part in ("keys", "snapshots"):
        (tmp_path / "media" / part).mkdir(parents=True)
        (tmp_path / "media" / part / "one").write_text("x")
    (tmp_path / "media/config").write_text("x")
    (tmp_path / "key").write_text("x")
    monkeypatch.setattr(module, "MEDIA", str(tmp_path / "media"))
    monkeypatch.setattr(module, "MEDIA_KEY", str(tmp_path / "key"))
    return module


@pytest.mark.parametrize(("change", "asked"), [
    (lambda place: None, 1),
    (lambda place: (place / "media/snapshots/two").write_text("y"), 2),
    (lambda place: (place / "media/snapshots/one").unlink(), 2),
    (lambda place: os.utime(place / "media/snapshots/one", (1, 1)), 2),
    (lambda place: (place / "media/keys/one").write_text("other"), 2),
    (lambda place: (place / "media/config").unlink(), 2),
    (lambda place: (place / "key").write_text("other"), 2),
])
def test_restic_is_asked_again_when_what_it_reads_has_changed(program, tmp_path, monkeypatch, change, asked):
    asks = []
    monkeypatch.setattr(program, "run", lambda *words, **_more: asks.append(words) or json.dumps([{"time": "2026-11-29T23:30:30.8614947Z", "hostname": "media1"}]))
    backups = program.Backups({}, tmp_path / "state.json")
    for _ in range(2):
        backups.note(media=backups.media())
    change(tmp_path)
    backups.note(media=backups.media())
    assert len(asks) == asked
    assert backups.state()["media"]["at"] == 1795995030


def test_restic_is_asked_again_after_a_failure_and_after_a_while(program, tmp_path, monkeypatch):
    asks = []
    monkeypatch.setattr(program, "run", lambda *words, **_more: asks.append(words) or "[]")
    backups = program.Backups({}, tmp_path / "state.json")
    backups.note(media=backups.media())
    backups.note(media={"result": "broken"})
    backups.note(media=backups.media())
    assert len(asks) == 2
    now = program.time.time()
    monkeypatch.setattr(program.time, "time", lambda: now + program.MEDIA_AGAIN)
    backups.media()
    assert len(asks) == 3


def test_a_backup_of_the_uploads_from_the_future_is_told(program, tmp_path, monkeypatch):
    times = {"media1": "2026-11-29T23:30:30Z", "media2": "2026-11-29T23:40:31Z"}
    monkeypatch.setattr(program, "run", lambda *_words, **_more: json.dumps([{"time": at, "hostname": host} for host, at in times.items()]))
    monkeypatch.setattr(program.time, "time", lambda: 1795995030)
    assert program.Backups({}, tmp_path / "state.json").media()["result"].startswith("media2 sent one that is dated in the future")
    monkeypatch.setattr(program.time, "time", lambda: 1795995031 + 600 - program.MEDIA_AHEAD)
    assert program.Backups({}, tmp_path / "other.json").media()["result"] == "ok"
