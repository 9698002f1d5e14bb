"""What a host finds out about itself for `make status`: the parts that need no tier."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from ansible.module_utils import host_health, service_health

# systemctl list-units --all --full --plain --no-legend
LISTED = """\
rsyslog.service      loaded    active     running      System Logging Service
apache2.service      loaded    reloading  reload       The Apache HTTP Server
pgpool2.service      loaded    activating auto-restart pgpool-II
etcd.service         not-found inactive   dead         etcd.service
nginx.service        loaded    failed     failed       A high performance web server
media-sync.timer     loaded    active     waiting      Copy uploads
"""


def test_inactive_and_failed_units_are_problems(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_health.subprocess, "run", lambda *_args, **_more: type("Done", (), {"stdout": LISTED}))
    app1 = host_health.Host({"all": {}}, {})
    app1.services(["rsyslog", "apache2", "pgpool2", "etcd", "media-sync.timer", "keepalived"])
    assert app1.wrong == [
        f"{unit} {what}: systemctl status {unit}"
        for unit, what in [
            ("etcd.service", "is not running"),
            ("keepalived.service", "is not running"),
            ("nginx.service", "failed"),
            ("pgpool2.service", "is not running"),
        ]
    ]


# A container has its machine's clock
@pytest.mark.parametrize(
    ("unit", "up_s", "properties", "wrong"),
    [
        ("systemd-timesyncd.service", 3600, "NTP=yes\nNTPSynchronized=no\n", True),
        ("chrony.service", 3600, "NTPSynchronized=no\n", True),
        ("chrony.service", 60, "NTPSynchronized=no\n", False),  # it has just booted
        ("chrony.service", 3600, "NTPSynchronized=yes\n", False),
        ("chrony.service", 3600, "", False),
        ("cron.service", 3600, "NTPSynchronized=no\n", False),
    ],
)  # a container has its machine's clock
def test_an_unsynchronised_clock_is_a_problem(
    unit: str, up_s: int, properties: str, wrong: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_health, "output", lambda *_args: properties)
    monkeypatch.setattr(host_health.time, "clock_gettime", lambda _clock: up_s)
    app1 = host_health.Host({"all": {}}, {})
    app1.clock({unit: "active"})
    assert app1.wrong == (
        [f"no time server has told it the time: journalctl -u {unit.removesuffix('.service')}"] if wrong else []
    )


@contextlib.contextmanager
def server(*parts: Any, waits: float = 0.0) -> Iterator[tuple[int, list[Any]]]:
    """The port of a server that answers one connection with some parts, with a pause before the last, and notes the request in heard."""
    heard, done = [], threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            connection, _peer = listening.accept()
            with connection:
                heard.append(connection.recv(65536))
                for index, part in enumerate(parts):
                    if index == len(parts) - 1:
                        done.wait(waits)
                    connection.sendall(part)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listening.getsockname()[1], heard
        done.set()
        thread.join(5)


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([b"HTTP/1.1 200 OK\r\n\r\nbody"], (200, "body")),
        ([b"HTTP/1.0 503 Service ", b"Unavailable\r\nA: b\r\n\r", b'\n{"a":\r\n\r\n 1}'], (503, '{"a":\r\n\r\n 1}')),
        ([b"HTTP/1.1 204 No Content\r\n\r\n"], (204, "")),
        ([b"SSH-2.0-OpenSSH\r\n"], (None, "no answer by HTTP")),
        ([b""], (None, "no answer by HTTP")),
    ],
)
def test_answers_are_read_to_their_end(parts: list[bytes], expected: Any) -> None:
    with server(*parts) as (port, heard):
        assert host_health.http_get("127.0.0.1", port, "/path") == expected
        assert heard == [f"GET /path HTTP/1.0\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode()]


def test_an_incomplete_http_answer_is_none() -> None:
    with server(b"HTTP/1.1 200 OK\r\n\r\n", b"more", waits=5) as (port, _heard):
        assert host_health.http_get("127.0.0.1", port, "/", 0.2)[0] is None


def test_a_port_without_a_listener_gives_no_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    assert host_health.http_get("127.0.0.1", port, "/")[0] is None
    assert host_health.json_get("127.0.0.1", port, "/") == {}


def test_later_returns_the_result_or_raises_the_error() -> None:
    assert host_health.Later(lambda first, second: first + second, 1, 2).result() == 3
    with pytest.raises(ZeroDivisionError):
        host_health.Later(lambda: 1 / 0).result()


def test_hosts_are_queried_in_parallel() -> None:
    both = threading.Barrier(2, timeout=5)
    app1 = host_health.Host(
        {"all": {"db1": "192.0.2.2", "db2": "192.0.2.3"}, "db": {"db1": "192.0.2.2", "db3": "192.0.2.4"}}, {}
    )
    app1.uses(
        "databases", "db", ["192.0.2.2", "192.0.2.3"], lambda address: both.wait() >= 0 and address == "192.0.2.2"
    )
    app1.record_answers()
    assert app1.sees == {"databases": {"db1": True, "db2": False}}
    assert app1.wrong == [
        "does not know db3 of its databases: make converge",
        "still has db2 among its databases, which the inventory has not: make converge",
    ]
    assert app1.unanswered == ["gets no answer from db2 of its databases"]


@pytest.mark.parametrize(
    ("sent", "monitor", "seconds"), [("ESTAB", False, None), ("", False, 40.0), ("ESTAB", True, 40.0)]
)
def test_the_age_of_rsyslog_is_read_on_senders_only(
    monkeypatch: pytest.MonkeyPatch, sent: str, monitor: bool, seconds: float | None
) -> None:
    def output(command: str, *_args: str, **_environment: object) -> str:
        return sent if command == "ss" else "60000000\n"

    monkeypatch.setattr(host_health, "output", output)
    monkeypatch.setattr(host_health.time, "clock_gettime", lambda _clock: 100.0)
    app1 = host_health.Host(
        {"all": {}, "monitor": {"monitor1": "192.0.2.9"} | ({"app1": "192.0.2.1"} if monitor else {})},
        {"address": "192.0.2.1", "log_port": 601},
    )
    app1.logs()
    assert app1.raw["logs"] == {"seconds": seconds, "to": {"monitor1": bool(sent)}}


@pytest.mark.parametrize(
    ("problems", "expected"),
    [
        (
            service_health.site_problems(None),
            ["the site does not answer: systemctl status apache2; journalctl -u apache2"],
        ),
        (service_health.site_problems({"release": "a", "django": "ok", "cache": "no answer"}), ["cache: no answer"]),
        (service_health.site_problems({"django": "ok", "database": "ok", "cache": "ok"}), []),
        (service_health.patroni_problems({}), ["its Patroni does not answer: systemctl status patroni"]),
        (service_health.patroni_problems({"state": "running"}), []),
        (
            service_health.patroni_problems({"state": "starting", "pending_restart": True}),
            ["PostgreSQL is starting: journalctl -u patroni", "PostgreSQL waits for a restart to take a setting"],
        ),
        (service_health.etcd_problems({"health": "true"}), []),
        (service_health.etcd_problems({"health": "false"}), ["its etcd is not in the quorum: systemctl status etcd"]),
        (service_health.etcd_problems(None), ["its etcd is not in the quorum: systemctl status etcd"]),
    ],
)
def test_answers_of_services_are_judged(problems: list[str], expected: list[str]) -> None:
    assert problems == expected


def test_databases_of_pgpool_are_read() -> None:
    output = (
        "192.0.2.1 5432 2 0.5 up up primary primary 0 none\n192.0.2.2 5432 3 0.5 down down standby standby 0 none\n"
    )
    assert service_health.pgpool_nodes(output) == [
        {"address": "192.0.2.1", "up": True, "primary": True},
        {"address": "192.0.2.2", "up": False, "primary": False},
    ]
    assert service_health.pgpool_nodes("") == []


@pytest.mark.parametrize(
    ("silent", "wrong"),
    [
        ((), []),
        ((8000,), ["the site does not answer: systemctl status apache2; journalctl -u apache2"]),
        ((8080,), ["its lighttpd does not answer: systemctl status lighttpd"]),
        ((8081,), ["its lighttpd does not answer: systemctl status lighttpd"]),
        ((11211,), ["its memcached does not answer: systemctl status memcached"]),
        ((2381,), ["its etcd is not in the quorum: systemctl status etcd"]),
    ],
)
def test_playbooks_await_the_services_that_others_use(
    monkeypatch: pytest.MonkeyPatch, silent: tuple[int, ...], wrong: list[str]
) -> None:
    """Not what else `make status` says of a host: a full disk keeps nobody from a restart."""
    answers = {8000: {"django": "ok"}, 2381: {"health": "true"}}
    monkeypatch.setattr(host_health, "json_get", lambda _a, port, *_more: {} if port in silent else answers[port])
    monkeypatch.setattr(host_health, "connects", lambda _a, port: port not in silent)
    ports = {"app_port": 8000, "media_port": 8080, "media_upload_port": 8081, "cache_port": 11211}
    tiers = ("all", "app", "media", "cache", "quorum", "db", "lb")
    facts = ports | {"etcd_metrics_port": 2381, "tiers": list(tiers[1:])}
    found = host_health.check("box1", dict.fromkeys(tiers, ["box1"]), {"box1": "192.0.2.1"}, facts, services_only=True)
    assert found["wrong"] == found["wrong_itself"] == wrong
    groups = {"all": ["box1", "box2"], "app": ["box1"]}
    other = host_health.check("box2", groups, {"box1": "192.0.2.1", "box2": "192.0.2.2"}, facts, services_only=True)
    assert other["wrong"] == []
