"""A vault with names of before is carried over by `make secrets` with the same values, and refused until then."""

import json
import os
import pathlib
import subprocess
import sys
from typing import Any

import pytest
import yaml
from ansible.parsing.vault import VaultLib, VaultSecret
from repository import ROOT

RENAMED = yaml.safe_load((ROOT / "playbooks/vars/secrets.yml").read_text())["secrets_renamed"]
PASSWORD = "of the vault"
# What takes seconds to make, and this is not about.
MADE = dict.fromkeys(
    [
        "tls_certificate",
        "tls_key",
        *(f"{name}_ca_{part}" for name in ("tls", "backup", "log", "quorum") for part in ("key", "certificate")),
    ],
    "x",
)


class Tier:
    """An environment x in a directory of its own, with a vault that is encrypted."""

    def __init__(self, root: pathlib.Path) -> None:
        self.root, self.file = root, root / "inventories/group_vars/x/vault.yml"
        self.lib = VaultLib([("default", VaultSecret(PASSWORD.encode()))])
        self.file.parent.mkdir(parents=True)
        (root / "password").write_text(PASSWORD)
        hosts = {
            "state_dir": str(root),
            "site_hosts": ["x.test"],
            "env_name": "x",
            "make_args": "ENV=x",
            "ansible_connection": "local",
        }
        (root / "inventories/x.yml").write_text(
            json.dumps(
                {"all": {"vars": hosts, "children": {"lb": {"hosts": {"lb1": {}}}, "x": {"hosts": {"lb1": {}}}}}}
            )
        )

    def fill(self, secrets: dict) -> bytes:
        """Write the vault; its bytes."""
        self.file.write_bytes(self.lib.encrypt(yaml.safe_dump(secrets)))
        return self.file.read_bytes()

    def secrets(self) -> dict:
        """What the vault holds."""
        return yaml.safe_load(self.lib.decrypt(self.file.read_bytes()))

    def run(self, playbook: str, *options: str) -> tuple[int, str]:
        """(exit code, output) of a playbook, as `make secrets` runs it."""
        env = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("VERB", "ANSIBLE_", "MOLECULE", "RENEW", "PYTHONDONT"))
        }
        env |= {
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ANSIBLE_VAULT_PASSWORD_FILE": str(self.root / "password"),
            "ENV": "x",
            "PROGRESS": "quiet",
            "PATH": f"{pathlib.Path(sys.executable).parent}:{env['PATH']}",
        }
        done = subprocess.run(
            ["ansible-playbook", "-i", str(self.root / "inventories/x.yml"), playbook, *options],
            cwd=ROOT,
            env=env,
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        return done.returncode, " ".join(done.stdout.split())


@pytest.fixture(name="tier")
def tier_fixture(tmp_path: pathlib.Path) -> Any:
    return Tier(tmp_path)


def test_a_vault_is_carried_over_once_with_the_same_values(tier: Any) -> None:
    old = (
        MADE
        | {before: f"value of {before}, {{{{ 1 }}}} äöü" for before in RENAMED.values()}
        | {"site_secrets": {"KEY": "1.10"}, "site_secret_key": "kept"}
    )
    before = tier.fill(old)
    # A dry run says what would be, and writes nothing.
    code, output = tier.run("playbooks/secrets.yml", "--check")
    assert code == 0 and "munin_password would be named monitor_password" in output and tier.file.read_bytes() == before
    assert "value of" not in output

    code, output = tier.run("playbooks/secrets.yml")
    assert code == 0 and output.endswith(
        "vault.yml "
        + ", ".join(f"{was} is now named {name}" for name, was in RENAMED.items())
        + ", with the same value."
    ), output
    new = tier.secrets()
    assert {name: new[name] for name in RENAMED} == {name: old[was] for name, was in RENAMED.items()}
    assert not set(RENAMED.values()) & set(new)
    assert (new["site_secrets"], new["site_secret_key"]) == ({"KEY": "1.10"}, "kept")
    assert tier.file.stat().st_mode & 0o777 == 0o600

    # A second run changes nothing; a secret that has both names keeps both.
    once = tier.fill(new | {"munin_password": "another"})
    assert tier.run("playbooks/secrets.yml") == (0, "") and tier.file.read_bytes() == once


def test_a_vault_with_an_old_name_is_refused_with_the_command(tier: Any) -> None:
    tier.fill({"etcd_root_password": "a", "munin_password": "b"})
    code, output = tier.run("playbooks/parts/preflight.yml", "--start-at-task", "Check the names of the secrets")
    assert (
        code == 2
        and "Nothing was touched. The vault of x has monitor_password as munin_password. Rename it: make secrets ENV=x"
        in output
    )
    assert "patroni_password" not in output


def test_no_file_uses_an_old_name_of_a_secret() -> None:
    read = {
        path: path.read_text(encoding="utf-8", errors="replace")
        for room in ("group_vars", "roles", "playbooks", "containers", "controller", "plugins", "docs")
        for path in (ROOT / room).rglob("*")
        if path.is_file() and path.suffix != ".pyc" and path.name != "vault.yml"
    }
    assert {path for path, text in read.items() if any(name in text for name in RENAMED.values())} == {
        ROOT / "playbooks/vars/secrets.yml"
    }
