"""`make logs`: which lines are found, and how they are shown."""

import datetime
import gzip
import os
import pathlib
from typing import Any

import pytest
from ansible.module_utils import log_search

from controller.commands import logs

ID = "0123456789abcdef0123456789abcdef"
NOW = datetime.datetime(2026, 11, 25, 18, 0, tzinfo=datetime.UTC)


def line(second: int, host: str, text: str, zone: str = "+00:00") -> str:
    return f"2026-11-25T18:00:{second:02}.5{second:05}{zone} {host} {text}"


LB = [
    line(3, "lb1", 'nginx-access: {"request_id":"%s"}' % ID),
    line(9, "lb1", "nginx: [notice]"),
    line(1, "lb1", "nginxed[7]: other"),
]
APP = [
    line(2, "app1", f"apache2[17]: WARNING django.request [{ID}] Not Found: /none"),
    line(2, "app1", "pgpool[9]: a line"),
]
DB = [
    line(1, "db1", f"patroni[5]: 12 site@site 10.0.0.1 LOG:  duration: 700 ms  statement: /* request={ID} */ SELECT 1")
]
OWN = [line(8, "monitor1", f"ansible-log_lines[4]: Invoked with request={ID}")]


@pytest.fixture
def store(tmp_path: pathlib.Path) -> pathlib.Path:
    """Logs as a monitor keeps them, one of them rotated and compressed."""
    for name, lines in {"lb1.log": LB, "app1.log": APP, "monitor1.log": OWN}.items():
        (tmp_path / name).write_text("".join(f"{line}\n" for line in lines))
    (tmp_path / "app1.log.1").write_text("half a l")
    with gzip.open(tmp_path / "db1.log.2.gz", "wt") as file:
        file.write("\n".join(DB) + "\n")
    return tmp_path


def test_a_request_is_searched_on_every_host_in_order_of_time(store: pathlib.Path) -> None:
    assert log_search.search(store, request=ID) == ([DB[0], APP[0], LB[0]], 0)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"host": "app1"}, APP),
        ({"host": "app*"}, APP),
        ({"host": "app"}, []),
        ({"unit": "nginx"}, [LB[0], LB[1]]),
        ({"unit": "nginx-access"}, [LB[0]]),
        ({"host": "lb1", "unit": "apache2"}, []),
        ({"host": "lb1", "since": (NOW + datetime.timedelta(seconds=5)).timestamp()}, [LB[1]]),
    ],
)
def test_lines_are_chosen_by_host_name_and_time(store: pathlib.Path, query: Any, expected: list[str]) -> None:
    assert log_search.search(store, **query) == (expected, 0)


def test_a_file_that_ends_before_the_time_is_not_read(store: pathlib.Path) -> None:
    os.utime(store / "lb1.log", (1, 1))
    assert log_search.files(store, "lb1", 2) == []
    assert log_search.search(store, host="lb1", since=0)[0]


def test_the_newest_lines_are_kept_above_the_limit(store: pathlib.Path) -> None:
    assert log_search.search(store, host="lb1", most=2) == (LB[:2], 1)


def test_an_incomplete_compressed_file_is_read_to_the_end(store: pathlib.Path) -> None:
    path = store / "db1.log.2.gz"
    path.write_bytes(path.read_bytes()[:-6])
    assert log_search.search(store, host="db1") == (DB, 0)


@pytest.mark.parametrize(
    ("typed", "seconds"),
    [("", None), ("30m", 1800), ("2h", 7200), ("1d", 86400), ("2026-11-25 17:30", 1800), ("2026-11-25T17:30", 1800)],
)
def test_since_takes_durations_and_times(typed: str, seconds: int | None) -> None:
    assert logs.moment(typed, NOW) == (0 if seconds is None else NOW.timestamp() - seconds)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("", "", "", ""), "What for?"),
        ((ID + "'", "", "", ""), "REQUEST="),
        (("", "app1;", "", ""), "HOST="),
        (("", "", "a b", ""), "UNIT="),
        (("", "", "", "yesterday"), "SINCE=yesterday is no moment"),
    ],
)
def test_invalid_search_arguments_are_refused(arguments: tuple[str, str, str, str], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence.replace("?", r"\?")):
        logs.search_arguments(*arguments, NOW)


def test_search_arguments_are_parsed() -> None:
    assert logs.search_arguments(ID, "app1", "", "1h", NOW) == {
        "request": ID,
        "host": "app1",
        "unit": "",
        "since": NOW.timestamp() - 3600,
    }


def test_lines_of_monitors_are_merged_and_silent_monitors_are_named() -> None:
    later = line(1, "b", "words", "-01:00")
    lines, missing = logs.page(
        {
            "monitor1": {"lines": [DB[0], LB[0]], "left_off": 0},
            "monitor2": {"lines": [DB[0], later], "left_off": 3},
            "monitor3": {"unreachable": True},
            "monitor4": {"msg": "no room"},
        }
    )
    assert lines == [DB[0], LB[0], later]
    assert missing == [
        "3 older lines are left off: ask for less",
        "monitor3 does not answer over SSH",
        "monitor4 does not answer: no room",
    ]
