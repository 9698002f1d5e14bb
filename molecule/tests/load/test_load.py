"""`make load` on the standing tier: a few visitors, for a short while."""

import re

from fixtures import Make
from target import Target
from tier import Tier, output_of

from controller.tiers import POOLS


def test_make_load_measures_visitors_and_hosts(make: Make, target: Target, tier: Tier) -> None:
    target.await_healthy()
    done = make("load", "USERS=6", "SECONDS=10")
    assert done.returncode == 0, output_of(done)[-3000:]
    rows = {
        line.split()[0]: line.split()
        for line in done.stdout.splitlines()
        if re.match(r"  (page|static|media|session|change|all) +\d", line)
    }
    assert {"page", "static", "all"} <= set(rows) and int(rows["all"][1]) > 30 and rows["all"][2] == "0", output_of(
        done
    )
    assert "bottleneck" in done.stdout
    for host in (host for tier_name in POOLS for host in target.groups[tier_name]):
        assert re.search(rf" {host} +\d+% ", done.stdout), f"{host} did not tell"
    tiers = {
        line.split("  ")[1]: line
        for line in done.stdout.splitlines()
        if re.match(r"  (balancers|app hosts|media hosts) +requests +\d", line)
    }
    assert set(tiers) == {"balancers", "app hosts", "media hosts"}
    assert re.search(r"  cache +lookups, \d+% found +\d", done.stdout) and re.search(
        r"  databases +transactions +\d+ +\d+ ", done.stdout
    ), output_of(done)
    report = (tier.state / "load.html").read_text()
    assert "What visitors got" in report and all(host in report for host in target.groups["app"])
    assert not (tier.state / "load/plan.json").exists()
    assert target.sql("select count(*) from auth_user where username = 'load'") == "0"
    assert target.sql("select count(*) from ledger_entry where text = 'load'") == "0"
    target.await_healthy()


def test_users_that_are_no_number_are_refused(make: Make) -> None:
    done = make("load", "USERS=many")
    assert done.returncode != 0 and "Nothing was touched. USERS=many is no number" in output_of(done)
