"""A host more and a host less in every pool, under load: proven before it is asked, and nowhere once it is gone."""

import pathlib
import socket
import ssl
import time
from collections.abc import Iterator

import pytest
import requests
from fixtures import Make, Unaffected
from target import Target
from tier import Tier, output_of, search
from visitors import CAUGHT_UP_S, Load

# Where the hosts of each group know a host of a pool.
KNOWN = {
    "app": {
        "lb": {"/etc/nginx/nginx.conf"},
        "db": {"/etc/patroni/config.yml"},
        "media": {"/etc/lighttpd/lighttpd.conf"},
        "cache": {"/etc/systemd/system/memcached.service.d/access.conf"},
    },
    "media": {
        "lb": {"/etc/nginx/nginx.conf"},
        "app": {"/etc/SITE/site.json"},
        "media": {"/etc/lighttpd/lighttpd.conf", "/etc/systemd/system/media-sync.service"},
    },
    "cache": {"app": {"/etc/SITE/site.json"}},
    "db": {
        "app": {"/etc/pgpool2/pgpool.conf", "/etc/pgpool2/follow.json"},
        "db": {"/etc/patroni/config.yml"},
        "backup": {"/etc/pgbackrest.conf"},
        "quorum": {"/etc/systemd/system/etcd.service.d/access.conf"},
    },
    "lb": {
        "lb": {
            "/etc/keepalived/keepalived.conf",
            "/etc/systemd/system/balancer-watch.service",
            "/usr/local/sbin/hand-over",
        },
        "app": {"/etc/apache2/apache2.conf"},
        "media": {"/etc/lighttpd/lighttpd.conf"},
    },
}
EVERYWHERE = {
    "monitor": {"/etc/munin/munin.conf", "/etc/nagios4/tier.cfg", "/etc/rsyslog.conf", "/etc/status-page.json"}
}


class Standing:
    """The tier as it stands just now, under a load that goes on while hosts come and go."""

    def __init__(self, tier: Tier, make: Make) -> None:
        self.tier, self.make = tier, make
        self.inventory = pathlib.Path(tier.inventory)
        self.written = self.inventory.read_text()
        self.target: Target  # as of the last look()
        self.load: Load | None = None

    def refresh(self) -> Target:
        """Read anew who is in the tier."""
        self.target = Target(self.inventory)
        if self.load:
            self.load.target = self.target
        return self.target

    def add(self, pool: str, node: str) -> None:
        """Add a host, and await that the tier is whole with it."""
        done = self.make("add-node", f"POOL={pool}", f"NODE={node}")
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
        assert node in self.refresh().groups[pool]
        self.target.await_healthy()

    def remove(self, node: str) -> None:
        """Remove a host, and await that the tier is whole without it."""
        done = self.make("remove-node", f"NODE={node}")
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
        assert self.inventory.read_text() == self.written
        self.refresh().await_healthy()
        assert not self.target.docker("ps", "--all", "--quiet", "--filter", f"name=^{self.target.container(node)}$")

    def known(self, node: str, address: str) -> dict[str, set[str]]:
        """{host: files that have the name or the address of another one}, for all hosts but that one."""
        pattern = rf"\b{node}\b|\b{address}\b".replace(".", r"\\?\.")
        found = {
            host: set(
                self.target.on(host, f"grep -rlsE '{pattern}' /etc /usr/local /srv/*/tier /run/systemd || true").split()
            )
            for host in self.target.groups["all"]
            if host != node
        }
        return {host: files for host, files in found.items() if files}

    def expected(self, pool: str, node: str) -> dict[str, set[str]]:
        """What known() is while a host of a pool is in."""
        found: dict[str, set[str]] = {}
        for group, files in (KNOWN[pool] | EVERYWHERE).items():
            for host in self.target.groups[group]:
                if host != node:
                    found.setdefault(host, set()).update(
                        path.replace("SITE", self.target.facts["site_name"]) for path in files
                    )
        return found


@pytest.fixture(scope="module")
def standing(tier: Tier, make: Make) -> Iterator[Standing]:
    """The tier, before and after without a load and as it was."""
    standing = Standing(tier, make)
    standing.refresh().await_healthy()
    yield standing
    assert standing.inventory.read_text() == standing.written


