"""The packages that a project needs: which file of the project lists them, and what they need of Debian."""

import configparser
import json
import pathlib
import posixpath
import re
import tomllib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from build_locks import LOCKS, lock_kind
from build_project import Project as Pyproject
from build_project import dependencies, is_package, python_ranges, read_project
from build_run import Failed
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from controller.site_check.project import Project

PYTHON = "3.13.5"  # of Debian 13
REQUIREMENTS = [
    *(f"requirements{joint}{name}.txt" for name in ("production", "prod", "deploy") for joint in "/-_"),
    "requirements.txt",
    *(f"requirements/{name}.txt" for name in ("base", "common", "requirements")),
]

COMPILER = ["gcc", "python3-dev"]
# {package: (Debian packages that the build needs, those that the site needs where it runs)}: of packages that bring no library.
DEBIAN: dict[str, tuple[list[str], list[str]]] = {
    "psycopg2": ([*COMPILER, "libpq-dev"], ["libpq5"]),
    "psycopg-c": ([*COMPILER, "libpq-dev"], ["libpq5"]),
    "psycopg": ([], ["libpq5"]),
    "mysqlclient": ([*COMPILER, "default-libmysqlclient-dev", "pkg-config"], ["libmariadb3"]),
    "python-ldap": ([*COMPILER, "libldap-dev", "libsasl2-dev"], ["libldap2"]),
    "xmlsec": ([*COMPILER, "libxml2-dev", "libxmlsec1-dev", "pkg-config"], ["libxmlsec1-openssl"]),
    "pycairo": ([*COMPILER, "libcairo2-dev", "pkg-config"], ["libcairo2"]),
    "pygraphviz": ([*COMPILER, "libgraphviz-dev"], ["graphviz"]),
    "uwsgi": (COMPILER, []),
    "weasyprint": ([], ["libpango-1.0-0", "libpangoft2-1.0-0"]),
    "python-magic": ([], ["libmagic1"]),
}
# {package: (the first version with wheels for the hosts' Python, what older ones are built with)}
WHEELS = {
    "pillow": ("10.4", [*COMPILER, "libjpeg-dev", "zlib1g-dev"]),
    "lxml": ("5.3", [*COMPILER, "libxml2-dev", "libxslt1-dev"]),
    "psycopg2-binary": ("2.9.10", [*COMPILER, "libpq-dev"]),
    "cffi": ("1.17", [*COMPILER, "libffi-dev"]),
    "greenlet": ("3.1", ["g++", "python3-dev"]),
    "numpy": ("2.1", ["g++", "python3-dev"]),
    "pandas": ("2.2.3", ["g++", "python3-dev"]),
    "pyyaml": ("6.0.2", [*COMPILER, "libyaml-dev"]),
}


class Requirements(NamedTuple):
    """What lists the packages of a project.

    file: as site_requirements names it, None where there is nothing; packages: {name: "==1.0" or another specifier};
    refused: why the build would refuse it.
    """

    file: str | None
    packages: Mapping[str, str]
    refused: list[str]


def pyproject(project: Project) -> Pyproject:
    """The content of the project's pyproject.toml; {} where there is none. Raises Failed."""
    return read_project(project.path) if project.has("pyproject.toml") else {}


def choose(project: Project) -> str | None:
    """The file that site_requirements should name; empty: none has to be named; None: there is nothing."""
    locks = [name for pattern in LOCKS for name in project.named(re.escape(pattern).replace(r"\*", "[^/]*"))]
    listed = [name for name in REQUIREMENTS if project.has(name)]
    if locks or listed:
        return [*locks, *listed][0]
    if any(project.has(name) for name in ("pyproject.toml", "setup.py")):
        return ""
    above = [f"../{name}" for name in REQUIREMENTS if project.directory and project.has(f"../{name}")]
    return above[0] if above else None


def requirement_lines(project: Project, name: str, read: frozenset[str] = frozenset()) -> Iterator[str]:
    """The lines of a requirements file and of those that it names."""
    for line in re.sub(r"\\\n", " ", project.text(name)).splitlines():
        line = re.sub(r"(^|\s)#.*", "", line).strip()
        if other := re.match(r"(?:-r|--requirement)[ =]*(\S+)", line):
            path = posixpath.normpath(posixpath.join(posixpath.dirname(name), other[1]))
            if path not in read:
                yield from requirement_lines(project, path, read | {path})
        elif line and not line.startswith("-"):
            yield line


