"""What a media host brings back and deletes to be as it was at a moment."""

import hashlib
import json
import os
import pathlib
import sys

import pytest
from repository import program

restore = program("roles/restic/files/media-restore")
sync = program("roles/lighttpd/files/media-sync")
S = 10**9
MOMENT = 1_800_000_000 * S
ODD = os.fsdecode(b"\xff*[a]?.txt")


def upload(root: pathlib.Path, name: str, at: int) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text("x")
    os.utime(root / name, ns=(at, at))


def delete(root: pathlib.Path, name: str, at: int) -> None:
    """As delete.lua does."""
    note = root / ".sync/deleted" / hashlib.sha256(os.fsencode(name)).hexdigest()
    note.parent.mkdir(parents=True, exist_ok=True)
    note.write_bytes(os.fsencode(name))
    os.utime(note, ns=(at, at))


@pytest.mark.parametrize(
    ("in_backup", "here", "deleted", "back", "away"),
    [
        (True, -5, None, False, False),  # as it was
        (True, None, None, True, False),  # lost
        (True, None, 5, True, False),  # deleted since
        (True, None, -5, False, False),  # between the backup and the moment it was deleted
        (True, 5, None, True, False),  # replaced since
        (True, 5, -5, False, True),  # deleted before the moment, and uploaded again since
        (True, 0, None, False, False),  # at the moment itself
        (False, 5, None, False, True),  # uploaded since
        (False, -5, None, False, False),  # uploaded between the backup and the moment
        (False, None, 5, False, False),
    ],
)
def test_uploads_are_restored_or_deleted_by_time(
    tmp_path: pathlib.Path, in_backup: bool, here: int | None, deleted: int | None, back: bool, away: bool
) -> None:
    if here is not None:
        upload(tmp_path, "a/b", MOMENT + here * S)
    if deleted is not None:
        delete(tmp_path, "a/b", MOMENT + deleted * S)
    then = {"a/b": (MOMENT - 9 * S, 1)} if in_backup else {}
    assert restore.needed(tmp_path, MOMENT, then, restore.on_host(tmp_path)) == (["a/b"] * back, ["a/b"] * away)


def test_newer_uploads_are_deleted_where_no_backup_is_older(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where no backup is older: nothing comes back."""
    root = tmp_path / "uploads"
    upload(root, "before", MOMENT - S)
    for name in ("since", ODD, "dir/since", ".sync/index"):
        upload(root, name, MOMENT + S)
    monkeypatch.setattr(restore, "restic", lambda *_args: "[]")
    monkeypatch.setattr(restore.time, "time_ns", lambda: MOMENT + 9 * S)
    monkeypatch.setattr(sys, "argv", ["media-restore", str(root), str(MOMENT // S)])
    restore.main()
    assert capsys.readouterr().out == "deleted dir/since\ndeleted since\ndeleted \\udcff*[a]?.txt\n"
    assert set(restore.on_host(root)) == {"before"}
    store = sync.Store(root)
    store.read(30)
    assert store.deleted == {name: MOMENT + 9 * S for name in ("since", ODD, "dir/since")}
    assert not store.wants("since", MOMENT + S, 1) and store.wants("since", MOMENT + 10 * S, 1)
    restore.main()  # again: nothing is left to do
    assert set(restore.on_host(root)) == {"before"}


@pytest.mark.parametrize(
    ("text", "stamp"),
    [
        ("2026-11-29T23:30:30.8614947Z", 1795995030_861494700),
        ("2026-11-30T00:30:30.000000001+01:00", 1795995030_000000001),
        ("2026-11-29T23:30:30Z", 1795995030 * S),
        ("2026-11-29T18:00:30.5-05:30", 1795995030_500000000),
    ],
)
def test_times_are_read_to_the_nanosecond(text: str, stamp: int) -> None:
    assert restore.stamp(text) == stamp


@pytest.mark.parametrize(
    ("moment", "expected"),
    [
        ("2026-11-29T09:00:00Z", None),
        ("2026-11-29T10:00:00Z", "a"),
        ("2026-11-29T23:00:00Z", "b"),
        ("2026-11-30T23:00:00Z", "b"),
    ],
)
def test_the_newest_backup_with_files_before_the_time_is_used(
    monkeypatch: pytest.MonkeyPatch, moment: str, expected: str | None
) -> None:
    backups = [
        ("a", "2026-11-29T10:00:00.0Z", 3),
        ("b", "2026-11-29T22:00:00.123456789Z", 3),
        ("empty", "2026-11-30T10:00:00Z", 0),
        ("later", "2026-12-24T10:00:00Z", 3),
    ]
    monkeypatch.setattr(
        restore,
        "restic",
        lambda *_args: json.dumps(
            [{"id": name, "time": at, "summary": {"total_files_processed": files}} for name, at, files in backups]
        ),
    )
    assert restore.newest(restore.stamp(moment)) == expected


def test_only_files_below_the_uploads_are_read_from_a_backup(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    nodes = [
        {"message_type": "snapshot", "paths": [str(tmp_path)]},
        {"type": "dir", "path": f"{tmp_path}/a", "mtime": "2026-11-29T23:30:30Z"},
        {"type": "file", "path": f"{tmp_path}/a/b", "mtime": "2026-11-29T23:30:30.5Z", "size": 3},
        {"type": "file", "path": f"{tmp_path}/empty", "mtime": "2026-11-29T23:30:30Z"},
        {"type": "file", "path": f"{tmp_path}2/c", "mtime": "2026-11-29T23:30:30Z"},
    ]
    monkeypatch.setattr(restore, "restic", lambda *_args: "\n".join(map(json.dumps, nodes)))
    assert restore.in_backup(tmp_path, "id") == {"a/b": (1795995030_500000000, 3), "empty": (1795995030 * S, 0)}
