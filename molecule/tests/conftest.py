"""What every test of the tier shares: the environment's values, and a visitor outside it."""

import functools
import json
import os
import pathlib
import subprocess

import pytest
import requests
import testinfra

ROOT = pathlib.Path(__file__).resolve().parents[2]



class Tier:
    """The environment under test, as its inventory and group_vars describe it."""

    def __init__(self, inventory):
        self.inventory = str(inventory)
        self.name = pathlib.Path(self.inventory).stem
        # Molecule's own configuration and colours are not those of the repository.
        self.env = dict(os.environ, ANSIBLE_CONFIG=str(ROOT / "ansible.cfg"), ANSIBLE_NOCOLOR="true", ANSIBLE_FORCE_COLOR="false")

    @functools.cache
    def value(self, expression, host="localhost"):
        """The value of an Ansible expression in a host's eyes, templated.

        Raises subprocess.CalledProcessError where Ansible cannot evaluate it.
        """
        done = subprocess.run(
            ["ansible", host, "-i", self.inventory, "-o", "-m", "ansible.builtin.debug",
             "-a", "msg={{ {'value': " + expression + "} | to_json }}"],
            cwd=ROOT, capture_output=True, text=True, check=True,
            env=dict(self.env, ANSIBLE_STDOUT_CALLBACK="ansible.builtin.oneline",
                     ANSIBLE_DISPLAY_OK_HOSTS="true", ANSIBLE_LOAD_CALLBACK_PLUGINS="true"))
        found = json.loads(done.stdout.split("=>", 1)[1])["msg"]
        return (json.loads(found) if isinstance(found, str) else found)["value"]

    def hosts(self, group):
        """Names of the hosts of a group."""
        return self.value("groups")[group]

    def address(self, host):
        """Address peers reach a host at."""
        return {one["name"]: one["address"] for one in self.value("all_hosts")}[host]

    @property
    def key(self):
        """Path of the private key that opens the hosts."""
        return os.path.expanduser(self.value("hostvars[groups['all'][0]].ansible_ssh_private_key_file"))

    @property
    def authority(self):
        """Path of the certificate that the environment's own authority signs with."""
        return str(ROOT / ".state" / self.name / "ca.crt")

    @property
    def url(self):
        """The site as a visitor types it: https and the virtual IP."""
        return "https://" + self.value(f"hostvars[groups['lb'][0]].lb_vip")


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
        with open(ledger, "a", encoding="utf-8") as lines:
            print(json.dumps([f"{item.path.relative_to(ROOT)}::{item.originalname}", report.outcome]), file=lines)
    return report
