"""Each room holds what ARCHITECTURE.md says of it."""

import ast
import json
import pathlib
import re

import pytest
import yaml
from repository import ROOT

PLAYBOOKS = ROOT / "playbooks"
TESTING = {"test", "verify", "drill", "drills", "bench", "static", "lint", "lock"}  # the verbs that may use molecule/
PRODUCTION = [
    path
    for room in ("playbooks", "controller", "containers", "plugins", "roles", "group_vars")
    for path in sorted((ROOT / room).rglob("*"))
    if path.suffix in (".yml", ".py", ".sh", ".j2")
]
PLAYS = sorted([*PLAYBOOKS.rglob("*.yml"), *(ROOT / "containers").rglob("*.yml")])
BESIDE_PLUGINS = (
    "roles/*/library",
    "roles/*/module_utils",
    "roles/*/*_plugins",
    "playbooks/library",
    "playbooks/*_plugins",
)
OWNER = ROOT / "controller/environment"
# Files that spell what only an Environment knows, each with its reason.
SPELLED = {
    "molecule/tests/default/test_base.py": "tries to log in as no program does",
}


def rules(makefile: str) -> list[tuple[set[str], str]]:
    """(targets, recipe) of every rule; what stands outside of rules is the recipe of no target."""
    parsed: list[tuple[set[str], str]] = []
    for line in makefile.splitlines():
        if rule := re.match(r"([a-z][\w -]*):(?!=)", line):
            parsed.append((set(rule[1].split()), line + "\n"))
        elif line.startswith(("\t", "  ", "ifneq", "ifeq", "ifdef", "else", "endif")) and parsed:
            parsed[-1] = (parsed[-1][0], parsed[-1][1] + line + "\n")
        else:
            parsed.append((set(), line + "\n"))
    return parsed


def referred(path: pathlib.Path) -> set[str]:
    """Files that a playbook or a file of tasks names relatively to itself; none of those that are computed."""

    def within(node: object) -> set[str]:
        if isinstance(node, list):
            return set().union(*map(within, node))
        if not isinstance(node, dict):
            return set()
        keys = [f"ansible.builtin.{key}" for key in ("import_playbook", "import_tasks", "include_tasks")]
        files = {node[key] for key in keys if key in node} | set(node.get("vars_files", []))
        parts = ("tasks", "pre_tasks", "post_tasks", "handlers", "block", "rescue", "always")
        return files.union(*(within(node.get(part)) for part in parts))

    return {name for name in within(yaml.safe_load(path.read_text(encoding="utf-8"))) if "{{" not in name}


def test_playbooks_are_yaml() -> None:
    files = [path for path in PLAYBOOKS.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert files and [path for path in files if path.suffix != ".yml"] == []


def test_a_playbook_is_a_verb() -> None:
    """Of the Makefile or a program that it runs. What verbs import is in parts/, what changes nothing in queries/."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    programs = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "controller/commands").glob("*.py"))
    for path in PLAYBOOKS.glob("*.yml"):
        assert f"playbooks/{path.name}" in makefile or f'"{path.name}"' in programs, f"{path.name} has no verb"
    for path in (PLAYBOOKS / "queries").glob("*.yml"):
        assert f'"playbooks/queries/{path.name}"' in programs, f"nobody asks {path.name}"


@pytest.mark.parametrize("path", PLAYS, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_named_in_playbooks_exist(path: pathlib.Path) -> None:
    """Ansible resolves names from the folder of the file, and looks for most of them only when it needs them."""
    assert [name for name in referred(path) if not (path.parent / name).is_file()] == []


def test_plays_that_await_healthy_hosts_load_the_values_of_status() -> None:
    """The values are in vars/status.yml; without it a play fails where it waits."""
    plays = [play for path in PLAYS for play in yaml.safe_load(path.read_text(encoding="utf-8")) if "hosts" in play]
    works = {"restart", "reboot"}
    awaiting = [
        play
        for play in plays
        if re.search(
            r"await_healthy|work_re|reboot_database", text := json.dumps(play["tasks"] if "tasks" in play else [])
        )
        or ("drained_work" in text and play.get("vars", {}).get("drain_work") in works)
    ]
    lacking = [play["name"] for play in awaiting if not re.search("vars/status.yml", json.dumps(play["vars_files"]))]
    assert len(awaiting) >= 6 and lacking == []


def test_production_uses_nothing_of_molecule() -> None:
    for path in PRODUCTION:
        code = re.sub(r'(?m)(^|\s)#.*$|^"""(?s:.*?)"""', "", path.read_text(encoding="utf-8"))
        assert "molecule/" not in code, path
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    users = [targets for targets, recipe in rules(makefile) if "molecule/" in recipe]
    assert users and all(targets and targets <= TESTING for targets in users), users


def test_modules_are_in_plugins() -> None:
    assert [path for pattern in BESIDE_PLUGINS for path in ROOT.glob(pattern)] == []


def spelled(tree: ast.Module) -> list[str]:
    """Paths of state directories and vaults' passwords, and command lines of ssh, as "line: text". Docstrings are none."""
    prose = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    lines = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            if re.search(r"(^|/)\.state(/|$)|(^|/)vault-password$|\bssh -\w", node.value):
                lines.append((node.lineno, node.value))
        if isinstance(node, (ast.List, ast.Tuple)) and len(node.elts) > 1:
            first, *rest = node.elts
            option = any(isinstance(word, ast.Constant) and str(word.value).startswith("-") for word in rest)
            words = option or any(isinstance(word, ast.Starred) for word in rest)
            if isinstance(first, ast.Constant) and first.value == "ssh" and words:
                lines.append((node.lineno, "ssh"))
    return [f"{line}: {text}" for line, text in sorted(lines)]


def test_paths_and_logins_are_spelled_in_the_environment_package() -> None:
    """A test of the repository itself may write down what it expects."""
    files = [
        path for room in ("controller", "plugins", "containers", "molecule") for path in (ROOT / room).rglob("*.py")
    ]
    tests = (ROOT / "molecule/tests/unit", ROOT / "molecule/tests/policy")
    files = [path for path in files if not any(path.is_relative_to(room) for room in (OWNER, *tests))]
    problems = {
        str(path.relative_to(ROOT)): lines
        for path in files
        if (lines := spelled(ast.parse(path.read_text(encoding="utf-8"))))
    }
    assert len(files) > 100 and set(problems) == set(SPELLED), problems


@pytest.mark.parametrize(
    ("source", "problems"),
    [
        ("STATE = ROOT / '.state'", ["1: .state"]),
        ("f'{root}/.state/{name}'", ["1: /.state/"]),
        ("state / 'vault-password'", ["1: vault-password"]),
        ("['ssh', '-o', 'BatchMode=yes']", ["1: ssh"]),
        ("['ssh', *options, host]", ["1: ssh"]),
        ("run(f'ssh -p 22 {host}')", ["1: ssh -p 22 "]),
        ("'''Reports go to .state/ENV.'''\nunits = ['ssh', 'nginx']\nprint('remove it from .state/releases')", []),
    ],
)
def test_spelled_paths_and_logins_are_reported(source: str, problems: list[str]) -> None:
    assert spelled(ast.parse(source)) == problems
