"""From 0 to 1: one host serves the site, and its database gets a host of its own while it does."""

import time
from collections.abc import Iterator

import pytest
import requests
from fixtures import Make
from target import Target
from tier import Tier
from visitors import Load

# A machine with a name of its provider's and cloud-init's settings; what Debian starts by itself where packages come before their roles; and an
# installation that was cut off: a package without its configuration, dpkg's note that it was in the middle, the policy of Ansible's module. No
# package lists, in a directory of this minute.
CUT_OFF = """
set -e
hostname vps-4711
hostname > /etc/hostname
mkdir -p /etc/cloud/cloud.cfg.d /etc/cloud/templates
export DEBIAN_FRONTEND=noninteractive
apt-get update --quiet=2
apt-get install --quiet=2 --yes --no-install-recommends etcd-server postgresql-17 nginx memcached
apt-get clean
apt-get install --quiet=2 --yes --no-install-recommends --download-only lighttpd
dpkg --unpack /var/cache/apt/archives/*.deb
sed -n '/^Package: lighttpd$/,/^$/p' /var/lib/dpkg/status > /var/lib/dpkg/updates/0000
printf '#!/bin/sh\\nexit 101\\n' > /usr/sbin/policy-rc.d
chmod 755 /usr/sbin/policy-rc.d
rm -r /var/lib/apt/lists/*
"""


@pytest.fixture(scope="module")
def box(tier: Tier, make: Make) -> Iterator[Target]:
    """The first rung, built from nothing; nothing of it is left afterwards. A dry run of the bare host, which has no package lists, foretells
    without an error. Its packages came by half before the first run, and Debian has started what they bring."""
    make("down")  # what a run that was cut off has left
    host = tier.host("box1")
    for words in (
        ("up", "RUNG=1-one-box", "IMAGE=bare"),
        "rm -r /var/lib/apt/lists/*",
        ("converge", "CHECK=1"),
        CUT_OFF,
        ("converge",),
    ):
        if isinstance(words, str):
            host.check_output(words)
            continue
        done = make(*words)
        assert done.returncode == 0, f"{words}: {done.stdout[-3000:]}{done.stderr[-1000:]}"
    target = Target(tier.inventory)
    target.await_healthy()
    yield target
    done = make("down")
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_single_host_has_every_role(box: Target, tier: Tier, visitor: requests.Session, make: Make) -> None:
    assert visitor.get(tier.url, timeout=10).status_code == 200
    assert box.groups["all"] == ["box1"] and box.holder() == box.primary() == "box1"
    done = make("status")
    assert done.returncode == 0 and "all is well" in done.stdout, done.stdout + done.stderr
    done = make("drift")  # a dry run finds nothing to do
    assert done.returncode == 0 and "0 differences" in done.stdout, done.stdout + done.stderr


def test_cloud_init_keeps_the_hostname_of_the_box(box: Target, tier: Tier) -> None:
    assert box.on("box1", "hostname; cat /etc/hostname").split() == ["box1", "box1"]
    assert box.on("box1", "getent hosts $(hostname)").split() == [tier.address("box1"), "box1"]
    # What cloud-init writes /etc/hosts from, where its settings tell it to.
    assert box.on(
        "box1", "cmp /etc/hosts /etc/cloud/templates/hosts.debian.tmpl && cat /etc/cloud/cloud.cfg.d/*"
    ).endswith("manage_etc_hosts: false")


def test_daemons_of_debian_packages_are_replaced(box: Target, tier: Tier) -> None:
    """etcd's cluster is this tier's, its data of before are kept aside, and there is one PostgreSQL: Patroni's."""
    address = tier.address("box1")
    members = box.run(
        "box1",
        "env",
        f"ETCDCTL_PASSWORD={tier.value('etcd_root_password', 'box1')}",
        "etcdctl",
        f"--endpoints=https://{address}:2379",
        "--user=root",
        "--cacert=/etc/etcd-tls/ca.pem",
        "--cert=/etc/etcd-tls/certificate.pem",
        "--key=/etc/etcd-tls/key.pem",
        "member",
        "list",
    )
    assert f", box1, https://{address}:2380, " in members and len(members.splitlines()) == 1, members
    assert box.on("box1", "ls /var/lib/etcd/not-ours-*").split() == ["snap", "wal"]
    assert box.run("box1", "pgrep", "--count", "--full", "^/usr/lib/postgresql/17/bin/postgres -D") == "1"
    assert box.on("box1", "systemctl is-active postgresql@17-main; true") == "inactive"
    assert (
        box.on("box1", "ls /usr/sbin/policy-rc.d /var/lib/dpkg/updates/* 2>&1 | grep -v 'cannot access'; dpkg --audit")
        == ""
    )


def test_the_database_moves_to_a_separate_host(box: Target, tier: Tier, make: Make) -> None:
    """Nobody notices, nor that the only balancer is restarted before; every row and every picture is there afterwards, those of meanwhile, too."""
    kept = "select md5(string_agg(s::text, ' ' order by s.id)) from budget_story s where title !~ '^drill '"
    before = box.sql(kept)
    with Load(box, pace=0.5, connect=5.0) as load:
        load.mark()
        begun = time.time()
        box.wait(lambda: len(load.commits(begun)) > 100 and load.uploads(), "rows and pictures")
        early, pictures = load.commits(begun), load.uploads()
        started = box.on("box1", "systemctl show -P ActiveEnterTimestampMonotonic nginx")
        box.on("box1", "systemctl start hand-over@nginx")
        assert box.on("box1", "systemctl show -P ActiveEnterTimestampMonotonic nginx") != started
        done = make("climb", "RUNG=2-database-apart")
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
        load.target = target = Target(tier.inventory)
        target.await_healthy()
        load.await_service(time.time())
        requests, commits = load.requests(begun), load.commits(begun)
        assert [f"{r.kind}: {r.failure}" for r in requests if r.failure] == []
        assert load.lost_and_duplicated(commits) == ([], [])
        assert {c.server for c in early} == {target.address["box1"]} and commits[-1].server == target.address["db1"]
        assert set(pictures) <= set(load.uploads()) and pictures
        print(f"{len(requests)} requests, 0 failed; {len(commits)} commits, 0 lost")
    assert target.sql(kept) == before
    assert target.primary() == "db1" and target.groups["db"] == ["db1"]


def test_the_box_has_no_database_after_the_move(box: Target, tier: Tier, make: Make) -> None:
    for unit in ("patroni", "postgresql"):
        assert box.on("box1", f"systemctl is-active {unit}; true") == "inactive"
    assert not box.on("box1", "ss -Hltn 'sport = :8008'")
    done = make("status")
    assert done.returncode == 0 and "all is well" in done.stdout, done.stdout + done.stderr
    done = make("site")
    assert (
        done.returncode == 0
        and "changed=0" in done.stdout.partition("PLAY RECAP")[2].split("box1", 1)[1].splitlines()[0]
    ), done.stdout[-2000:]
