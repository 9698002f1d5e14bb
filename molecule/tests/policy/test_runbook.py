"""The table of checks in docs/monitoring.md has the data of group_vars."""

import re
from typing import Any

from repository import ROOT, load

MONITORING = load(ROOT / "group_vars/all/monitoring.yml")
RUNBOOK = load(ROOT / "group_vars/all/runbook.yml")["nagios_runbook"]
SCOPES = {"all": "each host", "tier": "the tier"}


def row(check: str) -> list[str]:
    """The cells of a check: name, scope, contacts, meaning and remedy."""
    host: dict[str, Any] = {"of": "all" if check == "host" else "tier", "tells": MONITORING["nagios_host_tells"]}
    declared = MONITORING["nagios_checks"].get(check, host)
    scope = (
        "tier" if "'tier'" in declared["of"] else declared["of"]
    )  # a condition, of an environment with two databases
    texts = RUNBOOK[check]
    return [f"`{check}`", SCOPES.get(scope, scope), ", ".join(declared["tells"]), texts["meaning"], texts["remedy"]]


def test_the_page_of_monitoring_has_the_declared_checks() -> None:
    page = (ROOT / "docs/monitoring.md").read_text(encoding="utf-8")
    rows = [line.strip("| ").split(" | ") for line in re.findall(r"(?m)^\| `\w+` \|.*$", page)]
    assert rows == [row(check) for check in RUNBOOK]
