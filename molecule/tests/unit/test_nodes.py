"""Who may come and go, and what becomes of an inventory: read off its text, before anything is asked."""

import json
import pathlib
from collections.abc import Callable
from typing import Any

import pytest
from repository import ROOT

from controller.commands import node as nodes
from controller.errors import Refused, exit_code
from controller.inventory import Inventory
from controller.tiers import POOLS
from inventories import ODD

CONTAINERS = {
    "env_name": "local",
    "make_args": "ENV=local",
    "env_containers": True,
    "network_cidr": "172.30.10.0/24",
    "lb_vip": "172.30.10.100",
}
REAL = {
    "env_name": "production",
    "make_args": "ENV=production",
    "env_containers": False,
    "network_cidr": "198.51.100.0/24",
    "lb_vip": "198.51.100.100",
}
LOCAL = (ROOT / "inventories/local.yml").read_text()


def inventory(text: str = LOCAL) -> Any:
    """An inventory."""
    return Inventory(text, "inventories/local.yml")


def refused(reason: str, check: Callable[..., Any], *given: Any | dict[str, Any] | str) -> None:
    """Assert that something is refused with a reason."""
    with pytest.raises(Refused) as error:
        check(*given)
    assert reason in str(error.value)


@pytest.mark.parametrize("pool", POOLS)
def test_adding_and_removing_a_host_leaves_the_inventory_unchanged(pool: str) -> None:
    there = inventory(inventory().with_host(pool, "new1", "172.30.10.99"))
    assert there.groups[pool] == [*inventory().groups[pool], "new1"]
    assert there.address("new1") == "172.30.10.99"
    assert there.without_host("new1") == LOCAL


def test_comments_order_and_style_are_kept() -> None:
    text = inventory(ODD).with_host("app", "app3", "203.0.113.9")
    assert text == ODD + "\n            app3: {ansible_host: 203.0.113.9}\n"
    without = inventory(text).without_host("app1")
    assert "# the old one" in without and "203.0.113.7" not in without and "198.51.100.21" not in without
    assert inventory(without).groups["app"] == ["app2", "app3"]


def test_an_inventory_with_several_hosts_on_a_line_is_refused() -> None:
    text = "all:\n  children:\n    app:\n      hosts: {app1: {ansible_host: 198.51.100.21}, app2: {ansible_host: 198.51.100.22}}\n"
    refused("one a line", inventory(text).with_host, "app", "app3", "198.51.100.23")
    refused("one a line", inventory(text).without_host, "app1")


def test_the_next_address_follows_the_last_of_the_group() -> None:
    assert nodes.next_address(inventory(), "app", CONTAINERS) == "172.30.10.23"
    text = LOCAL
    for number in range(3, 14):
        text = inventory(text).with_host("app", f"app{number}", nodes.next_address(inventory(text), "app", CONTAINERS))
    addresses = [inventory(text).address(host) for host in inventory(text).groups["app"]]
    assert addresses[:9] == [f"172.30.10.{20 + n}" for n in range(1, 10)]
    assert addresses[9:] == [f"172.30.10.{128 + n}" for n in range(1, 5)]


def test_an_interrupted_add_can_be_repeated() -> None:
    assert nodes.check_add(inventory(), "app", "app2", "", CONTAINERS) == "172.30.10.22"
    assert nodes.check_add(inventory(), "app", "app2", "172.30.10.22", CONTAINERS) == "172.30.10.22"


@pytest.mark.parametrize(
    ("pool", "node", "address", "facts", "reason"),
    [
        ("ap", "app3", "", CONTAINERS, "did you mean 'app'?"),
        (
            "monitor",
            "monitor2",
            "",
            CONTAINERS,
            "is none that hosts are added to. There are: lb, app, media, cache, db",
        ),
        ("", "app3", "", CONTAINERS, "POOL= is missing. Type it like this: make add-node ENV=local POOL=app NODE=app3"),
        ("app", "", "", CONTAINERS, "NODE= is missing"),
        ("app", "App_3", "", CONTAINERS, "is no name of a host"),
        ("app", "quorum", "", CONTAINERS, "is the name of a group"),
        ("media", "app1", "", CONTAINERS, "app1 is in 'app' already (inventories/local.yml:13): choose another name"),
        ("app", "app1", "172.30.10.29", CONTAINERS, "app1 has the address 172.30.10.21 already"),
        ("app", "app3", "172.30.10.51", CONTAINERS, "172.30.10.51 is the address of db1 (inventories/local.yml:25)"),
        ("app", "app3", "172.30.10.100", CONTAINERS, "is lb_vip"),
        ("app", "app3", "10.1.2.3", CONTAINERS, "outside what hosts of network_cidr 172.30.10.0/24 may have"),
        ("app", "app3", "172.30.10.1", CONTAINERS, "outside"),
        ("app", "app3", "nonsense", CONTAINERS, "is no address"),
        ("app", "app3", "", REAL, "ADDRESS= is missing: nobody but you knows the address of a real host"),
    ],
)
def test_a_host_that_cannot_be_added_is_refused(
    pool: str, node: str, address: str, facts: dict[str, Any], reason: str
) -> None:
    refused(reason, nodes.check_add, inventory(), pool, node, address, facts)


