"""`make failover` refuses what would hurt, and a converge leaves a failover alone. That it costs nobody a request is a drill."""

import concurrent.futures
import json
import re
import time
from typing import Any

import pytest
import requests
from fixtures import Make
from target import Target
from tier import Tier, search

# Hosts and roles that could undo a failover.
DATABASES = "quorum:db:app:backup"
ROLES = "TAGS=etcd,postgresql,pgbackrest,patroni,pgpool"

# Requests to etcd over THREADS connections until each is lost; prints {status: number of answers}.
THREADS = 16
REQUESTS = """
import collections, http.client, json, ssl, sys, threading
address, port, tls = sys.argv[1], int(sys.argv[2]), sys.argv[3]
context = ssl.create_default_context(cafile=f"{tls}/ca.pem")
context.load_cert_chain(f"{tls}/certificate.pem", f"{tls}/key.pem")
answers = collections.Counter()
def request():
    connection = http.client.HTTPSConnection(address, port, timeout=10, context=context)
    try:
        while True:
            connection.request("POST", "/v3/maintenance/status", "{}")
            answer = connection.getresponse()
            answer.read()
            answers[answer.status] += 1
    except (OSError, http.client.HTTPException):
        pass
threads = [threading.Thread(target=request) for _ in range(int(sys.argv[4]))]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(json.dumps(answers))
"""


@pytest.fixture(autouse=True)
def healthy_before_and_after(healthy: None) -> None:
    """Whole before and after."""


def stands(target: Target) -> tuple[str, Any, Any]:
    """Who is primary, since when, on which timeline."""
    primary = target.primary()
    _status, said = target.ask(primary, "patroni")
    return primary, said["postmaster_start_time"], said["timeline"]


def refused(target: Target, make: Make, node: str, *reason: str) -> None:
    """Assert that a failover is refused with a reason, and nothing happens."""
    before = stands(target)
    done = make("failover", f"NODE={node}")
    said = " ".join((done.stdout + done.stderr).split())
    assert done.returncode != 0
    assert all(words in said for words in reason), said
    assert stands(target) == before


def test_failover_refuses_a_host_that_is_no_database(target: Target, make: Make) -> None:
    refused(
        target,
        make,
        target.groups["app"][0],
        "Nothing was touched.",
        "is no database host",
        "Candidates: " + target.standby(),
    )


def test_failover_refuses_the_primary(target: Target, make: Make) -> None:
    refused(target, make, target.primary(), "Nothing was touched.", "is the primary already")


def test_failover_refuses_a_lagging_standby(target: Target, make: Make) -> None:
    standby = target.standby()
    target.stall(standby)
    try:
        target.wait(
            lambda: (
                not any(
                    m["name"] == standby and m["role"] == "sync_standby"
                    for m in target.ask(target.primary(), "cluster")[1]["members"]
                )
            ),
            "primary that goes on without its standby",
        )
        refused(target, make, standby, "Nothing was touched.", f"{standby} is not ready")
    finally:
        target.on(standby, "pkill -KILL -f '[p]ostgres.*walreceiver'")


def test_failover_is_cancelled_where_a_request_does_not_end(target: Target, make: Make) -> None:
    app = target.groups["app"][0]
    target.on(
        app,
        f"systemd-run --quiet --unit=slow-request flock --shared {target.facts['site_root']}/tier/realworld sleep 60",
    )
    try:
        refused(target, make, target.standby(), "did not take over as planned", "safe to try again")
    finally:
        target.on(app, "systemctl stop slow-request")


def test_dry_run_of_a_failover_names_the_standby_and_changes_nothing(target: Target, make: Make) -> None:
    before, standby = stands(target), target.standby()
    done = make("failover", "CHECK=1")
    assert done.returncode == 0, done.stdout
    assert f"{standby} would be the primary; it was {before[0]}" in " ".join(done.stdout.split())
    assert stands(target) == before


def test_a_converge_does_not_undo_a_failover(target: Target, make: Make) -> None:
    lost, standby = target.primary(), target.standby()
    target.kill(lost)
    try:
        target.wait(lambda: target.primaries() == [standby], "promoted standby")
        before = stands(target)
        without = make("site", f"LIMIT={DATABASES}:!{lost}", ROLES)
    finally:
        target.start(lost)
    assert without.returncode == 0, without.stdout
    assert stands(target) == before
    target.await_healthy()
    again = make("site", f"LIMIT={DATABASES}", ROLES)
    assert again.returncode == 0, again.stdout
    assert set(re.findall(r"changed=(\d+)", again.stdout)) == {"0"}, again.stdout
    assert stands(target) == before


