"""What every test of the tier shares: the environment's values, and a visitor outside it."""

import json
import os
import pathlib
import sys

import pytest
import requests
import testinfra

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "molecule"))
from tier import Tier


@pytest.fixture(scope="session")
def tier(request):
    """The environment named by --ansible-inventory."""
    return Tier(request.config.getoption("ansible_inventory") or ROOT / "inventories/local.yml")


@pytest.fixture(name="on", scope="session")
def on_fixture(tier):
    """on("app1") is that host, to run commands on as root."""
    return lambda name: testinfra.get_host(f"ansible://{name}", ansible_inventory=tier.inventory, sudo=True)


@pytest.fixture
def visitor(tier):
    """A browser's session outside the tier, trusting the environment's own authority."""
    with requests.Session() as session:
        session.trust_env = False  # else a bundle named in the environment overrides verify
        session.verify = tier.authority
        yield session


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
    """Record each outcome, so that `make test` can tell which tests never ran."""
    report = yield
    ledger = os.environ.get("TEST_LEDGER")
    if ledger and (report.when == "call" or report.outcome != "passed"):
        crash = getattr(report.longrepr, "reprcrash", None)
        why = f"{item.name}: {crash.message if crash else report.longrepr}"[:600] if report.failed else ""
        with open(ledger, "a", encoding="utf-8") as lines:
            print(json.dumps([f"{item.path.relative_to(ROOT)}::{item.originalname}", report.outcome, why]), file=lines)
    return report
