"""`make parity` and `make drift`: like itself, or staging like production; then with a fault of every kind planted, then as before."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fixtures import Make
from target import Target, run
from tier import Tier

# A digest of what a look must leave alone: files, packages, users, units, kernel settings that do not count.
STATE = (
    "{ find /etc /usr/local /srv/*/tier -xdev -type f -exec stat -c '%n %Y %a %U' {} + | sort; dpkg-query -W; cat /etc/passwd; "
    "systemctl list-unit-files --no-legend; cat /proc/sys/net/core/somaxconn; } | sha256sum"
)

PACKAGE = (
    "mkdir -p /var/tmp/parity/tier-probe/DEBIAN && cd /var/tmp/parity && "
    "printf 'Package: tier-probe\\nVersion: %s\\nArchitecture: all\\nMaintainer: test <root@localhost>\\nDescription: probe\\n' {version}"
    " > tier-probe/DEBIAN/control && dpkg-deb --build tier-probe one.deb && dpkg --install one.deb"
)
# {host: [(command that plants it, command that removes it, its report)]}
Faults = dict[str, list[tuple[str, str, str]]]
INDEX = "budget_stor_status_722bec_idx"


@pytest.fixture(scope="module", name="state")
def state_fixture(target: Target) -> Callable[[], dict[str, str]]:
    """state() is a digest of every host."""
    return lambda: {host: target.on(host, STATE) for host in target.groups["all"]}


@pytest.fixture(scope="module", name="faults")
def faults_fixture(target: Target) -> Faults:
    """{host: [(plant, undo, what is said of it)]}: one fault of each kind on the last host of a pool, everything but the index."""
    lb, app, media, cache = (target.groups[pool][-1] for pool in ("lb", "app", "media", "cache"))
    standby = target.standby()
    return {
        # A converge mends it
        lb: [("sed -i 's/^}$/# by hand\\n}/' /etc/logrotate.d/nginx", "true", "/etc/logrotate.d/nginx")],
        media: [(PACKAGE.format(version="2"), "dpkg --purge tier-probe; rm -rf /var/tmp/parity", "package tier-probe")],
        app: [
            ("useradd --uid 1777 --create-home --shell /bin/bash mallory", "userdel --remove mallory", "user mallory")
        ],
        cache: [
            (
                "systemd-run --unit probe-port python3 -m http.server 4444",
                "systemctl stop probe-port",
                "port tcp 0.0.0.0:4444",
            )
        ],
        standby: [
            ("echo '* * * * * root true' > /etc/cron.d/probe", "rm -f /etc/cron.d/probe", "file /etc/cron.d/probe")
        ],
    }


@pytest.fixture(name="kernel")
def kernel_fixture(target: Target) -> Iterator[str]:
    """A host with a kernel setting of its own. Docker mounts them for reading; this machine writes them."""
    host = target.standby()

    def write(value: str) -> None:
        run("nsenter", "-t", str(target.pid(host)), "-n", "sysctl", "-qw", f"net.core.somaxconn={value}")

    before = target.on(host, "cat /proc/sys/net/core/somaxconn")
    write("1234")
    yield host
    write(before)


@pytest.fixture(name="mates")
def mates_fixture(target: Target, faults: Faults) -> Any:
    """Another host of the pool with the planted package, at another version."""
    host = target.groups["media"][0]
    target.on(host, PACKAGE.format(version="1"))
    yield host
    target.on(host, "dpkg --purge tier-probe; rm -rf /var/tmp/parity")


def test_drift_reports_every_planted_fault(
    target: Target, make: Make, tier: Tier, faults: Faults, mates: Any, kernel: str
) -> None:
    planted = [(host, *fault) for host, several in faults.items() for fault in several]
    definition = target.sql(f"select pg_get_indexdef('{INDEX}'::regclass)")
    with contextlib.ExitStack() as undone:
        for host, plant, undo, _name in planted:
            undone.callback(target.try_on, host, undo)
            target.on(host, plant)
        undone.callback(target.sql, definition)
        target.sql(f"drop index {INDEX}")
        done = make("drift")
    assert "Error 1" in done.stderr, done.stdout[-4000:] + done.stderr[-2000:]  # make ends with 2 for whatever fails
    said = done.stdout.partition("  declared (")[0]
    for host, _plant, _undo, name in planted:
        assert name in said, f"{name} on {host}:\n{said}"
    blocks = {name: said.split(name, 1)[1][:300] for _host, _plant, _undo, name in planted}
    assert [host for host, _plant, _undo, name in planted if host not in blocks[name]] == [], said
    assert INDEX in said
    assert kernel in said.split("kernel net.core.somaxconn", 1)[1][:300]
    assert "tier-probe" in said and "1" in blocks["package tier-probe"] and "2" in blocks["package tier-probe"]
    report = (tier.state / "drift.html").read_text()
    assert all(name.split()[-1] in report for *_rest, name in planted)


def test_parity_reports_no_difference_and_changes_nothing(
    target: Target, make: Make, tier: Tier, state: Callable[[], dict[str, str]]
) -> None:
    """As it was after the rebuild, which ends with the same look (molecule/tests/rehearsal)."""
    assert make("site", f"LIMIT={target.groups['lb'][-1]}", "TAGS=nginx").returncode == 0
    target.await_healthy()
    before = state()
    done = make("parity", f"WITH={'production' if tier.name == 'staging' else tier.name}")
    assert done.returncode == 0 and "0 differences" in done.stdout, done.stdout[-4000:] + done.stderr[-2000:]
    assert state() == before


def test_no_secret_is_in_a_report(tier: Tier) -> None:
    secrets = [
        tier.value(name, "app[0]") for name in ("site_secret_key", "db_site_password", "monitor_password", "tls_key")
    ]
    # The page wraps each line; the first and last one of a key are in every key.
    lines = [line for secret in secrets for line in secret.splitlines() if line and not line.startswith("-----")]
    assert len(lines) > len(secrets)
    for report in (tier.state / "parity.html", tier.state / "drift.html"):
        text = report.read_text()
        assert not [line for line in lines if line in text], report
