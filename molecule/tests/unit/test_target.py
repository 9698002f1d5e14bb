"""When drills take an environment for healthy: by the judgement of `make status`, and stricter."""

from typing import Any

import pytest
from target import Target

ADDRESSES = {name: f"192.0.2.{number}" for number, name in enumerate(("lb1", "lb2", "app1", "db1", "db2", "media1"), 1)}
NODES = "192.0.2.4 5432 2 0.5 up up primary primary 0\n192.0.2.5 5432 1 0.5 up up standby standby 0"
CLUSTER = {
    "members": [
        {"name": "db1", "role": "leader", "state": "running"},
        {"name": "db2", "role": "sync_standby", "state": "streaming", "lag": 0},
    ]
}


class Standing(Target):
    """An environment whose hosts answer what a test says: {command or path that begins so: answer}, on any host."""

    def __init__(self, **changes: Any) -> None:
        self.groups = {
            "all": list(ADDRESSES),
            "lb": ["lb1", "lb2"],
            "app": ["app1"],
            "db": ["db1", "db2"],
            "media": ["media1"],
            "quorum": ["db1"],
        }
        self.address, self.unhealthy = ADDRESSES, ""
        self.facts = {"lb_vip": "192.0.2.9", "make_args": "ENV=x", "app_port": 8000, "etcd_metrics_port": 2381}
        self.held, self.leaders, self.cluster, self.files = ["lb1"], ["db1"], CLUSTER, True
        self.outputs: dict[str, str | None] = {
            "-/health": '{"django": "ok"}',
            ":2381": '{"health": "true"}',
            "pcp_node": NODES,
            "is-system": "running",
        }
        self.__dict__ |= changes

    def holders(self) -> list[str]:
        return self.held

    def primaries(self) -> list[str]:
        return self.leaders

    def ask(self, host: str, path: str) -> tuple[int | None, Any]:
        return (200, self.cluster) if self.cluster else (None, None)

    def accepts_connections(self, host: str, port: str) -> bool:
        return self.files

    def try_on(self, host: str, command: str) -> str | None:
        return next((output for word, output in self.outputs.items() if word in command), None)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({}, ""),
        ({"held": []}, "192.0.2.9 is held by nobody. On a balancer: journalctl -u keepalived"),
        (
            {"leaders": []},
            "The databases have no primary. On a database host: patronictl -c /etc/patroni/config.yml list",
        ),
        ({"cluster": None}, "No standby confirms commits: what db1 acknowledges now, it alone has."),
        (
            {"cluster": {"members": CLUSTER["members"][:1]}},
            "No standby confirms commits: what db1 acknowledges now, it alone has.",
        ),
        ({"files": False}, "media1: its lighttpd does not answer: systemctl status lighttpd"),
        ({"outputs": {}}, "lb1: None"),
    ],
)
def test_an_environment_is_healthy_as_status_judges(changes: dict[str, Any], problem: str) -> None:
    assert Standing(**changes).problem() == problem


@pytest.mark.parametrize(
    ("word", "output", "problem"),
    [
        ("-/health", None, "app1: the site does not answer: systemctl status apache2; journalctl -u apache2"),
        ("-/health", '{"database": "OperationalError"}', "app1: database: OperationalError"),
        ("pcp_node", None, "app1: its pgpool does not answer: systemctl status pgpool2 pgpool-follow"),
        ("pcp_node", NODES.replace("5432 1", "5432 3"), "app1: its pgpool does not use 192.0.2.5"),
        (":2381", None, "db1: its etcd is not in the quorum: systemctl status etcd"),
        ("is-system", "degraded", "lb1: degraded"),
    ],
)
def test_a_host_is_healthy_if_services_answer(word: str, output: str | None, problem: str) -> None:
    standing = Standing()
    standing.outputs[word] = output
    assert standing.problem() == problem
