"""The groups of an environment, as group_vars/all/tiers.yml has them: plain values, which need no inventory. Expressions are left as text."""

import pathlib
from typing import Any

import yaml

FILE = pathlib.Path(__file__).resolve().parents[1] / "group_vars/all/tiers.yml"


def read(path: pathlib.Path = FILE) -> dict[str, dict[str, Any]]:
    """{group: {field: value}}, in the order in which a request passes the groups. Raises OSError and yaml.YAMLError."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # where PyYAML was built with libyaml, ten times as fast
    tiers: dict[str, dict[str, Any]] = yaml.load(path.read_text(encoding="utf-8"), loader)["tiers"]
    return tiers


TIERS = read()
GROUPS = list(TIERS)
POOLS = [group for group, tier in TIERS.items() if tier["pool"]]
