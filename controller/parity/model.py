"""The sides of a comparison, and what differs between them."""

import dataclasses
from typing import Any

from controller.tiers import GROUPS

KINDS = [
    "host",
    "task",
    "fault",
    "pool",
    "package",
    "file",
    "unit",
    "timer",
    "port",
    "access",
    "user",
    "group",
    "kernel",
    "release",
    "setting",
    "role",
    "database",
    "schema",
]


@dataclasses.dataclass
class Side:
    """One environment: what its hosts answered, and what is to be taken for the same in all."""

    name: str
    hosts: dict[str, dict[str, Any]]  # {host: result of host_snapshot, or why there is none under "msg"}
    secrets: dict[str, str] = dataclasses.field(default_factory=dict)  # {name: text}
    variables: dict[str, dict[str, Any]] = dataclasses.field(
        default_factory=dict
    )  # {host: {variable: value, as it is written}}

    @property
    def known(self) -> dict[str, Any]:
        """What the environment is told by."""
        return next((answer["known"] for answer in self.hosts.values() if "known" in answer), {"groups": {}})

    def tier(self, host: str) -> str:
        """The groups of a host, as one word: cache+quorum."""
        return "+".join(group for group in GROUPS if host in self.known["groups"].get(group, ())) or "?"


@dataclasses.dataclass
class Difference:
    """One thing that is not everywhere the same."""

    tier: str
    kind: str
    name: str
    values: list[tuple[str, list[str]]]  # [(value, hosts)]
    why: str = ""  # it is declared
    where: str = ""
    diff: list[str] = dataclasses.field(default_factory=list)
