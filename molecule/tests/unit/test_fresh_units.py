"""When a unit is started, reloaded or restarted: what systemd says of it, and the times of its files."""

import datetime
import os
import pathlib
import time
from collections.abc import Callable
from typing import Any

import pytest

from plugins.modules import fresh_units

SHOWN = """\
LoadState=loaded
ActiveState=active
StateChangeTimestamp=Wed 2026-11-25 10:00:00.250000 UTC
NeedDaemonReload=no
ConditionResult=no
ConditionTimestamp="""
RUNS = fresh_units.parse(SHOWN)


def unit(action: str, *files: pathlib.Path) -> Any:
    return {"name": "one", "action": action, "files": [str(file) for file in files]}


def changed(monkeypatch: pytest.MonkeyPatch, path: pathlib.Path, second: float | int) -> None:
    """A file that was changed at a second of that minute."""
    at = datetime.datetime(2026, 11, 25, 10, 0, tzinfo=datetime.UTC).timestamp() + second
    monkeypatch.setattr(fresh_units, "newest", lambda paths: at if str(path) in paths else 0)


def test_set_and_empty_properties_of_units_are_read() -> None:
    assert (RUNS["StateChangeTimestamp"], RUNS["ConditionTimestamp"]) == ("Wed 2026-11-25 10:00:00.250000 UTC", "")


@pytest.mark.parametrize("action", ["reload", "restart"])
def test_a_unit_older_than_a_watched_file_is_reloaded_or_restarted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path, action: str
) -> None:
    for second, needed in ((0.2, None), (0.25, None), (0.3, action)):
        changed(monkeypatch, tmp_path, second)
        assert fresh_units.needed(RUNS, unit(action, tmp_path)) == needed
    changed(monkeypatch, tmp_path / "other", 59)
    assert fresh_units.needed(RUNS, unit(action, tmp_path)) is None


@pytest.mark.parametrize(
    ("state", "reload", "restart"),
    [
        ({}, None, None),
        ({"ActiveState": "reloading"}, None, None),
        ({"ActiveState": "activating"}, None, None),
        ({"ActiveState": "inactive"}, "start", "start"),
        ({"ActiveState": "failed"}, "start", "start"),
        ({"ActiveState": "deactivating"}, "start", "start"),
        # Its condition says that it is not meant for this host; one that was never tried has not been asked.
        ({"ActiveState": "inactive", "ConditionTimestamp": "Wed 2026-11-25 09:00:00.000000 UTC"}, None, None),
        (
            {
                "ActiveState": "inactive",
                "ConditionResult": "yes",
                "ConditionTimestamp": "Wed 2026-11-25 09:00:00.000000 UTC",
            },
            "start",
            "start",
        ),
        # The unit's own file has changed: a reload would not take that over.
        ({"NeedDaemonReload": "yes"}, None, "restart"),
    ],
)
def test_a_unit_with_unchanged_files_is_started_only_if_the_state_requires_that(
    state: dict[str, str], reload: str | None, restart: str | None
) -> None:
    assert fresh_units.needed(RUNS | state, unit("reload")) == reload
    assert fresh_units.needed(RUNS | state, unit("restart")) == restart


def test_the_newest_change_is_read_at_any_depth(tmp_path: pathlib.Path) -> None:
    before = tmp_path.stat().st_ctime
    (tmp_path / "conf.d/deep").mkdir(parents=True)
    (tmp_path / "conf.d/deep/one").write_text("a")
    (tmp_path / "conf.d/dangling").symlink_to("nowhere")
    paths = [str(tmp_path / "none"), str(tmp_path / "conf.d")]
    deep = tmp_path / "conf.d/deep/one"
    assert fresh_units.newest([]) == fresh_units.newest([paths[0]]) == 0
    assert fresh_units.newest(paths) >= deep.stat().st_ctime >= before

    # A file that is moved into its place with an old date counts, too, and so does what is removed: its directory has changed.
    def touch_and_remove() -> None:
        (tmp_path / "conf.d/two").touch()
        (tmp_path / "conf.d/two").unlink()

    for change in (lambda: os.utime(deep, (1, 1)), touch_and_remove):
        last, deadline = fresh_units.newest(paths), time.monotonic() + 5
        while (
            fresh_units.newest(paths) == last and time.monotonic() < deadline
        ):  # the kernel's clock goes in steps of some milliseconds
            change()
        assert fresh_units.newest(paths) > last


@pytest.mark.parametrize(
    ("options", "actions", "commands"),
    [
        ({}, ["start one", "restart two"], ["daemon-reload", "start one", "restart two", "start four"]),
        (
            {"wait": False},
            ["start one", "restart two"],
            ["daemon-reload", "start one --no-block", "restart two --no-block"],
        ),
        ({"check": True}, ["start one", "restart two"], []),
    ],
)
def test_systemctl_commands_match_the_states_of_units(
    execute: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, bool],
    actions: list[str],
    commands: list[str],
) -> None:
    """A unit that failed, one whose own file has changed, one that is not installed, one that is being started and one that is as it should be."""
    states = [
        {"ActiveState": "failed"},
        {"NeedDaemonReload": "yes"},
        {"LoadState": "not-found", "ActiveState": "inactive"},
        {"ActiveState": "activating"},
        {},
    ]
    executed = []

    def run_command(_module: Any, command: list[str], check_rc: bool) -> tuple[int, str, str]:
        assert check_rc and command[0] == "systemctl"
        if command[1] == "show":
            return (
                0,
                "\n\n".join("\n".join(f"{name}={value}" for name, value in (RUNS | state).items()) for state in states)
                + "\n",
                "",
            )
        executed.append(" ".join(command[1:]))
        return 0, "", ""

    monkeypatch.setattr(fresh_units.AnsibleModule, "run_command", run_command)
    done = execute(
        fresh_units,
        units=[unit("restart") | {"name": name} for name in ("one", "two", "three", "four", "five")],
        **options,
    )
    assert (done["changed"], done["actions"], executed) == (True, actions, commands)
    states[:] = [{}] * 5
    executed.clear()
    done = execute(
        fresh_units,
        units=[unit("restart") | {"name": name} for name in ("one", "two", "three", "four", "five")],
        **options,
    )
    assert (done["changed"], done["actions"], executed) == (False, [], [])
