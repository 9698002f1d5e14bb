"""The interface of the virtual IP: which one keepalived is told, and what is refused before a host is touched."""

import re
from typing import Any

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.loader import filter_loader
from ansible.template import Templar, trust_as_template
from repository import ROOT
from tier import search

from controller.environment.rendering import load_plugins

load_plugins()
filter_loader.add_directory(str(ROOT / "plugins/filter"))
KEEPALIVED = ROOT / "roles/keepalived"
# A balancer with two interfaces, which has the virtual IP already, as far as keepalived knows.
NETWORKS = {"lo": ["127.0.0.1/8"], "eth0": ["10.0.0.11/24"], "eth1": ["203.0.113.11/28", "203.0.113.5/28"], "eth2": []}


def trusted(value: Any) -> Any:
    """A value of a file of ours, with all its texts trusted as templates."""
    if isinstance(value, dict):
        return {name: trusted(entry) for name, entry in value.items()}
    if isinstance(value, list):
        return [trusted(entry) for entry in value]
    return trust_as_template(value) if isinstance(value, str) else value


def templar(**variables: Any) -> Any:
    """A Templar of lb1, with the role's defaults."""
    hosts = [{"name": "lb1", "address": "10.0.0.11"}, {"name": "lb2", "address": "10.0.0.12"}]
    interfaces = {address.split("/")[0]: name for name, addresses in NETWORKS.items() for address in addresses}
    defined = (
        trusted(yaml.safe_load((KEEPALIVED / "defaults/main.yml").read_text()))
        | {
            "ansible_facts": {"interfaces": interfaces, "networks": NETWORKS},
            "inventory_hostname": "lb1",
            "private_address": "10.0.0.11",
            "lb_hosts": hosts,
            "network_cidr": "10.0.0.0/24",
            "lb_vip": "10.0.0.100",
            "ansible_managed": "managed",
        }
        | variables
    )
    return Templar(loader=DataLoader(), variables=defined)


def refused(**variables: dict[str, Any] | int | str) -> list[str]:
    """The sentences by which a run is refused."""
    [task] = yaml.safe_load((KEEPALIVED / "tasks/interface.yml").read_text())
    given = templar(**trusted(task["vars"]), **variables)
    return [" ".join(item["otherwise"].split()) for item in given.template(trusted(task["loop"])) if not item["that"]]


PUBLIC = {"lb_vip": "203.0.113.5", "keepalived_vip_interface": "eth1", "keepalived_vip_prefix": "28"}


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({}, ""),
        (PUBLIC, ""),
        ({"lb_vip": "198.51.100.9", "keepalived_vip_interface": "eth2", "keepalived_vip_prefix": "32"}, ""),
        ({"lb_vip": "198.51.100.9", "keepalived_vip_prefix": 32}, ""),
        ({"lb_vip": "203.0.113.5"}, "lb_vip 203.0.113.5 is in no network of the interface eth0 of lb1 (10.0.0.11/24)"),
        # That lb1 has it does not make it right.
        (
            PUBLIC
            | {
                "lb_vip": "203.0.113.5",
                "ansible_facts": {
                    "interfaces": {"10.0.0.11": "eth0"},
                    "networks": NETWORKS | {"eth1": ["203.0.113.5/28"]},
                },
            },
            "is in no network of the interface eth1 of lb1 (203.0.113.5/28)",
        ),
        (PUBLIC | {"keepalived_vip_interface": "eth2"}, "is in no network of the interface eth2 of lb1 (no address)"),
        (PUBLIC | {"keepalived_vip_interface": "eth9"}, "lb1 has no interface eth9; it has eth0, eth1, eth2, lo."),
        ({"keepalived_interface": "ens3", "keepalived_vip_interface": "eth0"}, "lb1 has no interface ens3;"),
        (
            {"private_address": "10.0.0.99", "keepalived_vip_interface": "eth0"},
            "No interface of lb1 has the address 10.0.0.99",
        ),
    ],
)
def test_a_wrong_interface_is_refused(variables: Any, message: str) -> None:
    refusals = refused(**variables)
    assert len(refusals) == bool(message) and all(message in sentence for sentence in refusals), refusals


def test_an_address_without_an_interface_is_the_first_problem() -> None:
    assert refused(private_address="10.0.0.99")[0].startswith("No interface of lb1 has the address 10.0.0.99")


@pytest.mark.parametrize(
    ("variables", "heard_at", "address"),
    [({}, "eth0", "10.0.0.100/24 dev eth0"), (PUBLIC, "eth0", "203.0.113.5/28 dev eth1")],
)
def test_keepalived_adds_the_address_to_the_named_interface(
    variables: dict[str, str], heard_at: str, address: str
) -> None:
    """The balancers go on hearing each other where they did."""
    text = templar(**variables).template(trust_as_template((KEEPALIVED / "templates/keepalived.conf.j2").read_text()))
    assert re.findall(r"^ *interface (\S+)$", text, re.M) == [heard_at]
    assert search(r"virtual_ipaddress {\s+(.*)\s+}", text)[1] == address


def test_the_interface_is_checked_when_hosts_are_reached() -> None:
    last = yaml.safe_load((ROOT / "playbooks/parts/connect.yml").read_text())[-1]["tasks"][-1]
    assert last["ansible.builtin.import_role"] == {"name": "keepalived", "tasks_from": "interface"} and last[
        "tags"
    ] == ["always"]
