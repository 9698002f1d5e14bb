"""The Python that roles install on hosts is checked by make lint, short, and installed whole."""

import pathlib
import tomllib

import pytest
from repository import ROOT

CONFIG = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
LINES = 400


def is_python(path: pathlib.Path) -> bool:
    """Whether a file is a module or a program of Python."""
    if path.suffix == ".py":
        return True
    return path.is_file() and path.open("rb").readline().startswith(b"#!/usr/bin/python3")


FILES = [path for path in sorted(ROOT.glob("roles/*/files/**/*")) if is_python(path)]
PACKAGES = [path for path in FILES if (path.parent / "__init__.py").exists() and path.parents[1].name == "files"]
INSTALLED = [path for path in PACKAGES if path.parent.name != "realworld"]  # that is copied as a directory


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_file_of_hosts_is_checked_and_short(path: pathlib.Path) -> None:
    name = path.relative_to(ROOT)
    assert any(name.is_relative_to(checked) for checked in CONFIG["mypy"]["files"]), "mypy does not check it"
    assert path.suffix == ".py" or str(name) in CONFIG["ruff"]["extend-include"], "ruff does not check it"
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LINES


@pytest.mark.parametrize("path", INSTALLED, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_every_module_of_a_package_is_installed(path: pathlib.Path) -> None:
    tasks = "".join(file.read_text(encoding="utf-8") for file in (path.parents[2] / "tasks").glob("*.yml"))
    assert f" {path.parent.name}/{path.name}" in tasks
