"""`make pool` on the standing tier: what a balancer saw, whichever engine it runs."""

import re
from typing import Any

import pytest
from balancer import Balancer, Site, await_true
from fixtures import Make, OnHost
from tier import Tier

ASKED = 12


def statistics(make: Make, name: str) -> Any:
    """{host: (requests, failed)} of a balancer, as the operator reads it."""
    said = make("pool", "MINUTES=30")
    assert said.returncode == 0, said.stdout + said.stderr
    table = next(part for part in said.stdout.split("\n\n") if part.split()[:1] == [name]).strip().splitlines()[2:]
    return {row.split()[1]: tuple(map(int, row.split()[2:4])) for row in table}


@pytest.mark.needs(app=2)
def test_requests_and_failures_are_counted_for_each_host(tier: Tier, on: OnHost, site: Site, make: Make) -> None:
    balancer = site["balancers"][0]
    lb, broken = Balancer(tier, site, balancer["address"]), site["pools"]["media"]["hosts"][-1]
    apps = [app["name"] for app in site["pools"]["app"]["hosts"]]
    before = statistics(make, balancer["name"])
    assert list(before) == [host["name"] for pool in ("app", "media") for host in site["pools"][pool]["hosts"]]
    assert {lb.ask("/").status for _ in range(ASKED)} == {200}
    on(broken["name"]).check_output("systemctl stop lighttpd")
    try:
        # The hosts are asked in turn for what is not there; the one that is down might have it.
        assert {lb.ask(f"{site['urls'][0]}no-such-file").status for _ in range(ASKED)} <= {404, 502}
    finally:
        on(broken["name"]).check_output("systemctl start lighttpd")
    await_true(
        lambda: (
            on(broken["name"]).run(f"curl -so /dev/null {broken['address']}:{site['pools']['media']['port']}").rc == 0
        )
    )
    after = statistics(make, balancer["name"])
    assert sum(after[app][0] - before[app][0] for app in apps) >= ASKED
    assert after[broken["name"]][1] > before[broken["name"]][1]
    assert [app for app in apps if after[app][1] != before[app][1]] == []


def test_munin_counts_the_answers_to_visitors(tier: Tier, on: OnHost, site: Site) -> None:
    """By the balancer's log, which not everybody may read."""
    balancer = site["balancers"][0]
    assert Balancer(tier, site, balancer["address"]).ask("/").status == 200
    figures = on(balancer["name"]).check_output("munin-run answers_bytes; munin-run answers_status")
    values = {name: float(value) for name, value in re.findall(r"(?m)^(\w+)\.value (\S+)$", figures)}
    assert values["sent"] > 0 and values["s2"] > 0, figures
