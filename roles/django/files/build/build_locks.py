"""Locks as requirements that pip takes: exactly the locked versions, with hashes.

uv.lock and poetry.lock are read by their own tools, as their formats are nobody else's. The others are read here:
pylock.toml (PEP 751), pdm.lock and Pipfile.lock.
"""

import collections.abc
import fnmatch
import json
import os
import pathlib
import re
import tomllib
import typing

from build_run import FILES, PIP, SCRATCH, Failed, Log
from packaging.markers import Marker

Values = dict[str, typing.Any]
# {pattern of a lock's name: who reads it}
LOCKS = {
    "uv.lock": "uv",
    "poetry.lock": "poetry",
    "pdm.lock": "pdm",
    "Pipfile.lock": "pipfile",
    "pylock.toml": "pylock",
    "pylock.*.toml": "pylock",
}


def lock_kind(requirements: str) -> str:
    """Who reads the file that site_requirements names, as LOCKS says; empty for a file that is no lock."""
    name = pathlib.PurePath(requirements).name
    return next((kind for pattern, kind in LOCKS.items() if fnmatch.fnmatchcase(name, pattern)), "")


def requirement(name: str, what: str, marker: str = "", hashes: collections.abc.Iterable[str] = ()) -> str:
    """A line of a requirements file; what is "==1.0" or " @ URL"."""
    marked = f" ; {marker}" if marker else ""
    return f"{name}{what}{marked}" + "".join(f" --hash={digest}" for digest in sorted(set(hashes)))


def vcs(kind: str, url: str, commit: str, subdirectory: str = "") -> str:
    """The end of a requirement that comes from a version control system."""
    return f" @ {kind}+{url}@{commit}" + (f"#subdirectory={subdirectory}" if subdirectory else "")


def pdm(lock: Values, extras: list[str], groups: list[str]) -> list[str]:
    """Requirements of a pdm.lock. Raises Failed."""
    metadata = lock.get("metadata", {})
    if "inherit_metadata" not in metadata.get("strategy", []):
        raise Failed("pdm.lock does not say which group needs a package: pdm lock --strategy inherit_metadata")
    wanted = {"default", *extras, *groups}
    if missing := wanted - set(metadata.get("groups", [])):
        raise Failed(f"pdm.lock has no group or extra {', '.join(sorted(missing))}: pdm lock --group :all")
    lines = []
    for package in lock.get("package", []):
        if not wanted & set(package.get("groups", ["default"])):
            continue
        name, marker = package["name"], package.get("marker", "")
        if "git" in package:
            what = vcs("git", package["git"], package["revision"], package.get("subdirectory", ""))
        elif "path" in package:
            lines.append(package["path"])
            continue
        else:
            what = f" @ {package['url']}" if "url" in package else f"=={package['version']}"
        lines.append(requirement(name, what, marker, [file["hash"] for file in package.get("files", [])]))
    return list(dict.fromkeys(lines))  # a package and the same with extras


def pipfile(lock: Values, _extras: list[str], groups: list[str]) -> list[str]:
    """Requirements of a Pipfile.lock. Raises Failed."""
    if missing := [group for group in groups if group not in lock]:
        raise Failed(f"Pipfile.lock has no group {', '.join(missing)}: site_dependency_groups names it")
    lines = []
    for name, package in {key: value for group in ["default", *groups] for key, value in lock[group].items()}.items():
        if "path" in package:
            lines.append(package["path"])
            continue
        if "git" in package:
            what = vcs("git", package["git"], package["ref"], package.get("subdirectory", ""))
        else:
            what = f" @ {package['file']}" if "file" in package else package["version"]
        lines.append(requirement(name, what, package.get("markers", ""), package.get("hashes", [])))
    return lines


def pylock(lock: Values, extras: list[str], groups: list[str]) -> list[str]:
    """Requirements of a pylock.toml. Raises Failed."""
    for kind, wanted, known in (
        ("extra", extras, lock.get("extras", [])),
        ("dependency group", groups, lock.get("dependency-groups", [])),
    ):
        if missing := [name for name in wanted if name not in known]:
            raise Failed(f"pylock.toml has no {kind} {', '.join(missing)}")
    environment = {"extras": set(extras), "dependency_groups": {*groups, *lock.get("default-groups", [])}}
    lines = []
    for package in lock.get("packages", []):
        marker = package.get("marker")
        if marker and not Marker(marker).evaluate(typing.cast(typing.Any, environment), context="lock_file"):
            continue
        name, files = package["name"], [*package.get("wheels", []), *filter(None, [package.get("sdist")])]
        if "vcs" in package:
            source = package["vcs"]
            lines.append(
                requirement(
                    name, vcs(source["type"], source["url"], source["commit-id"], source.get("subdirectory", ""))
                )
            )
        elif "directory" in package:
            lines.append(f"./{package['directory']['path']}")
        elif "archive" in package:
            archive = package["archive"]
            what = f" @ {archive['url']}" if "url" in archive else f" @ file:{archive['path']}"
            lines.append(requirement(name, what, hashes=digests(archive)))
        else:
            hashes = [digest for file in files for digest in digests(file)]
            lines.append(requirement(name, f"=={package['version']}", hashes=hashes))
    return lines