@pytest.mark.parametrize(
    ("node", "reason"),
    [
        ("", "NODE= is missing"),
        ("ap1", "There is no ap1 in inventories/local.yml; did you mean 'app1'?"),
        ("x", "There is no x in inventories/local.yml."),
        ("cache1", "cache1 is one of the 3 that agree on which database is primary"),
        ("monitor1", "monitor1 is one of the 3"),
    ],
)
def test_a_host_that_cannot_be_removed_is_refused(node: str, reason: str) -> None:
    refused(reason, nodes.check_remove, inventory(), node, CONTAINERS)


def test_the_last_host_of_a_group_is_not_removed() -> None:
    text = inventory().without_host("media2")
    refused("media1 is the last of 'media'", nodes.check_remove, inventory(text), "media1", CONTAINERS)


def test_a_refusal_leaves_the_inventory_unchanged(tmp_path: pathlib.Path) -> None:
    copy = tmp_path / "local.yml"
    copy.write_text(LOCAL)
    with pytest.raises(Refused):
        nodes.run(["add", f"--inventory={copy}", "--pool=app", "--node=app3", "--address=172.30.10.51"])
    assert copy.read_text() == LOCAL and list(tmp_path.iterdir()) == [copy]


def test_a_refusal_is_printed_and_exits_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    def refuse() -> None:
        raise Refused("It is Friday.")

    assert exit_code(lambda: 1) == 1 and capsys.readouterr().err == ""
    assert exit_code(refuse) == 2 and capsys.readouterr().err == "Nothing was touched. It is Friday.\n"


def test_only_the_result_is_printed(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = tmp_path / "local.yml"
    copy.write_text(LOCAL)
    copy.chmod(0o640)
    for _ in range(2):
        assert (
            nodes.run(
                ["add", "--write-only", f"--inventory={copy}", "--pool=app", "--node=app3", "--address=172.30.10.23"]
            )
            == 0
        )
    captured = capsys.readouterr()
    assert [json.loads(line) for line in captured.out.splitlines()] == [
        {"changed": True},
        {"changed": False},
    ] and captured.err == ""
    assert inventory(copy.read_text()).groups["app"] == ["app1", "app2", "app3"]
    assert copy.stat().st_mode & 0o777 == 0o640
    for _ in range(2):
        assert nodes.run(["remove", "--write-only", f"--inventory={copy}", "--node=app3"]) == 0
    assert copy.read_text() == LOCAL and list(tmp_path.iterdir()) == [copy]


SEVERAL = """all:
  children:
    local:
      children:
        app:
          hosts:
            # everything
            box1: {ansible_host: 172.30.10.10, private_address: 172.30.10.210}
            app1: {ansible_host: 172.30.10.21}
        db:
          hosts:
              box1:
              db1: {ansible_host: 172.30.10.51}
        cache:
          hosts:
            box1:
        quorum:
          hosts:
            box1:
"""


def test_a_host_is_removed_from_a_single_group() -> None:
    there = inventory(SEVERAL)
    assert there.jobs("box1") == ["app", "cache", "db", "quorum"]
    less = inventory(there.without_host("box1", "db"))
    assert less.text == SEVERAL.replace("              box1:\n", "")
    assert less.jobs("box1") == ["app", "cache", "quorum"] and less.address("box1") == there.address("box1")


def test_variables_of_a_host_move_to_a_remaining_group() -> None:
    less = inventory(inventory(SEVERAL).without_host("box1", "app"))
    assert less.jobs("box1") == ["cache", "db", "quorum"]
    assert "              box1: {ansible_host: 172.30.10.10, private_address: 172.30.10.210}\n" in less.text
    assert less.text.count("172.30.10.10,") == 1 and "# everything" in less.text
    long = SEVERAL.replace(
        "box1: {ansible_host: 172.30.10.10, private_address: 172.30.10.210}",
        "box1:\n              ansible_host: 172.30.10.10\n              private_address: 172.30.10.210",
    )
    less = inventory(inventory(long).without_host("box1", "app"))
    assert (
        "              box1:\n                ansible_host: 172.30.10.10\n                private_address: 172.30.10.210\n"
        in less.text
    )
    assert {"172.30.10.10", "172.30.10.210"} <= set(less.addresses)


def test_the_group_that_a_host_leaves_is_returned() -> None:
    there = inventory(SEVERAL)
    assert nodes.check_remove(there, "box1", CONTAINERS, "db") == "db"
    refused("box1 is not in 'media'", nodes.check_remove, there, "box1", CONTAINERS, "media")
    refused("box1 is the last of 'cache'", nodes.check_remove, there, "box1", CONTAINERS, "cache")
    no_vote = inventory(SEVERAL.partition("        quorum:")[0])
    refused(
        "box1 is in several pools (app, cache, db). Say which one it leaves",
        nodes.check_remove,
        no_vote,
        "box1",
        CONTAINERS,
    )


def test_an_etcd_member_may_leave_another_group_by_name() -> None:
    assert nodes.check_remove(inventory(), "cache1", CONTAINERS, "cache") == "cache"
    less = inventory(inventory().without_host("cache1", "cache"))
    assert (
        less.groups["cache"] == ["cache2"]
        and less.jobs("cache1") == ["quorum"]
        and less.address("cache1") == "172.30.10.41"
    )