@pytest.fixture(scope="module")
def load(standing: Standing) -> Iterator[Load]:
    """Visitors and writers, from the first host that comes to the last that goes."""
    with Load(standing.target, pace=0.25, connect=5.0) as load:
        standing.load = load
        yield load
    standing.load = None


@pytest.fixture
def visitors_unaffected(standing: Standing, load: Load) -> Iterator[None]:
    """No visitor notices a test, and nothing that was acknowledged is lost by it."""
    load.mark()
    begun = time.time()
    yield
    load.await_service(time.time())
    assert [f"{r.kind}: {r.failure}" for r in load.requests(begun) if r.failure] == []
    assert load.lost_and_duplicated(load.commits(begun)) == ([], [])


def test_an_app_host_is_added_and_removed(
    standing: Standing, tier: Tier, visitor: requests.Session, visitors_unaffected: Unaffected
) -> None:
    """The first try is cut off while packages are installed, the second one finishes it; so it is when it goes."""
    node, root = "app3", tier.value("site_root", "app[0]")
    tier.cut_off(
        "add-node",
        "POOL=app",
        f"NODE={node}",
        "IMAGE=bare",
        when=lambda: standing.target.try_on(node, "test -e /var/lib/dpkg/info/apache2-bin.list && echo yes"),
    )
    assert node in standing.inventory.read_text()
    standing.add("app", node)
    target = standing.target
    address = target.address[node]
    assert target.on(node, f"readlink {root}/current") == target.on(target.groups["app"][0], f"readlink {root}/current")
    target.wait(
        lambda: visitor.get(f"{tier.url}/about/?format=json", timeout=10).json()["node"] == node, f"page by {node}"
    )
    assert standing.known(node, address) == standing.expected("app", node)
    # A balancer has forgotten it, and the databases have not.
    tier.cut_off(
        "remove-node",
        f"NODE={node}",
        when=lambda: f"{address}:" not in target.on(target.groups["lb"][0], "cat /etc/nginx/nginx.conf"),
    )
    standing.remove(node)
    assert standing.known(node, address) == {}


def test_a_media_host_is_added_and_removed(standing: Standing, visitors_unaffected: Unaffected) -> None:
    """It has what the others have before it is asked, and gets what is uploaded; it dies, and is removed all the same."""
    node = "media3"
    standing.add("media", node)
    target = standing.target
    address, media = target.address[node], target.facts["media_root"]
    target.wait(
        lambda: target.try_on(node, 'grep -c \'"url":"/static/\' /var/log/lighttpd/access.log'),
        f"static file from {node}",
    )
    target.wait(
        lambda: target.try_on(node, 'grep -c \'"method":"PUT"\' /var/log/lighttpd/access.log'),
        f"upload to {node}",
    )

    def files(host: str) -> set[str]:
        return set(target.on(host, f"cd {media} && find . -type f -not -path './.*'").split())

    earlier = files(target.groups["media"][0])
    assert earlier
    # What was uploaded while it was on its way into the pool, it fetches.
    target.await_no_problem(lambda: ", ".join(sorted(earlier - files(node))), f"complete {node}", CAUGHT_UP_S)
    assert standing.known(node, address) == standing.expected("media", node)
    target.kill(node)
    standing.remove(node)
    assert standing.known(node, address) == {}


def test_a_cache_host_is_added_and_removed(standing: Standing, visitors_unaffected: Unaffected) -> None:
    node = "cache3"
    standing.add("cache", node)
    target = standing.target
    address, port = target.address[node], target.tier.value("cache_port")
    ask = f"import socket; link = socket.create_connection(('{address}', {port}), 5); link.sendall(b'stats\\r\\nquit\\r\\n'); print(link.makefile().read())"

    def stored() -> int:
        # A look at an app host's health puts an item into one of the ring.
        target.on(app, f"curl -sf -m 3 http://{target.address[app]}:{target.facts['app_port']}/-/health")
        return int(search(r"STAT total_items (\d+)", target.on(app, f'python3 -c "{ask}"'))[1])

    app = target.groups["app"][0]
    before = stored()
    target.wait(lambda: stored() > before, f"item in {node}")
    assert standing.known(node, address) == standing.expected("cache", node)
    standing.remove(node)
    assert standing.known(node, address) == {}


