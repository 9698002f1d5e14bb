"""The plan of adding a host to a group and removing it: hosts that are asked and changed, and what is refused."""

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from repository import ROOT, load

from controller.inventory import Inventory
from plugins.filter import node_plan as plans
from plugins.filter.node_plan import Observed, Plan, Relations, Request

VARS = load(ROOT / "playbooks/vars/nodes.yml")
RELATIONS = Relations(*(VARS[f"node_{field.name}"] for field in dataclasses.fields(Relations)))
POOLS = ["lb", "app", "media", "cache", "db"]
CHANGES = "allow_list_hosts app_hosts balancers keepalived_hosts cluster_hosts upload_hosts monitors".split()
CHANGES += "rollback_hosts target leaving".split()
UNITS = ["media-backup.timer", "media-sync.timer", "media-sync", "lighttpd"]


def groups_of(name: str = "local") -> dict[str, list[str]]:
    """{group: hosts} of an inventory."""
    inventory = Inventory((ROOT / f"inventories/{name}.yml").read_text())
    return inventory.groups | {"all": list(inventory.lines)}


def with_host(groups: Mapping[str, list[str]], group: str, host: str) -> dict[str, list[str]]:
    """Groups with a host more."""
    return {**groups, group: [*groups[group], host], "all": [*groups["all"], host]}


def answers(groups: Mapping[str, Sequence[str]], unreachable: Sequence[str] = (), **observed: Any) -> Observed:
    """What hosts answer where all is well but for those that are unreachable."""
    hosts = [host for host in groups["all"] if host not in unreachable]
    members = [
        {"name": host, "role": "replica" if number else "leader", "state": "streaming" if number else "running"}
        for number, host in enumerate(groups["db"])
    ]
    keys = {"pages": "app", "files": "media", "caches": "cache"}
    health = {
        "sees": {key: dict.fromkeys(groups[group], True) for key, group in keys.items()},
        "raw": {"balances": True},
    }
    release = {"current": "r3", "previous": "r2", "kept": ["r3", "r2", "r1"]}
    return dataclasses.replace(
        Observed(
            reachable=hosts,
            releases={host: release for host in groups["app"] if host in hosts},
            clusters={host: {"members": members} for host in groups["db"] if host in hosts},
            health={host: health for host in groups["all"] if host in hosts},
        ),
        **observed,
    )


def added(group: str, node: str, groups: Mapping[str, list[str]] | None = None, **options: Any) -> Plan:
    """The plan of adding a host. options: as of plan(), and dry_run, unreachable or fields of Observed."""
    groups = with_host(groups or groups_of(), group, node)
    return planned(
        groups, Request(node, group, False, False, options.pop("dry_run", False)), {"unreachable": [node]} | options
    )


def removed(group: str, node: str, groups: Mapping[str, list[str]] | None = None, **options: Any) -> Plan:
    """The plan of removing a host; options: also stays."""
    request = Request(node, group, True, options.pop("stays", False), options.pop("dry_run", False))
    return planned(groups or groups_of(), request, options)


def planned(groups: Mapping[str, Sequence[str]], request: Request, options: dict[str, Any]) -> Plan:
    """The plan of a request."""
    arguments = {name: options.pop(name) for name in ("units", "has_archive") if name in options}
    return plans.plan(groups, RELATIONS, request, answers(groups, **options), **arguments)


def changes(plan: Plan) -> dict[str, str]:
    """Names of the changed hosts, by field of the plan, without the fields that are empty."""
    hosts = {name: getattr(plan, name) for name in CHANGES}
    hosts["restart_hosts"] = [host for names in plan.restart_hosts_by_group.values() for host in names]
    return {field: " ".join(names) for field, names in hosts.items() if names}


def codes(plan: Plan) -> list[str]:
    """Codes of the refusals."""
    return [refusal.code for refusal in plan.refusals]


