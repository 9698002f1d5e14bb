"""`make failover` refuses what would hurt, and a converge leaves a failover alone. That it costs nobody a request is a drill."""

import re
import time

import pytest

# Hosts and roles that could undo a failover.
DATABASES = "quorum:db:app:backup"
ROLES = "TAGS=etcd,postgresql,pgbackrest,patroni,pgpool"


@pytest.fixture(autouse=True)
def unbroken(mended):
    """Whole before and after."""


def stands(place):
    """Who is primary, since when, on which timeline."""
    primary = place.primary()
    _status, said = place.ask(primary, "patroni")
    return primary, said["postmaster_start_time"], said["timeline"]


def refused(place, make, node, *reason):
    """Assert that a failover is refused with a reason, and nothing happens."""
    before = stands(place)
    done = make("failover", f"NODE={node}")
    said = " ".join((done.stdout + done.stderr).split())
    assert done.returncode != 0
    assert all(words in said for words in reason), said
    assert stands(place) == before


def test_refuses_a_host_that_is_no_database(place, make):
    refused(
        place,
        make,
        place.groups["app"][0],
        "Nothing was touched.",
        "is no database host",
        "Candidates: " + place.standby(),
    )


def test_refuses_the_primary(place, make):
    refused(place, make, place.primary(), "Nothing was touched.", "is the primary already")


def test_refuses_a_standby_that_is_behind(place, make):
    standby = place.standby()
    place.stall(standby)
    try:
        place.wait(
            lambda: (
                not any(
                    m["name"] == standby and m["role"] == "sync_standby"
                    for m in place.ask(place.primary(), "cluster")[1]["members"]
                )
            ),
            "primary that goes on without its standby",
        )
        refused(place, make, standby, "Nothing was touched.", f"{standby} is not ready")
    finally:
        place.on(standby, "pkill -KILL -f '[p]ostgres.*walreceiver'")


def test_gives_up_on_requests_that_do_not_end(place, make):
    app = place.groups["app"][0]
    place.on(
        app,
        f"systemd-run --quiet --unit=slow-request flock --shared {place.facts['site_root']}/tier/realworld sleep 60",
    )
    try:
        refused(place, make, place.standby(), "did not take over as planned", "safe to try again")
    finally:
        place.on(app, "systemctl stop slow-request")


def test_a_dry_run_tells_and_changes_nothing(place, make):
    before, standby = stands(place), place.standby()
    done = make("failover", "CHECK=1")
    assert done.returncode == 0, done.stdout
    assert f"{standby} would be the primary; it was {before[0]}" in " ".join(done.stdout.split())
    assert stands(place) == before


def test_a_converge_leaves_a_failover_alone(place, make):
    lost, standby = place.primary(), place.standby()
    place.kill(lost)
    try:
        place.wait(lambda: place.primaries() == [standby], "promoted standby")
        before = stands(place)
        without = make("site", f"LIMIT={DATABASES}:!{lost}", ROLES)
    finally:
        place.start(lost)
    assert without.returncode == 0, without.stdout
    assert stands(place) == before
    place.whole()
    again = make("site", f"LIMIT={DATABASES}", ROLES)
    assert again.returncode == 0, again.stdout
    assert set(re.findall(r"changed=(\d+)", again.stdout)) == {"0"}, again.stdout
    assert stands(place) == before


def test_members_of_etcd_that_lost_all_join_the_one_that_is_left(place, make, tier, visitor):
    *lost, left = place.groups["quorum"]
    for host in lost:
        place.on(host, "systemctl stop etcd && rm -r /var/lib/etcd/default")
    begun = time.monotonic()
    done = make("site", "LIMIT=quorum", "TAGS=etcd")
    said = " ".join((done.stdout + done.stderr).split())
    assert done.returncode != 0 and time.monotonic() - begun < 60
    assert f"{left} alone has what etcd held" in said and "sudo etcd-alone" in said, said
    assert visitor.get(tier.url, timeout=10).status_code == 200
    assert "a cluster of its own" in place.on(left, "etcd-alone")
    done = make("site", "LIMIT=quorum", "TAGS=etcd")
    assert done.returncode == 0, done.stdout[-3000:]
    place.wait(place.primary, "primary", 60)
    assert place.on(left, "etcd-alone 2>&1", check=False) is None  # not where a majority is


def test_a_standby_that_lacks_wal_is_named_with_what_heals_it(place, make):
    """It was away while the primary wrote more than it keeps for it. What `make status` says then is typed."""
    primary, standby = place.primary(), place.standby()
    place.on(standby, "systemctl stop patroni")
    try:
        for setting in ("max_slot_wal_keep_size = '1MB'", "wal_keep_size = 0"):
            place.sql(f"alter system set {setting}", superuser=True)
        place.sql("select pg_reload_conf()", superuser=True)

        def lost():
            place.sql("select pg_logical_emit_message(false, 'drill', 'a row of WAL'), pg_switch_wal()", superuser=True)
            place.sql("checkpoint", superuser=True)
            return place.sql(
                "select slot_name from pg_replication_slots where invalidation_reason = 'wal_removed'", superuser=True
            )

        place.wait(lost, "slot that is lost")
    finally:
        for setting in ("max_slot_wal_keep_size", "wal_keep_size"):
            place.sql(f"alter system reset {setting}", superuser=True)
        place.sql("select pg_reload_conf()", superuser=True)
        place.on(standby, "systemctl start patroni")
    said = []
    place.await_nothing(
        lambda: (
            ""
            if (said.append(make("status").stdout) or f"{standby} cannot catch up: {primary}" in said[-1])
            else said[-1]
        ),
        "such a standby",
    )
    command = re.search(rf"{standby} cannot catch up.* On it: (patronictl .*)", said[-1])[1]
    place.on(standby, command)
    place.whole()
