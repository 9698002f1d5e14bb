"""What backups lead to a moment, what WAL is missing on the way, and what is wrong with either."""

import calendar
import json
import pathlib
import types
from collections.abc import Callable
from typing import Any

import pytest
from tier_backup import common

NOW = 1795995030
ARCHIVE = "archive/tier/17-1"


class Repository:
    """What pgBackRest tells of a repository: backups as (label, end, first WAL), WAL as names of segments."""

    def __init__(self, backups: Any = (), wal: Any = ()) -> None:
        self.backups, self.wal = backups, wal

    def __call__(self, *args: str) -> str:
        if args[0] == "info":
            return json.dumps(
                [
                    {
                        "status": {"code": 0},
                        "archive": [{"id": "17-1", "max": max(self.wal, default=None)}],
                        "backup": [
                            {
                                "label": label,
                                "type": "full",
                                "error": False,
                                "timestamp": {"stop": end},
                                "archive": {"start": first},
                                "info": {"size": 5 << 20},
                            }
                            for label, end, first in self.backups
                        ],
                    }
                ]
            )
        if "--recurse" in args:
            return json.dumps(
                {name: {"type": "file", "time": NOW - 60} for name in self.wal}
                | {"17-1": {"type": "path", "time": NOW}}
            )
        directory = args[1].removeprefix(ARCHIVE).strip("/")
        names = [f"{name}-{'0' * 40}.zst" for name in self.wal if name.startswith(directory)]
        return "\n".join(names if directory else sorted({name[:16] for name in names}))


@pytest.fixture(name="backups")
def backups_fixture(
    program: types.ModuleType, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Any]:
    """backups(repository) is what the program knows of it, NOW."""
    monkeypatch.setattr(program.time, "time", lambda: NOW)
    monkeypatch.setattr(program, "run", lambda *_args, **_more: "[]")

    def make(*repository: Any) -> Any:
        program_backups = program.Backups(
            {"stanza": "tier", "database": {}, "limits": {"full": 7200, "incr": 7200}}, tmp_path / "state.json"
        )
        program_backups.pgbackrest = Repository(*repository)
        return program_backups

    return make


def wal(*segments: int, timeline: int = 1) -> list[str]:
    return [f"{timeline:08X}{segment >> 8:08X}{segment & 255:08X}" for segment in segments]


@pytest.mark.parametrize(
    ("there", "missing"),
    [
        (wal(254, 255, 256, 257), []),
        (wal(254, 256, 257), [255]),
        (wal(255, 256), [254]),
        ([], [254]),
        (wal(250), [254]),
        (wal(254, 257), [255, 256]),
        (wal(250, 254), []),  # what came before the backup is not needed
        (wal(254, 255) + wal(256, 257, timeline=2), []),
        (wal(254, 255, 256) + wal(256, 257, timeline=2), []),
        # That of the timeline that was left stands for none of the next one
        (
            wal(254, 255, 256, 257) + wal(255, 257, timeline=2),
            [256],
        ),
        (wal(254, 255, 256, 257) + wal(255, timeline=2), []),
    ],
)
def test_gaps_in_the_wal_are_reported(backups: Callable[..., Any], there: list[str], missing: list[int]) -> None:
    history = backups([("full", NOW - 100, wal(254)[0])], there)
    assert history.gaps(history.info()["backup"][-1]) == [
        f"segment {segment >> 8:08X}{segment & 255:08X}" for segment in missing
    ]


