"""A rehearsal is its environment in another place: what it says of its hosts stays, where they are does not."""

import ipaddress
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
from typing import Any

import pytest
import yaml
from repository import ENVIRONMENTS, ROOT, load

from controller.commands import rehearse
from controller.inventory import Inventory
from inventories import ODD

REAL = [env for env in ENVIRONMENTS if not load(ROOT / f"group_vars/{env}/main.yml")["env_containers"]]


@pytest.fixture
def copy(tmp_path: pathlib.Path) -> pathlib.Path:
    """The files a rehearsal is made of."""
    for part in ("inventories", "group_vars"):
        shutil.copytree(ROOT / part, tmp_path / part, symlinks=True, ignore=shutil.ignore_patterns("vault.yml"))
    (tmp_path / "playbooks/vars").mkdir(parents=True)
    shutil.copy(ROOT / "playbooks/vars/rehearsal.yml", tmp_path / "playbooks/vars")
    return tmp_path


def build(copy: pathlib.Path, env: str = "production") -> Any:
    """Rehearse an environment of the copy; (its inventory file, what was said)."""
    state = copy / f".state/{env}-rehearsal"
    sentences = rehearse.build(copy / f"inventories/{env}.yml", state, copy)
    return state / f"inventory/{env}.yml", sentences


def without_addresses(text: str) -> str:
    """An inventory's text with a star for every address."""
    return re.sub(r"\d+\.\d+\.\d+\.\d+", "*", text)


@pytest.mark.parametrize("env", REAL)
def test_only_addresses_differ_and_all_are_on_this_machine(copy: pathlib.Path, env: str) -> None:
    path, sentences = build(copy, env)
    real, rehearsed = (ROOT / f"inventories/{env}.yml").read_text(), path.read_text()
    assert sentences == []
    assert without_addresses(rehearsed) == without_addresses(real)  # comments, order, names and groups
    values = load(path.parent / f"group_vars/{env}/zz_rehearsal.yml")
    network = ipaddress.ip_network(values["network_cidr"])
    addresses = Inventory(rehearsed).addresses
    assert len(addresses) == len(Inventory(real).lines)
    assert network.is_private and all(ipaddress.ip_address(address) in network for address in addresses)
    assert ipaddress.ip_address(values["lb_vip"]) in network and values["lb_vip"] not in addresses


def test_environments_are_rehearsed_side_by_side() -> None:
    networks = [f"{rehearse.network_of(env)}.0/24" for env in REAL] + [
        load(ROOT / f"group_vars/{env}/main.yml")["network_cidr"] for env in ENVIRONMENTS if env not in REAL
    ]
    assert len(set(networks)) == len(ENVIRONMENTS)


def test_an_inventory_written_by_hand_keeps_the_style() -> None:
    text = rehearse.moved(ODD, "inventories/production.yml", "172.30.150")
    assert text == ODD.replace("203.0.113.7 ", "172.30.150.7 ").replace("198.51.100.21", "172.30.150.7").replace(
        "203.0.113.8", "172.30.150.8"
    ).replace("198.51.100.22", "172.30.150.8")


def test_taken_names_and_numbers_get_the_next_free_number() -> None:
    addresses = rehearse.new_addresses(
        {"a": "10.0.0.100", "b": "b.example.com", "c": "10.0.0.5", "d": "10.0.1.5", "e": "10.0.0.1"},
        "172.30.150",
        {"d": "172.30.150.9"},
    )
    assert addresses == {
        "a": "172.30.150.2",
        "b": "172.30.150.3",
        "c": "172.30.150.5",
        "d": "172.30.150.9",
        "e": "172.30.150.4",
    }


def test_verbs_of_a_rehearsal_do_not_use_files_of_the_real_environment() -> None:
    """What `make down` removes, and the password of the vault: its own."""
    for env in REAL:
        command = ["make", "--no-print-directory", "--dry-run", "down", f"ENV={env}", "REHEARSE=1"]
        output = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, check=True, env=dict(os.environ, MAKEFLAGS="")
        ).stdout
        removed = [word for line in output.splitlines() if line.strip().startswith("rm ") for word in line.split()[2:]]
        assert removed and all(word.startswith(f".state/{env}-rehearsal") for word in removed)
        assert f"-i .state/{env}-rehearsal/inventory/{env}.yml" in output
        assert f"-i inventories/{env}.yml" not in output
        command = [
            "make",
            "--no-print-directory",
            "--dry-run",
            "--eval=asked: ; @echo $(ANSIBLE_VAULT_PASSWORD_FILE)",
            "asked",
            f"ENV={env}",
            "REHEARSE=1",
        ]
        output = subprocess.run(
            command,
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
            env=dict(os.environ, MAKEFLAGS="", ANSIBLE_VAULT_PASSWORD_FILE="/real"),
        ).stdout
        assert output == f"echo {ROOT}/.state/{env}-rehearsal/vault-password\n"


@pytest.mark.parametrize(("rehearse", "goes"), [("1", False), ("0", True), ("", True)])
def test_only_1_is_a_rehearsal(rehearse: str, goes: bool) -> None:
    """What stands of an environment with drawings goes with it, not with a rehearsal of it."""
    command = ["make", "--no-print-directory", "--dry-run", "down", "ENV=ladder", f"REHEARSE={rehearse}"]
    output = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=True, env=dict(os.environ, MAKEFLAGS="")
    ).stdout
    [removed] = [line for line in output.splitlines() if line.strip().startswith("rm ")]
    assert ("inventories/ladder.yml" in removed.split()) is goes