def sentences(plan: Plan) -> list[str]:
    """Refusals as they are printed."""
    return [plans.node_refusal(dataclasses.asdict(refusal), "ENV=local", "/releases") for refusal in plan.refusals]


ADDED: dict[str, dict[str, Any]] = {
    "lb": {
        "contacted": "app1 app2 lb1 lb2 media1 media2 monitor1",
        "changed": {
            "allow_list_hosts": "app1 app2 media1 media2",
            "keepalived_hosts": "lb1 lb2",
            "monitors": "monitor1",
            "target": "lb3",
            "restart_hosts": "app1 app2 lb1 lb2",
        },
        "roles": {"app1": "apache", "app2": "apache", "media1": "lighttpd", "media2": "lighttpd"},
    },
    "app": {
        "contacted": "cache1 cache2 db1 db2 lb1 lb2 media1 media2 monitor1 app1 app2",
        "reference_hosts": "app1 app2",
        "changed": {
            "allow_list_hosts": "db1 db2 media1 media2 cache1 cache2",
            "balancers": "lb1 lb2",
            "monitors": "monitor1",
            "rollback_hosts": "app3",
            "target": "app3",
        },
        "roles": {
            "db1": "patroni",
            "db2": "patroni",
            "media1": "lighttpd",
            "media2": "lighttpd",
            "cache1": "memcached",
            "cache2": "memcached",
        },
        "releases": ("r3", "r1 r2 r3", "r2"),
    },
    "media": {
        "contacted": "app1 app2 lb1 lb2 media1 media2 monitor1",
        "reference_hosts": "app1 app2",
        "changed": {
            "allow_list_hosts": "media1 media2",
            "app_hosts": "app1 app2",
            "balancers": "lb1 lb2",
            "upload_hosts": "media1 media2",
            "monitors": "monitor1",
            "target": "media3",
        },
        "roles": {"media1": "lighttpd", "media2": "lighttpd"},
        "client_roles": "django",
        "releases": ("r3", "r1 r2 r3", "r2"),
    },
    "cache": {
        "contacted": "app1 app2 monitor1",
        "changed": {"app_hosts": "app1 app2", "monitors": "monitor1", "target": "cache3"},
        "client_roles": "django",
    },
    "db": {
        "contacted": "app1 app2 backup1 cache1 cache2 db1 db2 monitor1 lb1 lb2",
        "cluster_observers": "db1 db2",
        "changed": {
            "allow_list_hosts": "backup1 cache1 cache2 monitor1 db1 db2",
            "app_hosts": "app1 app2",
            "cluster_hosts": "db1 db2",
            "monitors": "monitor1",
            "target": "db3",
            "restart_hosts": "app1 app2 lb1 lb2",
        },
        "roles": {
            "backup1": "pgbackrest",
            "cache1": "etcd",
            "cache2": "etcd",
            "monitor1": "etcd",
            "db1": "patroni",
            "db2": "patroni",
        },
        "client_roles": "pgpool munin_node",
    },
}


@pytest.mark.parametrize("environment", ["local", "staging", "production"])
@pytest.mark.parametrize("group", POOLS)
def test_adding_a_host_changes_the_servers_and_clients(group: str, environment: str) -> None:
    expected = {"reference_hosts": "", "cluster_observers": "", "roles": {}, "client_roles": ""} | ADDED[group]
    plan = added(group, f"{group}3", groups_of(environment))
    for field in ("contacted", "reference_hosts", "cluster_observers", "client_roles"):
        assert " ".join(getattr(plan, field)) == expected[field]
    assert changes(plan) == expected["changed"]
    assert {host: " ".join(roles) for host, roles in plan.allow_list_roles.items()} == expected["roles"]
    releases = (plan.release, " ".join(plan.kept_releases), plan.previous_release)
    assert releases == expected.get("releases", ("", "", ""))
    assert plan.target_by_group == {name: [f"{group}3"] if name == group else [] for name in POOLS}
    assert plan.peers == [f"{group}1", f"{group}2"]
    assert plan.unreachable == [] and plan.refusals == []


