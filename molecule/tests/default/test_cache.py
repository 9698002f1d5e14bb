"""The cache tier: one ring for all app hosts, closed to everybody else."""

import concurrent.futures
import textwrap
import time
import types
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from fixtures import OnHost
from tier import Tier

# Ask a memcached: its answers to lines that are commands, up to the end of each.
ASK = textwrap.dedent("""
    import socket, sys
    with socket.create_connection((sys.argv[1], int(sys.argv[2])), 2) as connection:
        answers = connection.makefile("rw", newline="")
        for command in sys.argv[3:]:
            answers.write(command.replace("|", "\\r\\n") + "\\r\\n")
            answers.flush()
            while not (line := answers.readline().strip()).startswith(("END", "STORED", "DELETED", "VERSION", "ERROR", "SERVER_ERROR")):
                print(line)
""")


@pytest.fixture(scope="module")
def variables(tier: Tier) -> types.SimpleNamespace:
    """Variables of the cache hosts, read once."""
    names = ("all_hosts", "cache_port", "groups", "host_share")
    found = tier.value("dict(" + ", ".join(f"{name}={name}" for name in names) + ")", tier.hosts("cache")[0])
    return types.SimpleNamespace(**found, addresses={host["name"]: host["address"] for host in found["all_hosts"]})


@pytest.fixture
def ask(variables: types.SimpleNamespace, on: OnHost) -> Callable[..., Any]:
    """Ask a cache host's memcached from another host."""

    def ask(by: str, cache: str, *commands: str) -> str:
        return on(by).run(
            "python3 -c %s %s %s" + " %s" * len(commands),
            ASK,
            variables.addresses[cache],
            str(variables.cache_port),
            *commands,
        )

    return ask


@pytest.mark.needs(app=2)
def test_an_item_stored_by_an_app_host_is_read_by_another(
    ask: Callable[..., Any], variables: types.SimpleNamespace
) -> None:
    first, *_, last = variables.groups["app"]
    key = uuid.uuid4().hex
    for cache in variables.groups["cache"]:
        assert ask(first, cache, f"set {key} 0 60 5|hello").rc == 0
        assert ask(last, cache, f"get {key}", f"delete {key}").stdout.splitlines() == [f"VALUE {key} 0 5", "hello"]


@pytest.mark.needs(monitor=1)
@pytest.mark.apart("app", "lb", "media", "db", "monitor", "cache")
def test_only_app_hosts_reach_memcached(ask: Callable[..., Any], variables: types.SimpleNamespace) -> None:
    cache, *_ = variables.groups["cache"]
    strangers = [
        variables.groups[group][-1]
        for group in ("lb", "media", "db", "monitor", "cache")
        if variables.groups[group][-1] != cache
    ]
    with concurrent.futures.ThreadPoolExecutor(len(strangers)) as pool:
        heard = [
            (stranger, said)
            for stranger, said in zip(strangers, pool.map(lambda stranger: ask(stranger, cache, "version"), strangers))
            if not said.rc or "timed out" not in said.stderr
        ]
    assert heard == []


def test_memcached_listens_on_the_private_address_only(variables: types.SimpleNamespace, on: OnHost) -> None:
    for cache in variables.groups["cache"]:
        listening = {
            line.split()[4]
            for line in on(cache).check_output("ss --no-header --listening --numeric --tcp --udp").splitlines()
        }
        assert {a for a in listening if a.endswith(f":{variables.cache_port}")} == {
            f"{variables.addresses[cache]}:{variables.cache_port}"
        }
        pids = on(cache).check_output("systemctl show --property MainPID --value memcached")
        sockets = on(cache).check_output("ss --no-header --listening --numeric --tcp --udp --processes").splitlines()
        assert sum(f"pid={pids}," in line for line in sockets) <= 1


@pytest.mark.apart("cache", "app", "db")
def test_memcached_uses_most_of_the_available_memory(
    ask: Callable[..., Any], variables: types.SimpleNamespace, on: OnHost
) -> None:
    for cache in variables.groups["cache"]:
        stats = dict(line.split()[1:3] for line in ask(variables.groups["app"][0], cache, "stats").stdout.splitlines())
        memory = (
            int(on(cache).check_output("awk '/^MemTotal:/ {print $2}' /proc/meminfo")) * 1024 * variables.host_share
        )
        assert 0.6 < int(stats["limit_maxbytes"]) / memory < 0.9


@pytest.mark.needs(cache=2)
def test_a_stopped_cache_host_loses_an_equal_share_of_the_keys(variables: types.SimpleNamespace, on: OnHost) -> None:
    nodes = variables.groups["cache"]
    # Through the site's own settings: what its pages would find.
    ring = textwrap.dedent("""
        from django.core.cache import cache
        keys = [f"{mark}-{n}" for n in range(1000)]
        if store: cache.set_many({key: key for key in keys}, 60)
        print(len(cache.get_many(keys)))
    """)

    def count_keys(by: str, store: bool) -> int:
        values = f"mark, store = {mark!r}, {store}"
        return int(on(by).check_output("/usr/local/bin/manage shell --verbosity 0 --command %s", values + ring))

    mark = uuid.uuid4().hex
    first, *_, last = variables.groups["app"]
    assert count_keys(first, store=True) == 1000
    on(nodes[-1]).check_output("systemctl stop memcached")
    try:
        kept = count_keys(last, store=False)
    finally:
        on(nodes[-1]).check_output("systemctl start memcached")
    assert abs((1000 - kept) / 1000 - 1 / len(nodes)) < 0.1, (
        f"{1000 - kept} of 1000 keys were lost with one of {len(nodes)} nodes"
    )


def test_memcached_restarts_after_a_crash(
    ask: Callable[..., Any], variables: types.SimpleNamespace, on: OnHost
) -> None:
    cache = variables.groups["cache"][-1]
    on(cache).check_output("systemctl kill --signal=KILL memcached")
    deadline = time.monotonic() + 30
    while (said := ask(variables.groups["app"][0], cache, "version")).rc and time.monotonic() < deadline:
        time.sleep(0.2)  # between two looks at a condition with a deadline
    assert said.rc == 0, said
