"""Every service comes back by itself, with a limit and a back-off."""

from collections.abc import Iterator

import pytest
from target import Target

EVERYWHERE = ["ssh", "rsyslog", "munin-node", "systemd-journald"]
SERVICES = [
    ("lb", "nginx"),
    ("lb", "keepalived"),
    ("lb", "balancer-watch"),
    ("lb", "backend-watch"),
    ("app", "apache2"),
    ("app", "pgpool2"),
    ("app", "pgpool-follow"),
    ("media", "lighttpd"),
    ("cache", "memcached"),
    ("db", "patroni"),
    ("quorum", "etcd"),
    ("monitor", "nginx"),
    ("monitor", "nagios4"),
    ("monitor", "status-page"),
    ("db", "pgbackrest"),
    ("backup", "pgbackrest"),
    ("backup", "restic-rest-server"),
    *(("monitor", unit) for unit in EVERYWHERE),
]


def show(target: Target, host: str, unit: str) -> dict[str, str]:
    """systemd's properties of a unit."""
    return dict(line.split("=", 1) for line in target.on(host, f"systemctl show {unit}").splitlines() if "=" in line)


@pytest.fixture(scope="module", autouse=True)
def healthy_before_and_after(target: Target) -> Iterator[None]:
    """The tier is whole once all have been killed."""
    target.await_healthy()
    yield
    target.await_healthy()


@pytest.mark.parametrize(("group", "unit"), SERVICES, ids="-".join)
def test_a_killed_service_restarts(target: Target, group: str, unit: str) -> None:
    host = target.groups[group][-1]
    before = show(target, host, unit)
    target.on(host, f"kill -KILL {before['MainPID']}")

    def back() -> bool:
        now = show(target, host, unit)
        return now["ActiveState"] == "active" and now["MainPID"] not in ("0", before["MainPID"])

    target.wait(back, f"{unit} on {host}", 30)


@pytest.mark.parametrize(("group", "unit"), SERVICES, ids="-".join)
def test_a_service_has_a_restart_limit_and_a_back_off(target: Target, group: str, unit: str) -> None:
    told = show(target, target.groups[group][-1], unit)
    assert told["Restart"] == "always"
    if unit == "ssh":  # a host nobody can log in to helps nobody: it is tried for ever
        return
    assert told["StartLimitIntervalUSec"] != "0" and int(told["StartLimitBurst"]) <= 60
    if unit not in (
        "pgpool2",
        "systemd-journald",
    ):  # pgpool-follow has pgpool's back-off; without a journal the rest is blind
        assert told["RestartSteps"] == "5" and told["RestartMaxDelayUSec"] == "10s"