REMOVED: dict[str, dict[str, Any]] = {
    "lb": {
        "contacted": "app1 app2 lb1 media1 media2 monitor1 lb2",
        "observers": "lb1",
        "changed": {
            "allow_list_hosts": "app1 app2 media1 media2",
            "keepalived_hosts": "lb1",
            "monitors": "monitor1",
            "target": "lb2",
            "leaving": "lb2",
            "restart_hosts": "app1 app2 lb1",
        },
    },
    "app": {
        "contacted": "cache1 cache2 db1 db2 lb1 lb2 media1 media2 monitor1 app1 app2",
        "observers": "lb1 lb2",
        "changed": {
            "allow_list_hosts": "db1 db2 media1 media2 cache1 cache2",
            "balancers": "lb1 lb2",
            "monitors": "monitor1",
            "target": "app2",
            "leaving": "app2",
        },
    },
    "media": {
        "contacted": "app1 app2 lb1 lb2 media1 monitor1 media2",
        "observers": "lb1 lb2",
        "changed": {
            "allow_list_hosts": "media1",
            "app_hosts": "app1 app2",
            "balancers": "lb1 lb2",
            "upload_hosts": "media1",
            "monitors": "monitor1",
            "target": "media2",
            "leaving": "media2",
        },
    },
    "cache": {
        "contacted": "app1 app2 monitor1 cache2",
        "observers": "app1 app2",
        "changed": {"app_hosts": "app1 app2", "monitors": "monitor1", "target": "cache2", "leaving": "cache2"},
    },
    "db": {
        "contacted": "app1 app2 backup1 cache1 cache2 db1 monitor1 lb1 lb2 db2",
        "observers": "db1",
        "changed": {
            "allow_list_hosts": "backup1 cache1 cache2 monitor1 db1",
            "app_hosts": "app1 app2",
            "cluster_hosts": "db1",
            "monitors": "monitor1",
            "target": "db2",
            "leaving": "db2",
            "restart_hosts": "app1 app2 lb1 lb2",
        },
    },
}


@pytest.mark.parametrize("environment", ["local", "staging", "production"])
@pytest.mark.parametrize("group", POOLS)
def test_removing_a_host_changes_the_servers_and_clients(group: str, environment: str) -> None:
    expected, node = REMOVED[group], f"{group}2"
    plan = removed(group, node, groups_of(environment))
    assert (" ".join(plan.contacted), " ".join(plan.observers)) == (expected["contacted"], expected["observers"])
    assert changes(plan) == expected["changed"]
    assert plan.leaving_by_group == {name: [node] if name == group else [] for name in POOLS}
    assert plan.health_key == {"app": "pages", "media": "files", "cache": "caches"}.get(group, "")
    assert plan.unreachable == [] and plan.refusals == []


@pytest.mark.parametrize("group", POOLS)
def test_an_unreachable_node_is_removed_without_being_stopped(group: str) -> None:
    plan, whole = removed(group, f"{group}2", unreachable=[f"{group}2"]), removed(group, f"{group}2")
    assert plan.leaving == [] and plan.leaving_by_group == dict.fromkeys(POOLS, [])
    assert plan.upload_hosts == []  # uploads that only the node has are lost with it
    others = {field: hosts for field, hosts in changes(whole).items() if field not in ("leaving", "upload_hosts")}
    assert changes(plan) == others and plan.unreachable == [] and plan.refusals == []


def test_unreachable_hosts_are_skipped_and_reported() -> None:
    plan = removed("db", "db2", unreachable=["app1", "lb2", "cache1", "monitor1"])
    assert plan.notified == ["app1", "app2", "backup1", "cache1", "cache2", "db1", "monitor1"]
    assert plan.unreachable == ["app1", "cache1", "monitor1"]
    assert changes(plan) == {
        "allow_list_hosts": "backup1 cache2 db1",
        "app_hosts": "app2",
        "cluster_hosts": "db1",
        "target": "db2",
        "leaving": "db2",
        "restart_hosts": "app2 lb1",
    }


