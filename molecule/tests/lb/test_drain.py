"""Hosts leave and join the pools of a balancer that runs, whichever engine it has: the tasks that every verb uses."""

import contextlib
import json
import pathlib
import subprocess
import threading
import uuid
from collections.abc import Iterator

import pytest
from balancer import Balancer, Site, await_true, logged
from fixtures import OnHost
from testinfra.host import Host
from tier import ROOT, Tier

PLAYBOOK = str(pathlib.Path(__file__).with_name("pools.yml"))
POSTS = 8  # at once, so that every app host gets some


def pools(tier: Tier, *drained: str) -> subprocess.Popen[str]:
    """Put the pools into force without some hosts: the process, still at it."""
    command = [
        "ansible-playbook",
        "-i",
        tier.inventory,
        *tier.options,
        "-e",
        json.dumps({"lb_drained": drained}),
        PLAYBOOK,
    ]
    return subprocess.Popen(
        command, cwd=ROOT, env=tier.env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def done(process: subprocess.Popen[str]) -> str:
    """What a process said, once it has succeeded."""
    said = process.communicate(timeout=90)[0]
    assert process.returncode == 0, said
    return said


@contextlib.contextmanager
def stopped(host: Host, user: str) -> Iterator[None]:
    """Every process of a user on a host, stopped for a while."""
    host.check_output("pkill -STOP -u %s", user)
    try:
        yield
    finally:
        host.check_output("pkill -CONT -u %s", user)


def upstream_addresses(lb: Balancer, host: str, log: str) -> set[str]:
    """Addresses of the hosts that a balancer's next requests come to."""
    token = uuid.uuid4().hex
    assert {lb.ask(f"/?{token}").status for _ in range(8)} == {200}
    await_true(lambda: len(logged(host, token, log)) == 8)
    return {line["upstream"].split(":")[0] for line in logged(host, token, log)}


@pytest.mark.needs(app=2)
def test_a_drained_host_finishes_running_requests_and_gets_no_new_requests(
    tier: Tier, on: OnHost, site: Site, log: str
) -> None:
    apps = {app["name"]: app["address"] for app in site["pools"]["app"]["hosts"]}
    leaver, others = list(apps)[-1], set(list(apps.values())[:-1])
    first = on(site["balancers"][0]["name"])
    lb, answers = Balancer(tier, site, site["balancers"][0]["address"]), []
    assert upstream_addresses(lb, first, log) == set(apps.values())
    threads = [threading.Thread(target=lambda: answers.append(lb.ask("/", "POST", b"x").status)) for _ in range(POSTS)]
    try:
        with stopped(on(leaver), tier.value("site_name")):
            for thread in threads:
                thread.start()
            await_true(lambda: 0 < len(answers) < POSTS)
            drained = pools(tier, leaver)
            await_true(lambda: upstream_addresses(lb, first, log) == others, 30)
            before = len(answers)
            with pytest.raises(subprocess.TimeoutExpired):
                drained.wait(3)
            assert len(answers) == before < POSTS
        done(drained)
        for thread in threads:
            thread.join()
        assert answers == [403] * POSTS  # the site's own word about a form without its token
        assert upstream_addresses(lb, first, log) == others
        # So it will be after a restart.
        for balancer in tier.hosts("lb"):
            lines = on(balancer).run(f"grep -rh '{apps[leaver]}:' /etc/{site['engine']}").stdout.splitlines()
            assert [line for line in lines if " down;" not in line and not line.startswith("# ")] == []
    finally:
        done(pools(tier))
    assert upstream_addresses(lb, first, log) == set(apps.values())