def named_packages(lines: Iterator[str] | list[str]) -> dict[str, str]:
    """{name: specifier} of requirements."""
    packages: dict[str, str] = {}
    for line in lines:
        match = re.match(r"([A-Za-z0-9][\w.-]*)\s*(?:\[[^\]]*\])?\s*([^;#@\s-][^;#]*?)?\s*(?:--|;|@|#|$)", line)
        if match and "://" not in line.split("@")[0]:
            packages[canonicalize_name(match[1])] = (match[2] or "").strip("() ")
        elif egg := re.search(r"#egg=([\w.-]+)", line):
            packages[canonicalize_name(egg[1])] = ""
    return packages


def locked_packages(name: str, text: str) -> dict[str, str]:
    """{name: "==version"} of a lock. Raises ValueError where it cannot be read."""
    if lock_kind(name) == "pipfile":
        default: dict[str, Any] = json.loads(text).get("default", {})
        return {canonicalize_name(package): str(entry.get("version", "")) for package, entry in default.items()}
    lock = tomllib.loads(text)
    entries = [*lock.get("package", []), *lock.get("packages", [])]
    return {canonicalize_name(entry["name"]): f"=={entry['version']}" for entry in entries if "version" in entry}


def requirements(
    project: Project, file: str | None, extras: list[str], groups: list[str], kind: str = "directory"
) -> Requirements:
    """What a file lists, and whether the build would take it. extras, groups: as site_extras and site_dependency_groups name them."""
    try:
        content = pyproject(project)
        if file is None:
            why = (
                "there is no requirements file, no lock, no pyproject.toml and no setup.py: nothing lists the packages"
            )
            return Requirements(None, {}, [why])
        if file and not project.has(file):
            return Requirements(file, {}, [f"the source has no {file}: site_requirements names it"])
        if lock_kind(file):
            packages = locked_packages(file, project.text(file))
            lacks = [] if "django" in packages else [f"{file} does not bring Django"]
            return Requirements(file, packages, lacks)
        if file and file != "pyproject.toml":
            plain = "site_extras and site_dependency_groups need a lock or pyproject.toml as site_requirements"
            wrong = [f"{file} is a requirements file: {plain}"] if extras or groups else []
            return Requirements(file, named_packages(requirement_lines(project, file)), wrong)
        if kind == "wheel":
            return Requirements(file, {}, [])
        if file == "pyproject.toml" or content and not is_package(project.path, content):
            return Requirements(file, named_packages(dependencies(content, extras)), [])
        if not content and not project.has("setup.py"):
            return Requirements(
                file,
                {},
                ["there is no pyproject.toml and no setup.py: site_requirements must name a requirements file"],
            )
        return Requirements(file, package_requirements(project, content), [])
    except (Failed, ValueError) as error:
        return Requirements(file, {}, [str(error)])


def package_requirements(project: Project, content: Pyproject) -> dict[str, str]:
    """{name: specifier} of what a project that is a Python package says it needs; setup.py is not looked into."""
    lines = list(content.get("project", {}).get("dependencies", []))
    lines += content.get("tool", {}).get("poetry", {}).get("dependencies", {})
    setup = configparser.ConfigParser(interpolation=None)
    try:
        setup.read_string(project.text("setup.cfg"))
    except configparser.Error:  # of a tool that reads it otherwise
        return named_packages(lines)
    return named_packages(lines + setup.get("options", "install_requires", fallback="").split("\n"))


def older(specifier: str, version: str) -> bool:
    """Whether a specifier is one version, and that is older than another one."""
    match = re.fullmatch(r"={2,3}\s*([^,\s]+)", specifier)
    try:
        return match is not None and Version(match[1]) < Version(version)
    except InvalidVersion:
        return False


def debian_packages(packages: Mapping[str, str]) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """({package: Debian packages that its build needs}, {package: those that it needs where it runs})."""
    needed = {name: DEBIAN[name] for name in packages if name in DEBIAN}
    if {"psycopg-binary", "psycopg-c"} & packages.keys():
        needed.pop("psycopg", None)
    build = {name: build for name, (build, _run) in needed.items() if build}
    build |= {
        name: tools for name, (version, tools) in WHEELS.items() if name in packages and older(packages[name], version)
    }
    return build, {name: run for name, (_build, run) in needed.items() if run}


def python_problems(directory: pathlib.Path, content: Pyproject) -> tuple[dict[str, str], list[str]]:
    """({file: the versions of Python that it allows}, sentences about those that leave the hosts' Python out)."""
    ranges, problems = {name: text for name, text in python_ranges(directory, content).items() if text}, []
    for file, written in ranges.items():
        try:
            if PYTHON not in SpecifierSet(written):
                problems.append(f"{file} wants Python {written}, and the hosts have Debian's {PYTHON}")
        except InvalidSpecifier as error:
            problems.append(f"{file} has a version of Python that cannot be read: {error}")
    return ranges, problems