@pytest.mark.parametrize("group", POOLS)
def test_a_dry_run_changes_nothing_and_refuses_the_same(group: str) -> None:
    for dry, real in (
        (added(group, "new1", dry_run=True), added(group, "new1")),
        (removed(group, f"{group}2", dry_run=True), removed(group, f"{group}2")),
    ):
        assert changes(dry) == {} and dry.allow_list_roles == {}
        for name in ("contacted", "notified", "observers", "reference_hosts", "cluster_observers", "refusals"):
            assert getattr(dry, name) == getattr(real, name)


@pytest.mark.parametrize("group", POOLS)
def test_nothing_is_changed_before_hosts_are_observed(group: str) -> None:
    """The plan of the inventory alone has the hosts to ping."""
    groups = groups_of()
    plan = plans.plan(groups, RELATIONS, Request(f"{group}2", group, True, False, False), Observed())
    assert " ".join(plan.contacted) == REMOVED[group]["contacted"] and plan.unreachable == plan.notified
    assert changes(plan) == {"target": f"{group}2"} and plan.observers == []


def test_a_plan_without_an_inventory_is_empty() -> None:
    """As for a check of the syntax."""
    plan = plans.plan({"all": []}, RELATIONS, Request("app3", "app", False, False, False), Observed())
    assert changes(plan) == {"target": "app3"} and plan.contacted == []


def test_a_host_with_other_work_is_reconfigured_like_the_others() -> None:
    """cache1 is also a member of etcd; box1 is nearly everything, and leaves the databases' clients."""
    assert removed("cache", "cache1", stays=True).notified == ["app1", "app2", "monitor1"]
    groups = groups_of("ladder/6-cache")
    groups = {**groups, "app": ["box1", "app1"], "media": ["media1", "box1"]}
    plan = removed("app", "box1", groups, stays=True)
    assert plan.notified == ["box1", "cache1", "db1", "lb1", "media1"]
    assert plan.allow_list_hosts == ["db1", "media1", "box1", "cache1"] and plan.monitors == ["box1"]
    assert plan.allow_list_roles["box1"] == ["lighttpd"]
    assert removed("app", "box1", groups).allow_list_hosts == ["db1", "media1", "cache1"]


def test_the_node_is_not_in_the_allow_list_of_the_node() -> None:
    """The node is in the group until the end, and its services of the group are stopped before."""
    groups = groups_of("ladder/1-one-box")
    groups = with_host(groups, "db", "db1")
    plan = removed("db", "box1", groups, stays=True)
    assert plan.allow_list_roles == {"box1": ["etcd"], "db1": ["patroni"]}


def test_a_group_of_a_single_host_gets_a_second() -> None:
    plan = added("media", "media2", groups_of("ladder/6-cache"))
    assert changes(plan) == {
        "allow_list_hosts": "media1",
        "app_hosts": "app1 app2",
        "balancers": "lb1",
        "upload_hosts": "media1",
        "monitors": "box1",
        "target": "media2",
    }
    assert plan.peers == ["media1"] and plan.refusals == []
    box = added("db", "db1", groups_of("ladder/1-one-box"))
    assert box.contacted == ["box1"] and box.allow_list_roles == {"box1": ["patroni", "etcd"]} and box.monitors == []


def test_reachable_hosts_are_read_and_at_most_three_for_releases() -> None:
    groups = with_host(with_host(groups_of(), "app", "app3"), "app", "app4")
    assert added("app", "app5", groups).reference_hosts == ["app1", "app2", "app3"]
    assert added("app", "app5", groups, unreachable=["app2", "app5"]).reference_hosts == ["app1", "app3"]
    assert added("db", "db3", unreachable=["db1", "db3"]).cluster_observers == ["db2"]


