"""The virtual IP: on exactly one balancer, and always on one that answers."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

import pytest
import requests
from testinfra.host import Host
from tier import Tier

GAP = 5  # seconds a visitor may have to wait while the virtual IP moves


@pytest.fixture(name="vip", scope="module")
def vip_fixture(tier: Tier) -> str:
    """The virtual IP."""
    return tier.value("lb_vip", "lb[0]")


@pytest.fixture(name="balancers", scope="module")
def balancers_fixture(tier: Tier) -> list[Host]:
    """Every balancer, the preferred one first."""
    return [tier.host(name) for name in tier.hosts("lb")]


def holders(balancers: list[Host], vip: str) -> list[Host]:
    """The balancers that have the virtual IP."""
    return [lb for lb in balancers if lb.check_output("ip -oneline address show to %s", vip)]


def await_holder(balancers: list[Host], vip: str, wanted: Callable[[Host], bool] = lambda holder: True) -> Host:
    """The one balancer with the virtual IP, once it is a wanted one."""
    deadline = time.monotonic() + 15
    while True:
        found = holders(balancers, vip)
        if len(found) == 1 and wanted(found[0]):
            return found[0]
        assert time.monotonic() < deadline, [lb.backend.host for lb in found]


@contextlib.contextmanager
def visits(vip: str) -> Iterator[list[float]]:
    """Visit the virtual IP all the time; gives the list of moments of success."""
    good, over = [], threading.Event()

    def visit() -> None:
        while not over.wait(0.05):
            with contextlib.suppress(requests.RequestException):
                requests.get(f"http://{vip}/", headers={"Host": vip}, allow_redirects=False, timeout=1)
                good.append(time.monotonic())

    visitor = threading.Thread(target=visit)
    visitor.start()
    try:
        deadline = time.monotonic() + GAP
        while not good:
            assert time.monotonic() < deadline, "nobody answers"
        yield good
    finally:
        over.set()
        visitor.join()


def test_a_single_balancer_has_the_virtual_ip(balancers: list[Host], vip: str, tier: Tier) -> None:
    prefix = tier.value("network_cidr", "lb[0]").split("/")[1]
    assert f"inet {vip}/{prefix} " in await_holder(balancers, vip).check_output("ip -oneline address")


@pytest.mark.needs(lb=2)
@pytest.mark.parametrize("service", ["nginx", "keepalived"])
def test_the_virtual_ip_leaves_a_failed_balancer_and_does_not_return(
    balancers: list[Host], vip: str, service: str
) -> None:
    """As often as there are balancers: of two, the virtual IP ends where it began."""
    assert len(balancers) > 1
    for _ in balancers:
        first = await_holder(balancers, vip)
        with visits(vip) as good:
            first.check_output("systemctl stop %s", service)
            try:
                second = await_holder(balancers, vip, lambda lb: lb is not first)
                moved = time.monotonic()
                while good[-1] < moved:
                    assert time.monotonic() < moved + GAP
            finally:
                first.check_output("systemctl start %s", service)
            # Well again, it takes nothing back: not at once, nor in the time of many signs of life.
            first.check_output(
                'timeout 10 sh -c \'until journalctl -qu keepalived -n 3 -o cat | grep -q "BACKUP STATE";'
                " do sleep .1; done'"
            )
            seen, deadline = len(good), time.monotonic() + 2 * GAP
            while len(good) < seen + 60 and time.monotonic() < deadline:
                assert holders(balancers, vip) == [second]
        longest = max(after - before for before, after in zip(good, good[1:]))
        print(f"{service} stopped on {first.backend.host}: longest gap {longest:.2f} s")
        assert longest < GAP


def test_keepalived_has_realtime_priority(balancers: list[Host]) -> None:
    """And the kernel does not kill who sends them for a moment of work in one go, which moves the virtual IP between two balancers that are well."""
    for lb in balancers:
        found = {pid: lb.check_output("chrt --pid %s", pid) for pid in lb.check_output("pgrep -x keepalived").split()}
        urgent = [pid for pid, policy in found.items() if "SCHED_RR" in policy]
        assert urgent, found
        for pid in urgent:
            assert int(lb.check_output("awk '/^Max realtime timeout/ {print $5}' /proc/%s/limits", pid)) >= 1_000_000
