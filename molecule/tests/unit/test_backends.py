"""`make pool`: what is counted, from which lines, and how it is shown."""

import datetime
import json
import pathlib
import sys

import pytest

from controller.commands import backends
from plugins.modules import backend_counters as counters

POOLS = {"pages": {"10.0.0.1:8000": "app1", "10.0.0.2:8000": "app2"}, "files": {"10.0.0.3:8080": "media1"}}
USED = {"pages": {"10.0.0.1:8000", "10.0.0.9:8000"}, "files": {"10.0.0.3:8080"}}
TCP = """  sl  local_address rem_address   st tx_queue rx_queue
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000
   1: 0B00000A:8001 0100000A:1F40 01 00000000:00000000
   2: 0B00000A:8002 0100000A:1F40 01 00000000:00000000
   3: 0B00000A:8003 0200000A:1F40 06 00000000:00000000
"""


def line(
    second: int, upstream: str, upstream_status: str = "200", upstream_time: str = "0.010", status: str = "200"
) -> str:
    return (
        json.dumps(
            {
                "time": datetime.datetime.fromtimestamp(second, datetime.UTC).isoformat(),
                "upstream": upstream,
                "upstream_status": upstream_status,
                "upstream_time": upstream_time,
                "status": status,
            }
        )
        + "\n"
    )


def test_log_entries_are_read_backwards_to_a_time_across_a_rotation(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counters, "BLOCK", 50)  # less than a line
    log = tmp_path / "access.log"
    (tmp_path / "access.log.1").write_text("".join(line(second, "a") for second in (10, 20, 30)))
    log.write_text(line(40, "a") + line(50, "a") + '{"time": "2026-')
    seconds = [datetime.datetime.fromisoformat(entry["time"]).timestamp() for entry in counters.entries(str(log), 20)]
    assert seconds == [50, 40, 30, 20]
    assert not list(counters.entries(str(tmp_path / "none.log"), 0))


def test_requests_are_counted_for_every_host_and_idle_hosts_are_listed() -> None:
    requests = [
        json.loads(entry)
        for entry in (
            line(1, "10.0.0.1:8000", upstream_time="0.100"),
            line(2, "10.0.0.2:8000, 10.0.0.1:8000", "504, 200", "3.000, 0.300"),
            line(3, "10.0.0.1:8000", "-", "2.000", "499"),  # the visitor left
            line(4, ""),
        )
    ]
    hosts = {host["name"]: host for host in counters.counted(requests, POOLS, USED, TCP)}
    assert list(hosts) == ["app1", "app2", "10.0.0.9:8000", "media1"]
    assert [hosts["app1"][name] for name in ("requests", "failed", "open", "used", "slowest")] == [2, 0, 2, True, 0.3]
    assert hosts["app1"]["mean"] == pytest.approx(0.2)
    assert [hosts["app2"][name] for name in ("requests", "failed", "open", "used", "slowest")] == [1, 1, 0, False, 3.0]
    assert (hosts["media1"]["requests"], hosts["media1"]["mean"]) == (0, None)


def test_backends_that_nginx_uses_are_read_from_the_configuration() -> None:
    config = """
    upstream pages {
        zone pages 256k;
        server 10.0.0.1:8000 max_fails=1 fail_timeout=10s;  # app1
        server 10.0.0.2:8000 down;  # app2
        server 10.0.0.1:8000 backup max_fails=0;
    }
    upstream files {
        server 10.0.0.3:8080;
    }
    """
    assert counters.nginx_pools(config) == {"pages": {"10.0.0.1:8000"}, "files": {"10.0.0.3:8080"}}


def test_counters_of_perlbal_are_parsed() -> None:
    output = [
        "10.0.0.1:80 attempts 12",
        "10.0.0.1:80 responsecodes 200 11",
        "10.0.0.1:80 failures 1",
        "10.0.0.2:80 attempts 3",
    ]
    assert counters.perlbal_nodes(output) == {
        "10.0.0.1:80": {"attempts": 12, "failures": 1},
        "10.0.0.2:80": {"attempts": 3},
    }


def test_page_of_backends_lists_requests_of_every_host() -> None:
    hosts = counters.counted([json.loads(line(1, "10.0.0.1:8000"))], POOLS, USED, TCP)
    nginx = {"engine": "nginx", "holds": True, "hosts": hosts}
    perlbal = {
        "engine": "perlbal",
        "holds": False,
        "began": 40.0,
        "hosts": [host | {"requests_in_all": 70, "failed_in_all": 7} for host in hosts],
    }
    text, silent = backends.page(
        {"lb1": nginx, "lb2": perlbal, "lb3": {"unreachable": True}, "lb4": {"msg": "nobody home"}}, 5, 100.0
    )
    assert silent == ["lb3", "lb4"]
    assert "lb1   nginx, holds the virtual IP   the last 5 min\n" in text
    assert "lb2   perlbal, stands by   the last 5 min, and in all since it started 1 min ago" in text
    assert "lb3 does not answer over SSH" in text and "lb4 does not answer: nobody home" in text
    rows = [row.split() for row in text.splitlines()]
    assert ["pages", "app1", "1", "0", "0.010", "s", "0.010", "s", "2"] in rows
    assert ["pages", "app1", "1", "0", "0.010", "s", "0.010", "s", "2", "70", "7"] in rows
    assert ["pages", "app2", "0", "0", "-", "-", "0", "gets", "no", "new", "requests"] in rows
    assert any(row[:2] == ["pages", "10.0.0.9:8000"] and row[-4:] == ["not", "in", "the", "inventory"] for row in rows)


@pytest.mark.parametrize("minutes", ["x", "0", "-5", "nan"])
def test_minutes_must_be_a_positive_number(minutes: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["backends.py", "--inventory=inventories/local.yml", f"--minutes={minutes}"])
    with pytest.raises(SystemExit) as refusal:
        backends.main()
    assert f"MINUTES={minutes} is no number of minutes: make pool MINUTES=5" in str(refusal.value)