def digests(file: Values) -> list[str]:
    """The hashes that pip takes of a file of a pylock.toml."""
    return [f"{name}:{digest}" for name, digest in file["hashes"].items() if name in ("sha256", "sha384", "sha512")]


READERS = {"pdm": pdm, "pipfile": pipfile, "pylock": pylock}


def lines_of(text: str) -> list[str]:
    """The requirements and options of a requirements file, without comments, a line each."""
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    return [
        re.sub(r"^(-e|--editable) ", "", line.strip()) for line in lines if line.strip() and line.lstrip()[0] != "#"
    ]


def export(log: Log, kind: str, directory: pathlib.Path, extras: list[str], groups: list[str]) -> list[str]:
    """Requirements of the uv.lock or poetry.lock of a project, from its own tool. Raises Failed."""
    tool, output = SCRATCH / kind, SCRATCH / f"{kind}.txt"
    log.run(["python3", "-m", "venv", "--without-pip", tool], f"make a virtualenv for {kind}")
    pinned = FILES / "build" / f"{kind}.txt"
    log.run(
        [*PIP, "--python", tool / "bin/python", "install", "--quiet", "--require-hashes", "--requirement", pinned],
        f"install {kind}, which reads {kind}.lock",
    )
    if kind == "uv":
        command = [
            *("uv", "export", "--frozen", "--offline", "--no-emit-project", "--no-default-groups", "--no-editable"),
            *("--no-header", "--no-annotate", "--format", "requirements.txt", "--quiet", "--output-file", str(output)),
            *(word for name in extras for word in ("--extra", name)),
            *(word for name in groups for word in ("--group", name)),
        ]
    else:
        command = [
            *("poetry", "export", "--no-interaction", "--format", "requirements.txt", "--output", str(output)),
            *(word for name in extras for word in ("--extras", name)),
            *(word for name in groups for word in ("--with", name)),
        ]
    environment = {"UV_PYTHON_DOWNLOADS": "never", "UV_NO_CONFIG": "1", "POETRY_VIRTUALENVS_CREATE": "false"}
    log.run(
        [tool / "bin" / command[0], *command[1:]],
        f"read {kind}.lock",
        cwd=directory,
        env=os.environ | environment,
    )
    return lines_of(output.read_text(encoding="utf-8"))


def locked(
    log: Log, directory: pathlib.Path, requirements: str, extras: list[str], groups: list[str]
) -> tuple[list[str], list[str]]:
    """(requirements with hashes, those that can have none: a commit, a directory) of a lock. Raises Failed."""
    kind, path = lock_kind(requirements), directory / requirements
    if kind == "pipfile" and extras:
        raise Failed("Pipfile.lock knows no extras: site_extras must be empty")
    if kind in READERS:
        try:
            text = path.read_text(encoding="utf-8")
            lock = json.loads(text) if kind == "pipfile" else tomllib.loads(text)
            lines = READERS[kind](lock, extras, groups)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise Failed(f"{requirements} cannot be read: {error!r}; lock the project again") from error
    else:
        lines = export(
            log, kind, directory if (directory / "pyproject.toml").is_file() else path.parent, extras, groups
        )
    return divide(requirements, lines)


def divide(requirements: str, lines: list[str]) -> tuple[list[str], list[str]]:
    """Lines of a lock as locked returns them; options count for both. Raises Failed where a hash is missing."""
    options = [line for line in lines if line.startswith("-")]
    hashed = [line for line in lines if " --hash=" in line]
    others = [line for line in lines if line not in options and line not in hashed]
    # A commit and a directory of the source cannot change; a version and a file elsewhere can.
    if bare := [line for line in others if not re.search(r" @ (git|hg|svn|bzr)\+|^[^=@]*/| @ file:|^\.", line)]:
        raise Failed(f"{requirements} has no hash of {', '.join(bare[:3])}: lock the project again, with hashes")
    return options + hashed, options + others if others else []