def test_a_database_is_added_and_removed(standing: Standing, visitors_unaffected: Unaffected) -> None:
    """A standby that confirms every commit and is read from. It leaves no member and no slot behind."""
    node = "db3"
    standing.add("db", node)
    target = standing.target
    address, site = target.address[node], target.facts["site_name"]

    def sql(host: str, query: str) -> str:
        return target.run(host, "psql", "-qAt", "-c", query, user="postgres")

    target.wait(
        lambda: int(sql(node, f"select count(*) from pg_stat_activity where usename = '{site}'")), f"session on {node}"
    )
    assert standing.known(node, address) == standing.expected("db", node)
    standing.remove(node)
    target = standing.target
    assert standing.known(node, address) == {}
    assert target.ask(target.primary(), "config")[1]["synchronous_node_count"] == len(target.groups["db"]) - 1
    for host in target.groups["db"]:
        assert node not in sql(host, "select slot_name from pg_replication_slots")


def test_a_balancer_is_added_and_removed(standing: Standing, tier: Tier, visitors_unaffected: Unaffected) -> None:
    """It answers by its own address, then for the virtual IP, which it hands over when it goes."""
    begun, node = time.time(), "lb3"
    standing.add("lb", node)
    target = standing.target
    address, name = target.address[node], tier.value("site_hosts", "lb[0]")[0]
    trust = ssl.create_default_context(cafile=tier.authority)
    with (
        socket.create_connection((address, 443), timeout=10) as raw,
        trust.wrap_socket(raw, server_hostname=name) as tls,
    ):
        tls.sendall(f"GET / HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n".encode())
        assert tls.recv(12) == b"HTTP/1.1 200"
    assert standing.known(node, address) == standing.expected("lb", node)
    others = [host for host in target.groups["lb"] if host != node]
    try:
        while (holder := target.holder()) != node:
            target.on(holder, "systemctl start hand-over@nothing")
        # As where it is the only one, and the first other one comes: what it gives up it has again, and visitors have waited.
        for host in others:
            target.on(host, "systemctl stop keepalived")
        target.on(node, "systemctl start hand-over@alone")
        assert target.holders() == [node]
    finally:
        for host in others:
            target.on(host, "systemctl start keepalived")
    standing.remove(node)
    assert standing.known(node, address) == {}
    for host in others:  # keepalived starts again what has died, and the virtual IP has moved meanwhile
        assert not target.try_on(
            host, f"journalctl --unit keepalived --since @{begun:.0f} --output cat | grep 'due to signal'"
        ), host


REFUSED = [
    (["add-node", "POOL=app", "NODE=app3", "VARS=app_threads=60"], "more than db_max_connections"),
    (["add-node", "POOL=media", "NODE=app1"], "app1 is in 'app' already"),
    (
        ["remove-node", "NODE={primary}"],
        "{primary} is the primary. Make another one that first: make failover {env} NODE={standby}",
    ),
    (["remove-node", "NODE={quorum}"], "{quorum} is one of the 3 that agree on which database is primary"),
]


@pytest.mark.parametrize(
    ("verb", "reason"), REFUSED, ids=lambda value: "-".join(value[:2]) if isinstance(value, list) else ""
)
def test_harmful_changes_are_refused(standing: Standing, verb: list[str], reason: str) -> None:
    target = standing.target
    facts = {
        "env": " ".join(target.tier.words),
        "primary": target.primary(),
        "standby": target.standby(),
        "quorum": target.groups["quorum"][0],
    }
    done = standing.make(*(word.format(**facts) for word in verb))
    assert done.returncode != 0
    assert "Nothing was touched." in output_of(done) and reason.format(**facts) in output_of(done), output_of(done)[
        -2000:
    ]
    assert standing.inventory.read_text() == standing.written
    assert not standing.inventory.with_suffix(".yaml").exists()
    assert not target.docker("ps", "--all", "--quiet", "--filter", f"name=^{target.container('app3')}$")


def test_removal_of_the_last_healthy_app_host_is_refused(standing: Standing) -> None:
    target = standing.target
    well, *others = target.groups["app"]
    for host in others:
        target.on(host, "systemctl stop apache2")
    try:
        done = standing.make("remove-node", f"NODE={well}")
    finally:
        for host in others:
            target.on(host, "systemctl start apache2")
    assert done.returncode != 0
    assert f"{well} is the last of 'app' that is well" in output_of(done), output_of(done)[-2000:]
    assert standing.inventory.read_text() == standing.written
    target.await_healthy()
