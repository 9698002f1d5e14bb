"""An inventory as text: who is in it, and the same text with a host more or less."""

import pathlib
import shutil
from collections.abc import Iterator, Sequence
from typing import Any

import yaml

from controller.errors import Refused
from controller.tiers import GROUPS, POOLS
from plugins.modules import preflight

ROOT = pathlib.Path(__file__).resolve().parents[1]
Facts = dict[str, Any]  # variables of an environment, as group_vars/ENV/main.yml sets them


def last_line(node: yaml.Node) -> int:
    """Number of the last line of a YAML node, from 0, without the comments that follow it."""
    if isinstance(node, yaml.MappingNode) and not node.flow_style:
        return max([node.start_mark.line, *(last_line(part) for pair in node.value for part in pair)])
    if isinstance(node, yaml.SequenceNode) and not node.flow_style:
        return max([node.start_mark.line, *map(last_line, node.value)])
    return node.end_mark.line


def sections(node: yaml.Node | None) -> Iterator[tuple[str, yaml.MappingNode]]:
    """Yield (group, node of its hosts) for every group of an inventory that has hosts."""
    for group, _line, body in preflight.keys(node):
        for section, _line, content in preflight.keys(body):
            if section == "hosts" and isinstance(content, yaml.MappingNode):
                yield group, content
            elif section == "children":
                yield from sections(content)


class Inventory:
    """The text of an inventory, and who is in it."""

    def __init__(self, text: str, name: str = "inventory") -> None:
        self.text, self.name = text, name
        tree = yaml.compose(text, preflight.VaultLoader)
        self.sections = list(sections(tree))
        self.lines: dict[str, int] = {}  # host: number of the line that brings it in, from 1
        self.addresses: dict[str, str] = {}  # address: host
        self.groups: dict[str, list[str]] = {}  # group: its hosts in their order
        for group, _line, hosts in preflight.inventory_groups(tree):
            for host, (line, variables) in hosts.items():
                self.groups.setdefault(group, []).append(host)
                if host not in self.lines or "ansible_host" in variables:
                    self.lines[host] = line
                self.addresses |= {variables[v][1]: host for v in ("ansible_host", "private_address") if v in variables}

    def pools(self, host: str) -> list[str]:
        """The pools that a host is in."""
        return [pool for pool in POOLS if host in self.groups.get(pool, [])]

    def jobs(self, host: str) -> list[str]:
        """All groups of the environment that a host is in."""
        return [group for group in GROUPS if host in self.groups.get(group, [])]

    def address(self, host: str) -> str:
        """The address of a host, as this machine reaches it."""
        return next(address for address, name in self.addresses.items() if name == host)

    def location(self, host: str) -> str:
        """Where a host stands, as file and line."""
        return f"{self.name}:{self.lines[host]}"

    def with_host(self, pool: str, host: str, address: str) -> str:
        """The text with a host more, after the last one of its pool. Raises Refused where the file is written another way."""
        hosts = dict(self.sections).get(pool)
        if hosts is None or hosts.flow_style or not hosts.value:
            raise Refused(
                f"{self.name} does not list the hosts of '{pool}' one a line: write them like those of inventories/local.yml."
            )
        indent = " " * hosts.value[0][0].start_mark.column
        lines = self.text.splitlines(keepends=True)
        number = last_line(hosts)
        if not lines[number].endswith("\n"):
            lines[number] += "\n"
        lines.insert(number + 1, f"{indent}{host}: {{ansible_host: {address}}}\n")
        return "".join(lines)

    def without_host(self, host: str, pool: str = "") -> str:
        """The text without a host, in one pool or in whichever groups it is. Raises Refused where the file is written another way."""
        gone, stays = set(), []
        for group, hosts in self.sections:
            for key, value in hosts.value:
                if key.value != host:
                    continue
                if hosts.flow_style:
                    raise Refused(f"{self.name} does not list its hosts one a line: take {host} out of it by hand.")
                if pool in ("", group):
                    gone |= set(range(key.start_mark.line, last_line(value) + 1))
                else:
                    stays.append((key, value))
        lines = self.text.splitlines(keepends=True)
        kept = {number: line for number, line in enumerate(lines) if number not in gone}
        # What the inventory says of the host goes where it is still named.
        if stays and not any(isinstance(value, yaml.MappingNode) for _key, value in stays):
            kept[stays[0][0].start_mark.line] = self.moved(lines, sorted(gone), stays[0][0].start_mark.column)
        return "".join(line for _number, line in sorted(kept.items()))

    @staticmethod
    def moved(lines: Sequence[str], numbers: Sequence[int], column: int) -> str:
        """Lines of a host, as they are where its name begins in another column."""
        before = len(lines[numbers[0]]) - len(lines[numbers[0]].lstrip())
        return "".join(" " * column + lines[number].rstrip("\n")[before:] + "\n" for number in numbers)


def write(path: pathlib.Path, text: str) -> bool:
    """Replace a file's content at once, if it is another. Returns whether it was."""
    if path.exists() and path.read_text() == text:
        return False
    new = path.with_name(f".{path.name}.new")
    new.write_text(text)
    if path.exists():
        shutil.copymode(path, new)
    new.replace(path)
    return True