def test_etcd_members_without_data_join_the_remaining_member(
    target: Target, make: Make, tier: Tier, visitor: requests.Session
) -> None:
    *lost, left = target.groups["quorum"]
    for host in lost:
        target.on(host, "systemctl stop etcd && rm -r /var/lib/etcd/default")
    begun = time.monotonic()
    done = make("site", "LIMIT=quorum", "TAGS=etcd")
    said = " ".join((done.stdout + done.stderr).split())
    assert done.returncode != 0 and time.monotonic() - begun < 60
    assert f"{left} alone has what etcd held" in said and "sudo etcd-alone" in said, said
    assert visitor.get(tier.url, timeout=10).status_code == 200
    assert "a cluster of its own" in target.on(left, "etcd-alone")
    done = make("site", "LIMIT=quorum", "TAGS=etcd")
    assert done.returncode == 0, done.stdout[-3000:]
    target.wait(target.primary, "primary", 60)
    assert target.try_on(left, "etcd-alone 2>&1") is None  # not where a majority is


def test_a_stopping_etcd_member_sends_databases_no_error(target: Target, tier: Tier) -> None:
    """Patroni takes an error for a refusal and restarts the primary; a lost connection makes it ask another member."""
    database, member = target.groups["db"][0], target.groups["quorum"][-1]
    port, tls, address = tier.value(f"[etcd_client_port, patroni_tls, hostvars['{member}'].private_address]", database)
    established = f"ss --no-header --tcp state established sport = :{port} and not dst {address} | wc --lines"
    with concurrent.futures.ThreadPoolExecutor() as pool:
        answers = pool.submit(
            target.run, database, "/usr/bin/python3", "-c", REQUESTS, address, str(port), tls, str(THREADS)
        )
        try:
            target.wait(lambda: int(target.on(member, established)) >= THREADS, f"{THREADS} connections to {member}")
            target.on(member, "systemctl stop etcd")
            statuses = json.loads(answers.result())
        finally:
            target.on(member, "systemctl start etcd")
    assert set(statuses) == {"200"} and statuses["200"] >= THREADS, statuses


def test_status_prints_the_repair_of_a_standby_that_lacks_wal(target: Target, make: Make) -> None:
    """It was away while the primary wrote more than it keeps for it. What `make status` says then is typed."""
    primary, standby = target.primary(), target.standby()
    target.on(standby, "systemctl stop patroni")
    segment = target.sql(
        f"select pg_walfile_name(restart_lsn) from pg_replication_slots where slot_name = '{standby}'", superuser=True
    )
    try:
        for setting in ("max_slot_wal_keep_size = '1MB'", "wal_keep_size = 0"):
            target.sql(f"alter system set {setting}", superuser=True)
        target.sql("select pg_reload_conf()", superuser=True)

        def removed() -> bool:
            """The primary removes a segment once it is archived; a slot is lost before that."""
            target.sql(
                "select pg_logical_emit_message(false, 'drill', 'a row of WAL'), pg_switch_wal()", superuser=True
            )
            target.sql("checkpoint", superuser=True)
            lost = "select slot_name from pg_replication_slots where invalidation_reason = 'wal_removed'"
            return bool(target.sql(lost, superuser=True)) and segment not in target.sql(
                "select string_agg(name, ' ') from pg_ls_waldir()", superuser=True
            )

        target.wait(removed, "slot that is lost, and removed WAL")
    finally:
        for setting in ("max_slot_wal_keep_size", "wal_keep_size"):
            target.sql(f"alter system reset {setting}", superuser=True)
        target.sql("select pg_reload_conf()", superuser=True)
        target.on(standby, "systemctl start patroni")
    status = ""

    def not_named() -> str:
        nonlocal status
        status = make("status").stdout
        return "" if f"{standby} cannot catch up: {primary}" in status else status

    target.await_no_problem(not_named, "such a standby")
    command = search(rf"{standby} cannot catch up.* On it: (patronictl .*)", status)[1]
    target.on(standby, command)
    target.await_healthy()