def test_units_of_backups_are_stopped_where_there_is_a_backup_host() -> None:
    assert removed("media", "media2", units=UNITS).units == UNITS
    without = {**groups_of(), "backup": []}
    assert removed("media", "media2", without, units=UNITS).units == UNITS[1:]
    assert "backup1" not in removed("db", "db2", without).notified
    assert removed("lb", "lb2", units=["keepalived", "nginx", "backend-watch"]).units[1] == "nginx"


def test_units_are_listed_for_every_group() -> None:
    assert list(VARS["node_units"]) == POOLS and VARS["node_units"]["media"] == UNITS
    assert set(plans.BACKUP_UNITS) <= set(UNITS)


def test_kept_releases_are_ordered_with_the_live_release_last() -> None:
    releases = {
        "app1": {"current": "r5", "previous": "", "kept": ["r5", "r3"]},
        "app2": {"current": "r5", "previous": "r4", "kept": ["r5", "r4", "r3", "r2"]},
        "app3": {"current": "", "previous": "", "kept": [""]},
    }
    plan = added("media", "media3", with_host(groups_of(), "app", "app3"), releases=releases)
    assert (plan.release, plan.kept_releases, plan.previous_release) == ("r5", ["r2", "r4", "r3", "r5"], "r4")
    assert plan.refusals == []
    assert added("app", "app3", releases={"app1": releases["app1"]}).rollback_hosts == []


def test_a_host_without_a_certain_release_is_not_added() -> None:
    other = {"current": "r4", "previous": "r3", "kept": ["r4", "r3"]}
    differing = {**answers(groups_of()).releases, "app2": other}
    assert sentences(added("app", "app3", releases=differing)) == [
        "The app hosts serve different releases: r3, r4. Finish that first: make deploy ENV=local"
    ]
    assert sentences(added("media", "media3", releases={})) == [
        "No app host tells what it serves: make status ENV=local"
    ]
    assert sentences(added("media", "media3", has_archive=lambda release: release == "r2")) == [
        "Release r1, r3 is not in /releases: run this where it was deployed from, or deploy from here first: "
        "make deploy ENV=local"
    ]
    assert codes(added("app", "app3", has_archive=lambda release: release == "r3")) == []
    assert codes(added("app", "app3", releases=differing, has_archive=lambda _release: False)) == [
        "different_releases", "missing_releases",
    ]  # fmt: skip
    for group in ("lb", "cache", "db"):
        assert codes(added(group, "new1", releases={}, has_archive=lambda _release: False)) == []


def member(name: str, role: str, state: str) -> dict[str, str]:
    return {"name": name, "role": role, "state": state}


def test_a_database_without_a_primary_is_neither_added_nor_removed() -> None:
    for cluster in ({}, {"members": [member("db1", "leader", "stopped"), member("db2", "replica", "streaming")]}):
        clusters = {"db1": cluster} if cluster else {}
        assert sentences(added("db", "db3", clusters=clusters)) == [
            "No primary is there to copy: make status ENV=local"
        ]
        assert codes(removed("db", "db2", clusters=clusters))[0] == "no_primary"
    assert sentences(removed("db", "db2", clusters={}, unreachable=["db2"])) == [
        "The databases have no primary, so db2 may be the one that has everything: make status ENV=local"
    ]


def test_the_primary_is_not_removed() -> None:
    assert sentences(removed("db", "db1")) == [
        "db1 is the primary. Make another one that first: make failover ENV=local NODE=db2"
    ]
    alone = {"db2": {"members": [member("db1", "leader", "running")]}}
    assert sentences(removed("db", "db1", clusters=alone))[0].endswith("NODE=…")


