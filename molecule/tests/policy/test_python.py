"""Python on hosts is checked by make lint, short, and installed whole; functions, arguments and tests have plain names."""

import ast
import importlib.metadata
import pathlib
import re
import sys
import tomllib

import pytest
from repository import ROOT

CONFIG = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
LINES = 400
VAGUE = set("it its who whom told said asked found one place anew aside words seen look".split())
VAGUE_IN_TESTS = VAGUE | set("nobody somebody everybody anybody what well stands knows goes comes".split())


def is_python(path: pathlib.Path) -> bool:
    """Whether a file is a module or a program of Python."""
    if path.suffix == ".py":
        return True
    return path.is_file() and path.open("rb").readline().startswith(b"#!/usr/bin/python3")


FILES = [path for path in sorted(ROOT.glob("roles/*/files/**/*")) if is_python(path)]
PACKAGES = [path for path in FILES if (path.parent / "__init__.py").exists() and path.parents[1].name == "files"]
TESTS = sorted((ROOT / "molecule/tests").rglob("test_*.py"))
INSTALLED = [path for path in PACKAGES if path.parent.name != "realworld"]  # that is copied as a directory


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_python_files_of_hosts_are_checked_and_short(path: pathlib.Path) -> None:
    name = path.relative_to(ROOT)
    assert any(name.is_relative_to(checked) for checked in CONFIG["mypy"]["files"]), "mypy does not check it"
    assert path.suffix == ".py" or str(name) in CONFIG["ruff"]["extend-include"], "ruff does not check it"
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LINES


@pytest.mark.parametrize("path", sorted(ROOT.glob("roles/*/files/**/*.pm")), ids=lambda path: path.name)
def test_perl_modules_are_short(path: pathlib.Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LINES


@pytest.mark.parametrize("path", INSTALLED, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_every_module_of_a_package_is_installed(path: pathlib.Path) -> None:
    tasks = "".join(file.read_text(encoding="utf-8") for file in (path.parents[2] / "tasks").glob("*.yml"))
    assert f" {path.parent.name}/{path.name}" in tasks


def names(tree: ast.AST) -> list[tuple[int, str]]:
    """(line, name) of functions and arguments, in order."""
    return sorted(
        (node.lineno, node.arg if isinstance(node, ast.arg) else node.name)
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.arg))
    )


def vague(tree: ast.AST) -> list[str]:
    """Functions and arguments, as "line: name", with a word that says nothing of what they do or are."""
    return [f"{line}: {name}" for line, name in names(tree) if VAGUE & set(name.split("_"))]


def vague_tests(tree: ast.AST) -> list[str]:
    """Tests, as "line: name", with a word that says nothing of what they assert."""
    tests = [(line, name) for line, name in names(tree) if name.startswith("test_")]
    return [f"{line}: {name}" for line, name in tests if VAGUE_IN_TESTS & set(name.split("_"))]


@pytest.mark.parametrize("room", ["controller", "plugins", "molecule"])
def test_functions_and_arguments_have_plain_names(room: str) -> None:
    problems = {path: vague(ast.parse(path.read_text(encoding="utf-8"))) for path in (ROOT / room).rglob("*.py")}
    assert problems and {path: vague_names for path, vague_names in problems.items() if vague_names} == {}


@pytest.mark.parametrize("path", TESTS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_names_of_tests_are_plain(path: pathlib.Path) -> None:
    assert vague_tests(ast.parse(path.read_text(encoding="utf-8"))) == []


def test_vague_names_of_tests_are_reported() -> None:
    source = "def test_what_stands(): pass\ndef what(): pass\nasync def test_goes_back(a): pass\ndef test_wells(): pass"
    assert vague_tests(ast.parse(source)) == ["1: test_what_stands", "3: test_goes_back"]


@pytest.mark.parametrize(
    ("source", "problems"),
    [
        ("def found(): pass", ["1: found"]),
        ("class A:\n    async def of_its(self): pass", ["2: of_its"]),
        ("def f(a, *words, told=1, **_asked): pass", ["1: _asked", "1: told", "1: words"]),
        ("sorted([], key=lambda one: one)", ["1: one"]),
        ("def replaced(placed, witness): said = placed", []),
    ],
)
def test_vague_names_are_reported(source: str, problems: list[str]) -> None:
    assert vague(ast.parse(source)) == problems


def imported(tree: ast.AST) -> set[str]:
    """First words of what a module imports, wherever in it."""
    nodes = list(ast.walk(tree))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module and not node.level]
    return {name.partition(".")[0] for name in names}


def canonical(name: str) -> str:
    """The name of a package as registries compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize("room", ["controller", "molecule", "plugins"])
def test_imported_packages_are_declared(room: str) -> None:
    declared = {
        canonical(match[0])
        for name in ("requirements.in", "locust.in")
        for line in (ROOT / ".config" / name).read_text(encoding="utf-8").splitlines()
        if (match := re.match(r"[\w.-]+", line))
    }
    packages = importlib.metadata.packages_distributions()
    files = [
        path
        for folder in ("controller", "demo", "molecule", "plugins", "roles")
        for path in (ROOT / folder).rglob("*.py")
    ]
    own = {path.parent.name if path.name == "__init__.py" else path.stem for path in files} | {"controller", "plugins"}
    undeclared = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in (ROOT / room).rglob("*.py")
        for name in imported(ast.parse(path.read_text(encoding="utf-8"))) - sys.stdlib_module_names
        if name not in own and not declared & {canonical(name), *map(canonical, packages.get(name, []))}
    }
    assert undeclared == set()
