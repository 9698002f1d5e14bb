"""The groups of an environment stand in group_vars/all/tiers.yml alone."""

import ast
import pathlib
import re
from collections.abc import Iterable, Iterator
from typing import Any

from ansible.module_utils import host_health
from repository import ROOT, load
from status_page import settings

from controller.commands import climb
from controller.tiers import GROUPS, POOLS, TIERS

LIST = 5  # groups that are named together from which on that is a list of the groups: all pools are five
EXCEPTIONS = {  # {file: why it lists groups}
    "controller/commands/climb.py": "the order in which pools grow",
    "playbooks/vars/nodes.yml": "what adding and removing a host changes on the hosts of other groups",
    "roles/status_page/files/status_page/settings.py": "where groups are drawn",
    "roles/status_page/files/status_page/judgement.py": "which answers tell the health of a group",
    "molecule/tests/default/test_cache.py": "expected: hosts that may not connect to a cache",
    "molecule/tests/drills/test_healing.py": "expected: services that come back",
    "molecule/tests/logs/test_logs.py": "expected: services whose lines come to the monitor",
    "molecule/tests/nodes/test_nodes.py": "expected: files that name a host of another group",
}
FOLDERS = ("containers", "controller", "group_vars", "molecule", "playbooks", "plugins", "roles")
FILES = sorted(
    path
    for folder in FOLDERS
    for path in (ROOT / folder).rglob("*")
    if path.suffix in (".yml", ".py", ".j2")
    and path.name not in ("vault.yml", "tiers.yml", "test_tiers.py")
    and not {"__pycache__", "unit"} & set(path.parts)  # unit tests have environments of their own
)


def names_in_text(text: str) -> Iterator[list[str]]:
    """Yield the words of every list in brackets, of every sum of lists of hosts and of every pattern of hosts: lb:app."""
    for inside in re.findall(r"[\[{(]([^\[\](){}]*)[\])}]", text):
        yield re.findall(r"['\"](\w+)['\"]", inside)
    for chain in re.findall(r"\w+_hosts(?:\s*[+,]\s*\w+_hosts)+", text):
        yield [name.removesuffix("_hosts") for name in re.findall(r"\w+", chain)]
    for chain in re.findall(r"\w+(?::\w+)+", text):
        yield chain.split(":")


def names_in_yaml(content: Any) -> Iterator[list[str]]:
    """Yield the words of every list, mapping and expression."""
    if isinstance(content, dict | list):
        yield [word for word in content if isinstance(word, str)]
        for value in content.values() if isinstance(content, dict) else content:
            yield from names_in_yaml(value)
    elif isinstance(content, str):
        yield from names_in_text(content)


def names_in_literal(node: ast.AST) -> list[str]:
    """The words of a literal of Python, with those of literals in it; of a dictionary its keys."""
    if isinstance(node, ast.Constant):
        return [node.value] if isinstance(node.value, str) else []
    parts = node.keys if isinstance(node, ast.Dict) else getattr(node, "elts", [])
    return [name for part in parts if part for name in names_in_literal(part)]


def listed_groups(path: pathlib.Path) -> list[set[str]]:
    """Groups that a file lists."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        found: Iterable[list[str]] = map(names_in_literal, ast.walk(ast.parse(text)))
    else:
        found = names_in_yaml(load(path)) if path.suffix == ".yml" else names_in_text(text)
    return [groups for named in found if len(groups := set(named) & set(GROUPS)) >= LIST]


def test_no_other_file_lists_the_groups() -> None:
    listed = {path.relative_to(ROOT).as_posix(): groups for path in FILES if (groups := listed_groups(path))}
    assert set(listed) == set(EXCEPTIONS)
    assert sorted(climb.ORDER) == sorted(POOLS)


def test_every_row_has_every_field() -> None:
    fields = list(next(iter(TIERS.values())))
    documented = re.findall(r"^#   (\w+) {2,}\S", (ROOT / "group_vars/all/tiers.yml").read_text(encoding="utf-8"), re.M)
    assert set(documented) == set(fields)
    assert {group for group, tier in TIERS.items() if list(tier) != fields} == set()
    assert {other for tier in TIERS.values() for other in tier["uses"]} <= set(GROUPS)


def test_every_group_has_hosts_and_a_health_question() -> None:
    """A list of hosts for roles, a place in inventories, and a method that finds the problems of its hosts."""
    assert {f"{group}_hosts" for group in GROUPS} <= set(load(ROOT / "group_vars/all/hosts.yml"))
    [environment] = load(ROOT / "inventories/local.yml")["all"]["children"].values()
    assert set(environment["children"]) == set(GROUPS)
    assert {group for group in GROUPS if not hasattr(host_health.Host, group)} == set()


def test_every_group_is_drawn_in_the_picture() -> None:
    """On both screens; a host of a group without a place would not be on the page."""
    for _width, bands in (settings.WIDE, settings.NARROW):
        assert sorted(group for band in bands for group in band) == sorted(GROUPS)


def test_names_are_not_put_together_from_strings() -> None:
    """Fields of tiers are read by their names, which can be searched for."""
    for folder in ("containers", "group_vars", "playbooks", "roles"):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in (".yml", ".j2") and path.name != "vault.yml":
                text = path.read_text(encoding="utf-8")
                assert not re.search(r"builtin\.vars|lookup\('vars|query\('vars|\bvars\[", text), path