def test_backups_of_an_abandoned_timeline_are_not_in_the_current_history(backups: Callable[..., Any]) -> None:
    history = backups(
        [("a", NOW - 900, wal(1)[0]), ("b", NOW - 600, wal(2)[0]), ("c", NOW - 100, wal(3)[0])], wal(1, 2, 3)
    )
    history.note(restores=[[NOW - 500, NOW - 700, 4]])  # b was made after the moment that the databases went back to
    assert [backup["label"] for backup in history.history()] == ["a", "c"]
    assert [backup["label"] for backup in history.history(NOW - 550)] == ["a", "b", "c"]  # who wants that future back
    plan = history.plan(NOW - 550)
    assert (plan["label"], plan["timeline"], plan["seconds"], plan["gap"], plan["megabytes"]) == ("b", 4, 550, "", 5)
    assert (history.plan(NOW - 200)["label"], history.plan(NOW - 200)["timeline"]) == ("a", "latest")
    assert (history.plan(None)["label"], history.plan(None)["archived"]) == ("c", NOW - 60)


@pytest.mark.parametrize(
    ("moment", "there", "reason"),
    [
        (NOW + 1, 1, "2026-11-29 23:30:31+00 has not come yet"),
        (None, 0, "there is no backup"),
        (NOW - 101, 1, "the oldest backup is of 2026-11-29 23:28:50+00: 2026-11-29 23:28:49+00 is before it"),
    ],
)
def test_a_restore_time_without_a_usable_backup_is_refused(
    program: types.ModuleType, backups: Callable[..., Any], moment: int | None, there: int, reason: str
) -> None:
    with pytest.raises(program.Failed) as failed:
        backups([("a", NOW - 100, wal(1)[0])] * there, wal(1)).plan(moment)
    assert str(failed.value) == reason


def test_a_failure_stays_until_a_later_backup(backups: Callable[..., Any]) -> None:
    history = backups([("a", NOW - 100, wal(1)[0])])
    history.note(full={"result": "no space", "tried": NOW - 50}, incr={"result": "no space", "tried": NOW - 150})
    history.aged(history.info()["backup"])
    assert history.state()["full"] == {"at": NOW - 100, "result": "no space", "tried": NOW - 50}
    assert history.state()["incr"]["result"] == "ok"


def test_problems_of_backups_are_recorded_in_the_state(
    backups: Callable[..., Any], program: types.ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    history = backups([("a", NOW - 9000, wal(1)[0])], wal(1))
    monkeypatch.setattr(history, "wal", lambda _info: {"result": "ok"}, raising=False)
    history.note(drill={"result": "it differs"})
    history.look()
    assert history.state()["wrong"] == [
        "the last full backup is 2.5 hours old",
        "the last backup is 2.5 hours old",
        "restore drill: it differs",
    ]
    assert history.state()["unproven"] == ["restore drill: it differs"]

    def refuse(**_where: int | str) -> None:
        raise program.psycopg2.Error("refused")

    monkeypatch.setattr(program.psycopg2, "connect", refuse, raising=False)
    empty = backups()
    empty.state_file.unlink()
    empty.look()
    assert empty.state()["wrong"] == ["WAL: no primary answers: refused"]
    monkeypatch.setattr(program.time, "time", lambda: NOW + 7201)  # nothing is missing before it could have come
    empty.look()
    assert empty.state()["wrong"][:2] == ["there has been no full backup yet", "there has been no backup yet"]


@pytest.mark.parametrize(
    ("typed", "seconds"),
    [
        ("1795995030", NOW),
        ("2026-11-29 23:30:30", NOW),
        ("2026-11-30T00:30:30+01:00", NOW),
        ("2026-11-29", NOW - 84630),
    ],
)
def test_moments_are_read_as_utc(program: types.ModuleType, typed: str, seconds: int) -> None:
    assert common.moment(typed) == seconds
    assert calendar.timegm(program.time.strptime(common.when(seconds), "%Y-%m-%d %H:%M:%S+00")) == seconds


def test_errors_of_a_log_are_summarised(program: types.ModuleType) -> None:
    log = "INFO: begin\nP00 ERROR: [082]: no WAL\nFATAL:  the database system is starting up\nP01 ERROR: [082]: no WAL\nINFO: end"
    assert common.complaint(log) == "ERROR: [082]: no WAL"
    assert common.complaint("one\ntwo\nthree") == "two three" and common.complaint("") == ""
