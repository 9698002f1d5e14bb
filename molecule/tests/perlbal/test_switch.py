"""Faults behind and of perlbal under load, within the limits that nginx has; then nginx takes over again, and nobody notices."""

import re
from collections.abc import Iterator

import drills
import pytest
from fixtures import Make, OnHost, Unaffected
from target import Target
from tier import Tier
from visitors import Load


@pytest.fixture(name="load", scope="module")
def load_fixture(target: Target) -> Iterator[Load]:
    """Visitors and writers, for both drills."""
    target.await_healthy()
    with Load(target) as load:
        yield load


@pytest.mark.parametrize("name", ["balancer_stopped", "app_killed"])
def test_the_drill_with_perlbal_stays_within_limits(target: Target, load: Load, name: str) -> None:
    row = drills.measure(target, drills.DRILLS[name], load)
    print(drills.line(drills.cells(name, row)))
    excess = drills.excess(row, drills.DRILLS[name])
    assert not excess, f"{excess}: {row['failures']}"


def test_the_switch_to_nginx_fails_no_request(
    tier: Tier, on: OnHost, make: Make, visitors_unaffected: Unaffected
) -> None:
    with visitors_unaffected():
        done = make("site", "LIMIT=lb", "VARS=lb_engine=nginx")
        assert done.returncode == 0, done.stdout[-3000:]
    for name in tier.hosts("lb"):
        assert on(name).run("systemctl is-active nginx perlbal").stdout.split() == ["active", "inactive"]
        assert on(name).run("systemctl is-enabled nginx perlbal").stdout.split() == ["enabled", "disabled"]
    again = make("site", "LIMIT=lb", "VARS=lb_engine=nginx", "CHECK=1")
    assert again.returncode == 0 and set(re.findall(r"changed=(\d+)", again.stdout)) == {"0"}, again.stdout[-3000:]
