"""What a project says of itself: its pyproject.toml, and the Python that it needs."""

import configparser
import pathlib
import re
import sys
import tomllib
import typing

from build_run import Build, Failed
from packaging.requirements import Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import canonicalize_name

Project = dict[str, typing.Any]  # the content of a pyproject.toml


def read_project(directory: pathlib.Path) -> Project:
    """The pyproject.toml of a directory, {} where there is none. Raises Failed."""
    path = directory / "pyproject.toml"
    try:
        return tomllib.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Failed(f"pyproject.toml cannot be read: {error}") from error


def is_package(directory: pathlib.Path, project: Project) -> bool:
    """Whether a project can be built as a Python package; else it is an application, which is shipped as source."""
    tool = project.get("tool", {})
    poetry = tool.get("poetry", {})
    if tool.get("uv", {}).get("package") is not None:
        return bool(tool["uv"]["package"])
    if poetry.get("package-mode") is False or tool.get("pdm", {}).get("distribution") is False:
        return False
    if "build-system" not in project:  # uv's rule, too
        return (directory / "setup.py").is_file()
    if str(project["build-system"].get("build-backend", "")).startswith("poetry.") and "packages" not in poetry:
        # Poetry's `install --no-root` is usual where the module that has the project's name is missing.
        name = canonicalize_name(str(project.get("project", {}).get("name") or poetry.get("name", ""))).replace(
            "-", "_"
        )
        return any((directory / path).exists() for path in (name, f"src/{name}", f"{name}.py"))
    return True


def version_files(project: Project) -> list[str]:
    """Files of a project that its build writes the version to, which comes from git: the source has none of them."""
    tool = project.get("tool", {})
    scm = tool.get("setuptools_scm", tool.get("setuptools-scm", {}))
    hook = tool.get("hatch", {}).get("build", {}).get("hooks", {}).get("vcs", {})
    return [name for name in (scm.get("version_file"), scm.get("write_to"), hook.get("version-file")) if name]


def dependencies(project: Project, extras: list[str]) -> list[str]:
    """The requirements that [project] names, with those of extras. Raises Failed."""
    table = project.get("project")
    if table is None:
        raise Failed(
            "pyproject.toml has no [project] that names what it needs: "
            "site_requirements must name its lock, or a requirements file"
        )
    if "dependencies" in table.get("dynamic", []):
        raise Failed(
            "pyproject.toml takes its dependencies from another file: "
            "site_requirements must name that requirements file"
        )
    optional = {canonicalize_name(name): lines for name, lines in table.get("optional-dependencies", {}).items()}
    found, wanted, seen = list(table.get("dependencies", [])), [canonicalize_name(name) for name in extras], set()
    while wanted:
        extra = wanted.pop()
        if extra in seen:
            continue
        seen.add(extra)
        if extra not in optional:
            raise Failed(f"pyproject.toml has no extra {extra}: site_extras names it")
        for line in optional[extra]:
            requirement = Requirement(line)
            if canonicalize_name(requirement.name) == canonicalize_name(table.get("name", "")):  # shop[all]
                wanted += [canonicalize_name(name) for name in requirement.extras]
            else:
                found.append(line)
    return found


def poetry_range(written: str) -> str:
    """A version range as Poetry writes it, in the words of PEP 440: ^3.11 is >=3.11,<4. Empty where it cannot be read."""
    ranges = []
    written = re.sub(r"([\^~<>=!])\s+", r"\1", written.strip())  # >= 3.11
    for part in filter(None, re.split(r"[,\s]+", written)):
        match = re.fullmatch(r"([\^~])(\d+)(?:\.(\d+))?.*", part)
        if match and (match[1] == "^" or match[3] is None):
            ranges.append(f">={part[1:]},<{int(match[2]) + 1}")
        elif match:
            ranges.append(f">={part[1:]},<{match[2]}.{int(match[3]) + 1}")
        elif part != "*":
            ranges.append(re.sub(r"^=?(?=\d)", "==", part))
    try:
        SpecifierSet(",".join(ranges))
    except InvalidSpecifier:  # Poetry reads more than PEP 440 has: that is no reason to refuse
        return ""
    return ",".join(ranges)


def python_ranges(directory: pathlib.Path, project: Project) -> dict[str, str]:
    """{file that says it: the versions of Python that a project runs on}."""
    ranges: dict[str, str] = {}
    setup = configparser.ConfigParser(interpolation=None)
    try:
        setup.read(directory / "setup.cfg", encoding="utf-8")
        ranges["setup.cfg"] = setup.get("options", "python_requires", fallback="")
    except (configparser.Error, UnicodeDecodeError):
        pass  # of a tool that reads it otherwise
    poetry = project.get("tool", {}).get("poetry", {}).get("dependencies", {}).get("python", "")
    if isinstance(poetry, str) and "|" not in poetry:
        ranges["pyproject.toml"] = poetry_range(poetry)
    if requires := project.get("project", {}).get("requires-python"):
        ranges["pyproject.toml"] = str(requires)
    return ranges


def refuse_python(build: Build, directory: pathlib.Path) -> None:
    """Refuse a project that does not run on this Python, which is the one of the hosts. Raises Failed."""
    if build["kind"] == "wheel":
        return  # pip says it
    version = ".".join(map(str, sys.version_info[:3]))
    for file, written in python_ranges(directory, read_project(directory)).items():
        try:
            met = version in SpecifierSet(written)
        except InvalidSpecifier as error:
            raise Failed(f"{file} says of Python what nobody can read: {error}") from error
        if not met:
            raise Failed(
                f"{file} wants Python {written}, and the hosts have Debian's {version}: "
                "widen it there once the project runs on that, or take a release of the project that does"
            )
