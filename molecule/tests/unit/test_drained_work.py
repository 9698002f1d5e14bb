"""Drained work of playbooks: the hosts of a batch, what stops it, and who stays drained."""

from typing import Any

import pytest
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template
from repository import ROOT, load

from controller.environment.rendering import load_plugins

APPS, BALANCERS = ["app1", "app2", "app3", "app4"], ["lb1", "lb2"]


def rendered(
    name: str, *, problems: dict[str, str] | None = None, lost: tuple[str, ...] = (), **variables: Any
) -> object:
    """A variable of vars/drain.yml in a play of app hosts and balancers: problems is {host: its problem}, lost hosts became unreachable."""
    load_plugins()
    hosts = variables.get("drain_backends", APPS) + BALANCERS
    rules = {key: trust_as_template(value) for key, value in load(ROOT / "playbooks/vars/drain.yml").items()}
    given = {
        "deploy_share": 0.25,
        "groups": {"app": APPS, "lb": BALANCERS},
        "hostvars": {
            host: {"inventory_hostname": host, "drain_problem": (problems or {}).get(host, "")} for host in hosts
        },
        "ansible_play_hosts": [host for host in hosts if host not in lost],
        "drain_backends": APPS,
        "drain_hosts": APPS,
        "drain_needed": APPS,
        "drain_verdict": "",
        "drain_work": "restart",
    }
    return Templar(loader=DataLoader(), variables=rules | given | variables).template(
        trust_as_template(f"{{{{ {name} }}}}")
    )


@pytest.mark.parametrize(
    ("hosts", "variables", "size", "required"),
    [
        (1, {}, 1, False),
        (2, {}, 1, True),
        (8, {}, 2, True),
        (8, {"drain_share": 0.5}, 4, True),
        (3, {"drain_serving": False}, 3, False),  # a first release: all hosts at once
    ],
)
def test_a_batch_is_a_share_of_the_backends(hosts: int, variables: dict[str, Any], size: int, required: bool) -> None:
    backends = [f"app{number}" for number in range(hosts)]
    for name, expected in [("drain_batch_size", size), ("drain_required", required)]:
        assert rendered(name, drain_backends=backends, drain_hosts=backends, **variables) == expected


@pytest.mark.parametrize(
    ("variables", "reason", "kept"),
    [
        ({}, "", []),
        ({"problems": {"app2": "bad"}}, "bad", ["app2"]),
        ({"lost": ("app3",)}, "away since: app3", ["app3"]),
        ({"problems": {"app2": "bad"}, "lost": ("app3",)}, "bad; away since: app3", ["app2", "app3"]),
        ({"drain_verdict": "it is slow: app1"}, "it is slow: app1", []),
        ({"lost": ("lb2",)}, "", []),  # a balancer that the work does not need
        ({"lost": ("lb2",), "drain_needed": APPS + BALANCERS}, "away since: lb2", []),
        ({"problems": dict.fromkeys(APPS, "bad")}, "bad; bad; bad; bad", []),  # nobody else would serve
    ],
)
def test_a_problem_stops_the_work_and_failed_hosts_stay_drained(variables: Any, reason: str, kept: list[str]) -> None:
    assert rendered("drain_reason", **variables) == reason
    assert rendered("drain_kept", **variables) == kept
    assert rendered("drain_continues", **variables) == (reason == "")
    assert rendered("drain_continues", **variables | {"drain_work": "revert"}) is True
