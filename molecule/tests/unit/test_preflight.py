"""Wrong input is refused, with the line to change, before anything is touched."""

import pathlib
import re
import shutil
from collections.abc import Callable
from typing import Any

import pytest
import yaml
from repository import ROOT
from tier import search

from controller.tiers import GROUPS
from plugins.modules import preflight


@pytest.fixture
def copy(tmp_path: pathlib.Path) -> pathlib.Path:
    """The files preflight reads, to plant errors in."""
    for part in ("inventories", "group_vars", "roles", "playbooks", "plugins", "controller", "containers", "molecule"):
        shutil.copytree(
            ROOT / part, tmp_path / part, symlinks=True, ignore=shutil.ignore_patterns("vault.yml", "tests")
        )
    return tmp_path


@pytest.fixture
def complaints(copy: pathlib.Path) -> Callable[..., Any]:
    """Run the check on the copy as one environment."""

    def run(env: str = "local") -> list[str]:
        values = yaml.safe_load((copy / f"group_vars/{env}/main.yml").read_text())
        return preflight.check(copy, copy / f"inventories/{env}.yml", GROUPS, values)

    return run


def edit(path: pathlib.Path, pattern: str, replacement: str) -> None:
    text = path.read_text()
    changed = re.sub(pattern, replacement, text, count=1, flags=re.M)
    assert changed != text, f"{pattern} is not in {path}"
    path.write_text(changed)


def test_committed_inventories_have_no_problems(complaints: Callable[..., Any]) -> None:
    assert complaints("local") == []


@pytest.mark.parametrize("env", ["staging", "production"])
def test_example_addresses_are_refused(complaints: Callable[..., Any], env: str) -> None:
    lines = complaints(env)
    assert len(lines) == 12
    assert all("example address" in line for line in lines)


@pytest.mark.parametrize(
    ("path", "pattern", "replacement", "message"),
    [
        (
            "inventories/local.yml",
            r"^        cache:\n(          hosts:\n)(.*\n){2}",
            "",
            "the group 'cache' has no hosts",
        ),
        (
            "inventories/local.yml",
            r"(lb1: .*ansible_host: )[0-9.]+",
            r"\1lb1.example.org",
            "other hosts reach lb1 at 'lb1.example.org'",
        ),
        (
            "inventories/local.yml",
            r"(lb1: .*ansible_host: )[0-9.]+",
            r"\1'fd00::11'",
            "other hosts reach lb1 at 'fd00::11'",
        ),
        (
            "group_vars/all/site.yml",
            r"^site_ref:.*",
            "site_ref: 1.10",
            "site_ref is a text, and YAML reads 1.10 as a number: put it in quotes",
        ),
        ("inventories/local.yml", r"^        media:", "        medai:", "unknown group 'medai'; did you mean 'media'?"),
        ("inventories/local.yml", r"172\.30\.10\.22", "172.30.10.21", "app2 has the address 172.30.10.21 of app1"),
        ("inventories/local.yml", r"172\.30\.10\.51", "10.1.2.3", "db1 at 10.1.2.3 is outside network_cidr"),
        ("inventories/local.yml", r"172\.30\.10\.12", "172.30.10.100", "lb2 has the address of lb_vip"),
        ("inventories/local.yml", r"^            monitor1:\n\Z", "", "'quorum' has 2 hosts"),
        ("inventories/local.yml", r"^            cache2:\n", "            db9:\n", "db9 has no ansible_host"),
        (
            "inventories/local.yml",
            r"^            cache2:\n",
            "            db2:\n",
            "db2 is a database and in 'quorum' too",
        ),
        ("inventories/local.yml", r"^    local:", "    lokal:", "there is no group 'local'"),
        ("group_vars/all/ports.yml", r"^app_port:", "app_prot:", "nothing reads 'app_prot'; did you mean 'app_port'?"),
        ("group_vars/local/main.yml", r"172\.30\.10\.100", "172.30.99.1", "lb_vip 172.30.99.1 is outside"),
        ("group_vars/local/main.yml", r"^env_name: local", "env_name: lokal", "env_name is 'lokal'"),
    ],
)
def test_a_planted_error_is_reported_with_the_line(
    complaints: Callable[..., Any], copy: pathlib.Path, path: str, pattern: str, replacement: str, message: str
) -> None:
    edit(copy / path, pattern, replacement)
    lines = complaints()
    assert any(message in line for line in lines), lines
    assert all(re.match(r"(inventories|group_vars)/\S+: ", line) for line in lines)


def test_a_reported_line_is_the_line_of_the_host(complaints: Callable[..., Any], copy: pathlib.Path) -> None:
    edit(copy / "inventories/local.yml", r"172\.30\.10\.22", "172.30.10.21")
    line = int(search(r"local\.yml:(\d+): app2", "\n".join(complaints()))[1])
    assert "app2" in (copy / "inventories/local.yml").read_text().splitlines()[line - 1]
