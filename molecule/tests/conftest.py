"""What every test of the tier shares: the environment's values, and a visitor outside it."""

import contextlib
import json
import os
import pathlib
import subprocess
import sys
import time

import pytest
import requests
import testinfra

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "molecule"))
import balancer
import drill
from tier import Tier


@pytest.fixture(scope="session")
def tier(request):
    """The environment named by --ansible-inventory."""
    return Tier(request.config.getoption("ansible_inventory") or ROOT / "inventories/local.yml")


@pytest.fixture(name="on", scope="session")
def on_fixture(tier):
    """on("app1") is that host, to run commands on as root."""
    return lambda name: testinfra.get_host(f"ansible://{name}", ansible_inventory=tier.inventory, sudo=True)


@pytest.fixture
def visitor(tier):
    """A browser's session outside the tier, trusting the environment's own authority."""
    with requests.Session() as session:
        session.trust_env = False  # else a bundle named in the environment overrides verify
        session.verify = tier.authority
        yield session


@pytest.fixture(name="site", scope="session")
def site_fixture(tier):
    """What the inventory says about the balancers and those behind them."""
    return balancer.described(tier)


@pytest.fixture(name="lb")
def lb_fixture(host, tier, site):
    """The balancer under test."""
    address, = [lb["address"] for lb in site["balancers"] if lb["name"] == host.backend.host]
    return balancer.Balancer(tier, site, address)


@pytest.fixture(scope="session")
def log(site):
    """The access log of a balancer."""
    return f"/var/log/{site['engine']}/access.log"


@pytest.fixture(scope="session")
def place(tier):
    """The tier, to break."""
    return drill.Place(tier.name)


@pytest.fixture(scope="session")
def make(tier):
    """make("status") runs a verb on the tier, as an operator does; the finished process, with its output."""
    env = dict(os.environ, MAKEFLAGS="", ANSIBLE_NOCOLOR="true", ANSIBLE_FORCE_COLOR="false")
    laid_over = [f"VARS={word}" for word in tier.options[1:]]
    return lambda *words: subprocess.run(["make", "--no-print-directory", *laid_over, *words, f"ENV={tier.name}"],
                                         cwd=ROOT, env=env, capture_output=True, text=True, check=False)


@pytest.fixture(name="unharmed")
def unharmed_fixture(place):
    """with unharmed() as load: whatever happens to the tier, no visitor notices, and nothing acknowledged is lost."""
    @contextlib.contextmanager
    def unharmed(**pace):
        place.whole()
        with drill.Load(place, **{"pace": 0.25, "connect": 5.0, **pace}) as load:
            load.mark()
            begun = time.time()
            yield load
            load.await_service(time.time())
            requests, commits = load.requests(begun), load.commits(begun)
            assert [f"{r.kind}: {r.failure}" for r in requests if r.failure] == []
            assert load.unkept(commits) == ([], 0)
            print(f"{len(requests)} requests, 0 failed; {len(commits)} commits, 0 lost")
        place.whole()
    return unharmed


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
    """Record each outcome, so that `make test` can tell which tests never ran."""
    report = yield
    ledger = os.environ.get("TEST_LEDGER")
    if ledger and (report.when == "call" or report.outcome != "passed"):
        crash = getattr(report.longrepr, "reprcrash", None)
        why = f"{item.name}: {crash.message if crash else report.longrepr}"[:600] if report.failed else ""
        with open(ledger, "a", encoding="utf-8") as lines:
            print(json.dumps([os.environ.get("TEST_STEP"), f"{item.path.relative_to(ROOT)}::{item.originalname}", report.outcome, why]), file=lines)
    return report
