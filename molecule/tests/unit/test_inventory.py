"""Inventories are changed by the lines of a host, whichever way a person has written them."""

import difflib
import pathlib
import re
from collections.abc import Callable

import pytest
from repository import ROOT

from controller.inventory import Inventory

FILES = [*sorted(ROOT.glob("inventories/*.yml")), *sorted(ROOT.glob("inventories/ladder/*.yml"))]
LOCAL = (ROOT / "inventories/local.yml").read_text()
STANDBY = "            db2: {ansible_host: 172.30.10.52}\n"
# As local.yml could be written, too. A round trip through ruamel.yaml changes other lines of most of them.
LAYOUTS: dict[str, Callable[[str], str]] = {
    "as it is": lambda text: text,
    "a comment before a group": lambda text: text.replace("        monitor:", "        # graphs\n        monitor:"),
    "a comment before a host": lambda text: text.replace(STANDBY, f"            # the standby\n{STANDBY}"),
    "a comment after a host": lambda text: text.replace("172.30.10.52}", "172.30.10.52}   # the standby"),
    "an empty line between groups": lambda text: text.replace("        monitor:", "\n        monitor:"),
    "hosts further in": lambda text: re.sub(r"(?m)^( +)(db\d:)", r"\1  \2", text),
    "twice the indentation": lambda text: re.sub(r"(?m)^( +)", r"\1\1", text),
    "variables on lines of their own": lambda text: text.replace(
        " {ansible_host: 172.30.10.51}", "\n              ansible_host: 172.30.10.51\n              host_share: 1.10"
    ),
    "variables further in": lambda text: text.replace(
        " {ansible_host: 172.30.10.51}", "\n                 ansible_host: 172.30.10.51"
    ),
    "quotes": lambda text: text.replace("172.30.10.51}", "\"172.30.10.51\", private_address: '10.0.0.1'}"),
    "spaces in braces": lambda text: text.replace("{ansible_host: 172.30.10.51}", "{ ansible_host: 172.30.10.51 }"),
    "addresses in a column": lambda text: re.sub(r"(db\d:) ", r"\1       ", text),
    "written nulls": lambda text: text.replace("            cache1:\n", "            cache1: ~\n"),
    "numbers of other forms": lambda text: text.replace("172.30.10.51}", "172.30.10.51, a: 010, b: 1_000, c: yes}"),
    "an anchor": lambda text: text.replace("db1: {", "db1: &first {"),
    "a long line": lambda text: text.replace("172.30.10.51}", f"172.30.10.51, note: {'word ' * 60}end}}"),
    "spaces at the end of a line": lambda text: text.replace("        monitor:\n", "        monitor:  \n"),
    "an end of the document": lambda text: f"{text}...\n",
    "no newline at the end": lambda text: text.rstrip("\n"),
}


def changes(before: str, after: str) -> list[str]:
    """Lines that were removed or added, with - or + before them."""
    lines = difflib.ndiff(before.splitlines(), after.splitlines())
    return [line for line in lines if line[0] in "-+"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_host_is_a_line_of_every_inventory(path: pathlib.Path) -> None:
    text = path.read_text()
    for group, hosts in Inventory(text).groups.items():
        more = Inventory(text).with_host(group, "new1", "192.0.2.200")
        [added] = changes(text, more)
        assert added.lstrip("+ ") == "new1: {ansible_host: 192.0.2.200}"
        assert Inventory(more).groups[group] == [*hosts, "new1"]
        assert Inventory(more).without_host("new1") == text


@pytest.mark.parametrize("name", LAYOUTS)
def test_only_the_line_of_the_host_changes(name: str) -> None:
    text = LAYOUTS[name](LOCAL)
    assert (text == LOCAL) is (name == "as it is")
    more = Inventory(text).with_host("db", "db3", "172.30.10.53")
    [added] = changes(text, more)
    assert added.lstrip("+ ") == "db3: {ansible_host: 172.30.10.53}"
    assert Inventory(more).groups["db"] == ["db1", "db2", "db3"]
    assert Inventory(more).without_host("db3") == text
    [removed] = changes(text, Inventory(text).without_host("db2"))
    assert removed.lstrip("- ").startswith("db2:")
