"""What every test of the tier shares: the environment's values, and a visitor outside it."""

import contextlib
import functools
import json
import os
import time
from collections.abc import Generator, Iterator

import balancer
import pytest
import requests
from balancer import Balancer, Site
from fixtures import Make, OnHost, Unaffected
from target import Target
from testinfra.host import Host
from tier import ROOT, Tier
from visitors import Load

from controller.environment import Environment

# Read now: a test may replace the environment of this process until its outcome is recorded.
RESULTS, STEP = os.environ.get("TEST_RESULTS"), os.environ.get("TEST_STEP")


@functools.cache
def environment(inventory: str | None) -> Tier:
    """The environment of an inventory; that of `make converge` where none is named."""
    return Tier(inventory or Environment.named("local").inventory)


@pytest.fixture(scope="session")
def tier(request: pytest.FixtureRequest) -> Tier:
    """The environment named by --ansible-inventory."""
    return environment(request.config.getoption("ansible_inventory"))


def pytest_configure(config: pytest.Config) -> None:
    """Say what a test may ask of a tier. The rungs of a ladder do not have everything; a full tier does."""
    config.addinivalue_line("markers", "needs(cache=2): for tiers with so many hosts in a pool")
    config.addinivalue_line("markers", "apart('app', 'db'): for tiers in which no host is in two of these pools")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test on a tier that has not what it asks for: before any fixture looks for that."""
    markers = [*item.iter_markers("needs"), *item.iter_markers("apart")]
    groups = environment(item.config.getoption("ansible_inventory")).value("groups") if markers else {}
    for mark in markers:
        few = [pool for pool, count in mark.kwargs.items() if len(groups[pool]) < count]
        hosts = [host for pool in mark.args for host in groups[pool]]
        if few or len(set(hosts)) < len(hosts):
            pytest.skip(
                f"this tier has fewer hosts in {', '.join(few)}"
                if few
                else f"a host is in several of {', '.join(mark.args)}"
            )


@pytest.fixture(name="on", scope="session")
def on_fixture(tier: Tier) -> OnHost:
    """on("app1") is that host, to run commands on as root."""
    return tier.host


@pytest.fixture(name="host", scope="module")
def host_fixture(_testinfra_host: Host, tier: Tier) -> Host:
    """The host under test."""
    return tier.host(_testinfra_host.backend.host)


@pytest.fixture
def visitor(tier: Tier) -> Iterator[requests.Session]:
    """A browser's session outside the tier, trusting the environment's own authority."""
    with requests.Session() as session:
        session.trust_env = False  # else a bundle named in the environment overrides verify
        session.verify = tier.authority
        yield session


@pytest.fixture(name="site", scope="session")
def site_fixture(tier: Tier) -> Site:
    """What the inventory says about the balancers and those behind them."""
    return balancer.read_site(tier)


@pytest.fixture(name="lb")
def lb_fixture(host: Host, tier: Tier, site: Site) -> Balancer:
    """The balancer under test."""
    (address,) = [lb["address"] for lb in site["balancers"] if lb["name"] == host.backend.host]
    return balancer.Balancer(tier, site, address)


@pytest.fixture(scope="session")
def log(site: Site) -> str:
    """The access log of a balancer."""
    return f"/var/log/{site['engine']}/access.log"


@pytest.fixture(scope="session")
def target(tier: Tier) -> Target:
    """The tier, to break."""
    return Target(tier.inventory)


@pytest.fixture(scope="session")
def make(tier: Tier) -> Make:
    """make("status") runs a verb on the tier, as an operator does; the finished process, with its output."""
    return tier.make


@pytest.fixture(name="visitors_unaffected")
def visitors_unaffected_fixture(target: Target) -> Unaffected:
    """with visitors_unaffected() as load: whatever happens to the tier, no visitor notices, and nothing acknowledged is lost."""

    @contextlib.contextmanager
    def visitors_unaffected(**pace: float) -> Iterator[Load]:
        target.await_healthy()
        with Load(target, **{"pace": 0.25, "connect": 5.0, **pace}) as load:
            load.mark()
            started = time.time()
            yield load
            load.await_service(time.time())
            requests, commits = load.requests(started), load.commits(started)
            assert [f"{r.kind}: {r.failure}" for r in requests if r.failure] == []
            assert load.lost_and_duplicated(commits) == ([], [])
            print(f"{len(requests)} requests, 0 failed; {len(commits)} commits, 0 lost")
        target.await_healthy()

    return visitors_unaffected


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Function) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Record each outcome, so that `make test` can tell which tests never ran."""
    report = yield
    if RESULTS and (report.when == "call" or report.outcome != "passed"):
        crash = getattr(report.longrepr, "reprcrash", None)
        reason = f"{item.name}: {crash.message if crash else report.longrepr}"[:600] if report.failed else ""
        with open(RESULTS, "a", encoding="utf-8") as lines:
            print(
                json.dumps(
                    [
                        STEP,
                        f"{item.path.relative_to(ROOT)}::{item.originalname}",
                        report.outcome,
                        reason,
                        item.name,
                        report.duration,
                    ]
                ),
                file=lines,
            )
    return report