def test_the_last_standby_that_follows_is_not_removed() -> None:
    groups = with_host(groups_of(), "db", "db3")
    members = [
        member("db1", "leader", "running"),
        member("db2", "sync_standby", "streaming"),
        member("db3", "replica", "starting"),
    ]
    clusters = {"db1": {"members": members}}
    assert sentences(removed("db", "db2", groups, clusters=clusters)) == [
        "db3 does not follow db1, which db2 does: mend it, or remove it first."
    ]
    assert codes(removed("db", "db3", groups, clusters=clusters)) == []
    assert codes(removed("db", "db2", groups, clusters=clusters, unreachable=["db2"])) == []


@pytest.mark.parametrize(("group", "key"), [("app", "pages"), ("media", "files"), ("cache", "caches")])
def test_the_last_healthy_host_of_a_group_is_not_removed(group: str, key: str) -> None:
    sick = {"sees": {key: {f"{group}1": False, f"{group}2": True}}, "raw": {}}
    health: dict[str, Any] = {"lb1": sick, "app1": sick}
    assert sentences(removed(group, f"{group}2", health=health)) == [
        f"{group}2 is the last of '{group}' that is well; {group}1 is not: make status ENV=local"
    ]
    assert codes(removed(group, f"{group}1", health=health)) == []
    assert codes(removed(group, f"{group}2", health={})) == ["last_healthy"]
    well = {"sees": {key: {f"{group}1": True}}, "raw": {}}
    assert codes(removed(group, f"{group}2", health=health | {"lb2": well})) == []  # one observer is enough


def test_the_last_healthy_balancer_is_not_removed() -> None:
    well, sick = ({"sees": {}, "raw": {"balances": state}} for state in (True, False))
    assert codes(removed("lb", "lb2", health={"lb1": well})) == []
    unhealthy: list[dict[str, Any]] = [{"lb1": sick}, {"lb1": {"sees": {}, "raw": {}}}, {"lb2": well}, {}]
    for health in unhealthy:
        assert codes(removed("lb", "lb2", health=health)) == ["last_healthy"]


def test_the_filter_reads_registered_results(tmp_path: pathlib.Path) -> None:
    """Of hosts that answered, of an unreachable one and of one without results. The plan is plain data."""
    groups = with_host(groups_of(), "media", "media3")
    release = {"current": "r2", "previous": "r1", "kept": ["r2", "r1"]}
    hostvars: dict[str, dict[str, Any]] = {host: {"__node_ping": {"ping": "pong"}, "else": 1} for host in groups["all"]}
    hostvars["app1"] |= {"django_releases": release}
    hostvars["app2"] = {"__node_ping": {"unreachable": True}, "django_releases": {"failed": True}}
    hostvars["db1"] |= {"__node_cluster": {"status": 200, "json": {"members": [member("db1", "leader", "running")]}}}
    hostvars["db2"] |= {"__node_cluster": {"status": -1}}
    hostvars["media3"] = {}
    request = {
        "node": "media3", "group": "media", "leaves": False, "stays": False, "dry_run": False,
        "relations": dataclasses.asdict(RELATIONS),
    }  # fmt: skip
    (tmp_path / "site-r2.tar.gz").touch()
    plan = plans.node_plan(groups, request, hostvars, UNITS, f"{tmp_path}/site-")
    assert json.loads(json.dumps(plan)) == plan
    assert plan["kept_releases"] == ["r1", "r2"] and plan["unreachable"] == ["app2"] and plan["units"] == UNITS
    assert [(refusal["code"], refusal["subjects"]) for refusal in plan["refusals"]] == [("missing_releases", ["r1"])]
    leaving = request | {"node": "db2", "group": "db", "leaves": True}
    assert plans.node_plan(groups, leaving, hostvars)["refusals"] == []
    first = plans.node_plan(groups, leaving)
    assert first["reachable"] == [] and "db2" in first["contacted"]


def test_every_refusal_has_a_sentence() -> None:
    for code in plans.REFUSALS:
        refusal = dataclasses.asdict(plans.Refusal(code, "db2", "db", ["a", "b"], "db1"))
        text = plans.node_refusal(refusal, "ENV=local", "/releases")
        assert text and "{" not in text
