"""Where this repository sets what differs."""

import json
import pathlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import yaml

from controller.inventory import ROOT
from controller.parity.model import Difference, Side
from plugins.modules import preflight

Task = dict[str, Any]  # as YAML has it
Destination = tuple[re.Pattern[str], int, str]  # a path, letters of it that are sure, the file that it is made of


class Repository:
    """Where this repository says what."""

    def __init__(self, root: pathlib.Path = ROOT) -> None:
        self.root = root
        files = [
            *sorted((root / "group_vars").glob("*.yml")),
            *sorted((root / "group_vars/all").glob("*.yml")),
            *(
                path
                for part in ("defaults", "tasks", "templates", "files")
                for path in sorted(root.glob(f"roles/*/{part}/**/*"))
            ),
        ]
        self.texts = {
            path.relative_to(root).as_posix(): path.read_text(errors="replace")
            for path in files
            if path.is_file() and path.name != "parity.yml"
        }
        self.plain = {
            name: value
            for path, text in self.texts.items()
            if re.match(r"group_vars/|roles/\w+/defaults/", path)
            for name, value in (yaml.load(text, preflight.VaultLoader) or {}).items()
            if isinstance(value, str)
        }
        self.written = [
            destination
            for path, text in self.texts.items()
            if re.match(r"roles/\w+/tasks/", path)
            for task in self.opened(yaml.load(text, preflight.VaultLoader))
            for destination in self.destinations(path, task)
        ]

    def opened(self, tasks: Iterable[Task] | None) -> Iterator[Task]:
        """Yield every task, those of blocks too."""
        for task in tasks or []:
            yield task
            for part in ("block", "rescue", "always"):
                yield from self.opened(task.get(part))

    def destinations(self, path: str, task: Task) -> Iterator[Destination]:
        """Yield (pattern of a path, letters of it that are sure, file that it is made of) of everything that a task writes."""
        role = path.split("/")[1]
        for kind, folder in (("templates", "templates"), ("copies", "files")):
            together = task.get("files", {}).get(kind) or {}
            for dest, source in together.items() if isinstance(together, dict) else ():
                yield re.compile(re.escape(dest)), len(dest), f"roles/{role}/{folder}/{source}"
            for directory in (
                task["files"].get("directories", []) if isinstance(together, str) else ()
            ):  # computed: which, the task tells
                yield re.compile(f"{re.escape(directory)}/[^/]+"), len(directory), path
        service = (task.get("vars") or {}).get("systemd_dropin_service")
        if service:
            dest = f"/etc/systemd/system/{service}.service.d/tier.conf"
            yield re.compile(re.escape(dest)), len(dest), path
        for module, folder in (("template", "templates"), ("copy", "files")):
            given = task.get(f"ansible.builtin.{module}")
            if not isinstance(given, dict):
                continue
            loop = task.get("loop")
            for item in loop if isinstance(loop, list) else [None]:

                def word(text: object, item: Any = item) -> str:
                    def value(match: re.Match[str]) -> str:
                        key = match[1]
                        if key in self.plain:
                            return word(self.plain[key])
                        if key == "item" and isinstance(item, str):
                            return item
                        return (
                            str(item[key[5:]])
                            if isinstance(item, dict) and key.startswith("item.") and key[5:] in item
                            else "\0"
                        )

                    return re.sub(r"\{\{\s*(.*?)\s*\}\}", value, str(text))

                source, dest = word(given.get("src", "")), word(given.get("dest", ""))
                if dest.endswith("/"):
                    dest += source.rpartition("/")[2]
                made_of = f"roles/{role}/{folder}/{source}" if source and "\0" not in source else path
                if not dest.strip("\0"):
                    continue  # it could be any file
                yield (
                    re.compile(re.escape(dest).replace("\0", ".*")),
                    len(dest.replace("\0", "")),
                    made_of if made_of in self.texts else path,
                )

    def source(self, path: str) -> str | None:
        """The template, file or task that makes a file; None where there is none."""
        fitting = [(sure, made_of) for pattern, sure, made_of in self.written if pattern.fullmatch(path)]
        return max(fitting)[1] if fitting else None

    def line(self, word: str) -> str | None:
        """First line that has a word, as file:number; None."""
        pattern = re.compile(rf"(?<![\w-]){re.escape(word)}(?![\w-])")
        for path, text in self.texts.items():
            for number, line in enumerate(text.splitlines(), 1):
                if pattern.search(re.sub(r"(^|\s)#.*", "", line)):
                    return f"{path}:{number}"
        return None

    def set_in(self, name: str, env: str) -> str | None:
        """Where an environment sets a variable, as file:number."""
        for path in sorted((self.root / "group_vars" / env).glob("*.yml")):
            for number, line in enumerate(path.read_text().splitlines(), 1):
                if path.name != "vault.yml" and line.startswith(f"{name}:"):
                    return f"{path.relative_to(self.root)}:{number}"
        return None


def names_in(value: Any) -> set[str]:
    """The words of a value."""
    return set(re.findall(r"[a-z_]\w*", json.dumps(value)))


def differing(text: str, sides_variables: Sequence[Mapping[str, Any]]) -> list[str]:
    """Variables that a text reads, be it through others, and that are not written the same on both sides. sides_variables: two {variable: value}."""
    own, other = sides_variables
    names, unread = set(), names_in(text) & set(own)
    while unread:
        names |= unread
        unread = {word for name in unread for word in names_in(own[name]) & set(own)} - names
    return sorted(name for name in names if own[name] != other.get(name))


def key_word(kind: str, name: str) -> str:
    """The word by which a repository names what is compared."""
    if kind == "port":
        return name.rpartition(":")[2]
    if kind == "pool":
        return name.split()[-1].rpartition(".")[2]
    return re.sub(r"\.(service|socket|timer|path)$", "", name.split()[0])


def where(difference: Difference, sides: Sequence[Side], repository: Repository) -> str:
    """Where what differs is set, as a sentence; empty where only its host knows."""
    kind, name = difference.kind, difference.name
    if kind in ("host", "task", "fault"):
        return ""
    if kind == "pool" and name == "hosts":
        return "; ".join(f"inventories/{side.name}.yml" for side in sides)
    if kind in ("schema", "release"):
        return "set by the migrations of the release" if kind == "schema" else "set by make deploy"
    source = repository.source(name) if kind == "file" else repository.line(key_word(kind, name))
    if source is None:
        return f"nothing in this repository {'writes' if kind == 'file' else 'names'} it"
    sentence = f"set by {source}"
    if len(sides) > 1 and kind == "file":
        variables = [
            next(
                (
                    side.variables[host]
                    for host in side.hosts
                    if side.tier(host) == difference.tier and host in side.variables
                ),
                {},
            )
            for side in sides
        ]
        text = repository.texts[source] if source in repository.texts else ""
        # Those that say where an environment is, and its secrets, are taken for the same.
        same = {
            "private_address",
            "state_dir",
            *sides[0].known,
            *(secret.partition(".")[0] for side in sides for secret in side.secrets),
        }
        names = [
            variable
            for variable in differing(text, variables)
            if variable not in same and not variable.startswith(("ansible_", "inventory_"))
        ]
        sentence += "".join(
            f"; {variable} ({', '.join(repository.set_in(variable, side.name) or 'inventory' for side in sides)})"
            for variable in names
        )
        if not names and not difference.why:
            sentence += "; no variable that it reads differs: changed by hand, or not converged"
    return sentence