@pytest.mark.parametrize(
    ("variables", "reason"),
    [
        (
            "ansible_ssh_common_args: -J jump.example.com",
            "inventories/x.yml:7: ansible_ssh_common_args of app1 says how to reach it",
        ),
        ("ansible_connection: local", "ansible_connection of app1"),
    ],
)
def test_variables_that_could_reach_a_real_host_are_refused(variables: str, reason: str) -> None:
    text = f"all:\n  children:\n    app:\n      hosts:\n        app1:\n          ansible_host: 10.0.0.1\n          {variables}\n"
    with pytest.raises(rehearse.Refused, match=reason):
        rehearse.moved(text, "inventories/x.yml", "172.30.150")


def test_connection_variables_of_a_group_in_the_inventory_are_refused() -> None:
    text = "all:\n  children:\n    app:\n      hosts: {app1: {ansible_host: 10.0.0.1}}\n      vars:\n        ansible_user: admin\n"
    with pytest.raises(rehearse.Refused, match="x.yml:6: how to reach hosts belongs into group_vars"):
        rehearse.moved(text, "x.yml", "172.30.150")


@pytest.mark.parametrize(
    ("file", "text", "reason"),
    [
        (
            "main.yml",
            "ansible_ssh_extra_args: -J jump.example.com\n",
            r"group_vars/production/main.yml:\d+: ansible_ssh_extra_args says how to reach hosts",
        ),
        (
            "zzz.yml",
            "---\nsite: {}\nansible_connection: local\n",
            "group_vars/production/zzz.yml:3: ansible_connection says",
        ),
        # Replaced, and harmless
        (
            "main.yml",
            "ansible_port: 2222\nansible_python_interpreter: /usr/bin/python3\n",
            "",
        ),
        ("keys.yml", "$ANSIBLE_VAULT;1.1;AES256\n3661\n", ""),
    ],
)
def test_unknown_connection_variables_of_an_environment_are_refused(
    copy: pathlib.Path, file: str, text: str, reason: str
) -> None:
    with (copy / "group_vars/production" / file).open("a") as own:
        own.write(text)
    if not reason:
        build(copy)
        return
    with pytest.raises(rehearse.Refused, match=reason):
        build(copy)
    assert not (copy / ".state").exists()


def test_containers_are_not_rehearsed(copy: pathlib.Path) -> None:
    with pytest.raises(rehearse.Refused, match="The hosts of local are containers already"):
        build(copy, "local")


def test_shared_files_are_links_and_secrets_are_not_shared(copy: pathlib.Path) -> None:
    (copy / "group_vars/production/vault.yml").write_text("the real ones")
    path, _sentences = build(copy)
    tree = path.parent / "group_vars"
    assert sorted(p.name for p in tree.iterdir()) == sorted(
        [*(p.name for p in (copy / "group_vars").iterdir() if p.name not in ENVIRONMENTS), "production"]
    )
    assert all(
        p.is_symlink() and p.resolve() == (copy / "group_vars" / p.name).resolve()
        for p in tree.iterdir()
        if p.name != "production"
    )
    assert sorted(p.name for p in (tree / "production").iterdir()) == ["main.yml", "zz_rehearsal.yml"]
    assert (tree / "production/main.yml").resolve() == (copy / "group_vars/production/main.yml").resolve()


def test_a_second_build_changes_no_file(copy: pathlib.Path) -> None:
    """Verbs run side by side, and each makes sure of the tree first."""

    def stamps(path: pathlib.Path) -> dict[pathlib.Path, int]:
        return {file: file.lstat().st_mtime_ns for file in path.parents[1].rglob("*")}

    path, _sentences = build(copy)
    before = stamps(path)
    build(copy)
    assert stamps(path) == before


def test_every_variable_of_the_environment_is_overridden(copy: pathlib.Path) -> None:
    """A variable of the environment's own that a rehearsal kept would be the real one's."""
    path, _sentences = build(copy)
    own = load(copy / "group_vars/production/main.yml")
    assert set(own) - set(load(path.parent / "group_vars/production/zz_rehearsal.yml")) == {"env_name"}


def test_a_host_that_was_added_stays_until_the_inventory_changes(copy: pathlib.Path) -> None:
    path, _sentences = build(copy)
    path.write_text(Inventory(path.read_text()).with_host("app", "app3", "172.30.150.29"))
    assert build(copy) == (path, [])
    assert "app3" in Inventory(path.read_text()).lines
    before = Inventory(path.read_text()).address("app2")
    real = copy / "inventories/production.yml"
    real.write_text(Inventory(real.read_text()).without_host("app1").replace("198.51.100.22", "198.51.100.77"))
    _path, sentences = build(copy)
    assert [sentence.partition(" was in the rehearsal only")[0] for sentence in sentences] == ["app1", "app3"]
    assert Inventory(path.read_text()).groups["app"] == ["app2"]
    assert Inventory(path.read_text()).address("app2") == before  # its container stands there


def test_ansible_reads_the_rehearsal(copy: pathlib.Path) -> None:
    path, _sentences = build(copy)
    command = [sys.executable, "-m", "ansible", "inventory", "-i", str(path), "--list"]
    listed = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    app = listed["_meta"]["hostvars"]["app1"]
    assert app["env_containers"] is True
    assert app["env_name"] == "production"
    assert app["ansible_host"].startswith(f"{rehearse.network_of('production')}.")
    assert app["app_port"] == yaml.safe_load((ROOT / "group_vars/all/ports.yml").read_text())["app_port"]
    assert app["ansible_ssh_private_key_file"] == "~/.ssh/realworld-production-rehearsal"
    assert app["site_hosts"] == ["www.example.com", "{{ lb_vip }}", "localhost"]
    assert listed["production"]["children"] == list(
        load(ROOT / "inventories/production.yml")["all"]["children"]["production"]["children"]
    )
