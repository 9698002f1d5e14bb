#!/usr/bin/python
"""Name the release that a source makes, and pack that source when the release has yet to be built."""

import ast
import configparser
import contextlib
import fnmatch
import hashlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import tarfile
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
module: release_source
short_description: Name the release that a source makes
description:
  - The same source and the same way of building it make the same version, on every controller.
  - When no artifact of that version exists, the source is packed for the builder, exactly as it was hashed.
options:
  source: {type: path, required: true, description: "A directory (in a Git working tree: what Git does not ignore), a Git checkout (with commit) or a wheel."}
  commit: {type: str, default: "", description: The commit that is checked out in source.}
  directory: {type: str, default: "", description: "Where the project is in its source."}
  requirements: {type: str, default: "", description: "Requirements file, relative to the source; beside it for a wheel."}
  build: {type: dict, required: true, description: Values that the artifact depends on.}
  code: {type: list, elements: path, required: true, description: Files of the tier that the artifact depends on.}
  artifacts: {type: path, required: true, description: Directory of the artifacts.}
  site: {type: str, required: true, description: Name of the site.}
  checks: {type: dict, default: {}, description: "What the site checks a release with: a release that passed other checks has to be checked again. Empty: nothing."}
  version: {type: str, default: "", description: Take this version rather than the source's. It must be built, and is not checked again.}
"""

RETURN = """
version: {type: str, returned: always, description: The release's version.}
built: {type: bool, returned: always, description: Whether its artifact exists.}
checked: {type: bool, returned: always, description: Whether its artifact exists and passed these checks.}
checks: {type: str, returned: always, description: "What tells these checks from others."}
manifest: {type: str, returned: always, description: "sha256 of its manifest, empty unless built."}
kind: {type: str, returned: unless built, description: "directory, git or wheel."}
epoch: {type: int, returned: unless built, description: The date of every file in the artifact.}
packed: {type: str, returned: unless built, description: The packed source.}
vcs_version:
  type: str
  returned: unless built
  description: "The version that git describe makes of the source, where the project takes its version from there; else empty."
"""

Paths = Mapping[str, pathlib.Path]  # {name in the release: file}

# A developer's own, never the site's. A directory with pyvenv.cfg in it is a virtualenv by any name.
NOT_SOURCE = {
    ".git",
    ".hg",
    ".svn",
    "__pycache__",
    ".venv",
    "node_modules",
    ".tox",
    ".nox",
    ".mypy_cache",
    ".pytest_cache",
    ".ruff_cache",
    ".idea",
    ".vscode",
    ".DS_Store",
    ".env",
    ".envs",
    ".envrc",
    ".direnv",
    "db.sqlite3",
}
NOT_SOURCE_ENDINGS = (".pyc", ".log")
# Packages that take a project's version from git where its build requires them.
VCS_VERSIONS = {"setuptools-scm", "hatch-vcs", "pbr", "poetry-dynamic-versioning", "uv-dynamic-versioning"}
# A version (PEP 440) in a tag, after a name and before other words: release, pre-release, post-release, development.
VERSION = re.compile(
    r"(?<![\d.])(\d+(?:\.\d+)*)"
    r"(?:[-_.]?(alpha|a|beta|b|preview|pre|rc|c)[-_.]?(\d*))?"
    r"(?:[-_.]?(post)[-_.]?(\d*))?"
    r"(?:[-_.]?(dev)[-_.]?(\d*))?(?![a-z\d.])",
    re.IGNORECASE,
)
PRE_RELEASES = {"alpha": "a", "beta": "b", "preview": "rc", "pre": "rc", "c": "rc"}
# What git has in place of a file that Git LFS keeps elsewhere, and the most bytes that it may have.
LFS_POINTER, LFS_POINTER_SIZE = b"version https://git-lfs.github.com/spec/", 1024
# More of them, in a directory that is in no git working tree: a line for each, a shell's pattern of a name or of a path below the source.
IGNORE_FILE = ".realworldignore"


def own(directory: str, name: str, patterns: Iterable[str] = ()) -> bool:
    """Whether a file or directory of the source is a developer's own; its directory is relative to the source."""
    path = os.path.join(directory, name)
    return (
        name in NOT_SOURCE
        or name.endswith(NOT_SOURCE_ENDINGS)
        or any(
            fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(path, pattern.lstrip("/")) for pattern in patterns
        )
    )


def directory_files(root: pathlib.Path) -> Iterator[str]:
    """Relative names of the files and links of a directory that no git knows."""
    ignore = root / IGNORE_FILE
    lines = ignore.read_text(encoding="utf-8").splitlines() if ignore.is_file() else []
    patterns = [line.strip().rstrip("/") for line in lines if line.strip() and not line.startswith("#")]
    for directory, directories, files in os.walk(root):
        inside = "" if pathlib.Path(directory) == root else os.path.relpath(directory, root)
        links = [name for name in directories if os.path.islink(os.path.join(directory, name))]
        directories[:] = [
            name
            for name in directories
            if name not in links
            and not own(inside, name, patterns)
            and not os.path.exists(os.path.join(directory, name, "pyvenv.cfg"))
        ]
        for name in files + links:
            if not own(inside, name, patterns):
                yield os.path.join(inside, name)


def git(root: pathlib.Path, *arguments: str) -> str:
    """What a git command says. Raises subprocess.CalledProcessError."""
    # Whoever owns the directory: git only reads, and its configuration runs nothing. A hook that runs this has set GIT_DIR and the like.
    command = ["git", "-c", "safe.directory=*", "-c", "core.fsmonitor=false", "-C", str(root), *arguments]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=True,
        env=environment | {"GIT_DISCOVERY_ACROSS_FILESYSTEM": "1", "LC_ALL": "C"},
    ).stdout


def git_names(root: pathlib.Path, *options: str) -> list[str]:
    """Names that git lists, relative to a directory and below it."""
    return [name for name in git(root, "ls-files", "-z", *options).split("\0") if name]


def git_files(root: pathlib.Path) -> list[str]:
    """Relative names of the files a checkout tracks, those of submodules included."""
    return git_names(root, "--recurse-submodules")


def git_ignores(root: pathlib.Path) -> bool:
    """Whether git ignores a directory itself. Raises subprocess.CalledProcessError."""
    try:
        git(root.parent, "check-ignore", "--quiet", root.name)
    except subprocess.CalledProcessError as error:
        if error.returncode != 1:
            raise
        return False
    return True


def known_to_git(root: pathlib.Path) -> bool:
    """Whether git says which files of a directory are the site's. Raises ValueError, in a sentence, where it should and cannot."""
    directory = root.resolve()
    tree = next((parent for parent in (directory, *directory.parents) if (parent / ".git").exists()), None)
    if tree is None:
        return False
    if not shutil.which("git"):
        raise ValueError(
            f"{root} is in a git working tree, and there is no git here to say what it ignores: apt-get install git"
        )
    try:
        if git(directory, "rev-parse", "--is-inside-work-tree").strip() != "true":
            return False
        # A directory that is ignored as a whole, like a copy below a state directory, is one that git does not know.
        return bool(directory == tree or git_names(directory) or not git_ignores(directory))
    except subprocess.CalledProcessError as error:
        raise ValueError(
            f"git cannot say what it ignores of {root}: {error.stderr.strip()}. Mend {tree / '.git'}, "
            "or let site_source name a copy that has none"
        ) from error


def working_files(root: pathlib.Path) -> Iterator[str]:
    """Relative names of what git tracks in a directory and of what it does not ignore there, submodules included."""
    tracked = git_names(root)
    others = [
        name
        for name in git_names(root, "--others", "--exclude-standard")
        if not any(own("", part) for part in pathlib.PurePath(name).parts)
    ]
    virtualenvs = tuple(os.path.join(os.path.dirname(name), "") for name in others if name.endswith("/pyvenv.cfg"))
    others = [name for name in others if not name.startswith(virtualenvs)]
    for name in tracked + others:
        path = root / name
        if path.is_symlink() or path.exists() and not path.is_dir():
            yield name
        elif (path / ".git").exists():  # a submodule, or another repository
            yield from (os.path.join(name, inner) for inner in working_files(path))


def read(path: pathlib.Path) -> tuple[str, bytes]:
    """A file's mode and content as they count: whether it can be executed, and a link's target."""
    if path.is_symlink():
        return "link", os.readlink(path).encode()
    return "program" if os.access(path, os.X_OK) else "file", path.read_bytes()


def digest(paths: Paths) -> str:
    """sha256 over names, modes and contents of {name: pathlib.Path}."""
    total = hashlib.sha256()
    for name, path in sorted(paths.items()):
        mode, content = read(path)
        total.update(f"{name}\0{mode}\0{hashlib.sha256(content).hexdigest()}\n".encode())
    return total.hexdigest()


def refuse_lfs_pointers(source: pathlib.Path, kind: str, paths: Paths) -> None:
    """Raise ValueError where files are pointers of Git LFS."""
    pointers = [
        name
        for name, path in sorted(paths.items())
        if path.is_file() and path.stat().st_size <= LFS_POINTER_SIZE and path.read_bytes().startswith(LFS_POINTER)
    ]
    if pointers:
        more = f" and {len(pointers) - 3} more" if pointers[3:] else ""
        remedy = (
            f"install git-lfs here (apt-get install git-lfs; git lfs install --skip-repo), remove {source}, and repeat"
            if kind == "git"
            else f"git -C {source} lfs pull"
        )
        raise ValueError(f"{', '.join(pointers[:3])}{more}: a pointer of Git LFS, and not the file. Fetch it: {remedy}")


def requires_vcs(requirements: Iterable[Any]) -> bool:
    """Whether one of these requirements takes a project's version from git."""
    names = [re.match(r"[\w.-]*", str(requirement).strip()) for requirement in requirements]
    return any(re.sub(r"[-_.]+", "-", name[0]).lower() in VCS_VERSIONS for name in names if name)


def lookup(table: Any, *names: str) -> Any:
    """A value in nested tables; None where there is none."""
    for name in names:
        table = table.get(name) if isinstance(table, dict) else None
    return table


def setup_arguments(text: str) -> Iterator[tuple[str, Any]]:
    """(name, value) of what a setup.py passes by name, or has in a dictionary; of a value that is not written there True."""
    try:
        nodes = list(ast.walk(ast.parse(text)))
    except (SyntaxError, ValueError):  # the build says it
        return
    pairs = [(str(keyword.arg), keyword.value) for keyword in nodes if isinstance(keyword, ast.keyword)]
    for node in nodes:
        if isinstance(node, ast.Dict):
            keys = [str(key.value) if isinstance(key, ast.Constant) else "" for key in node.keys]
            pairs += zip(keys, node.values)
    for name, value in pairs:
        try:
            yield name, ast.literal_eval(value)
        except ValueError:
            yield name, True


def takes_version_from_git(project: pathlib.Path) -> bool:
    """Whether pyproject.toml, setup.cfg or setup.py of a project say that its version comes from git."""
    texts = {
        name: (project / name).read_text(encoding="utf-8", errors="replace")
        for name in ("pyproject.toml", "setup.cfg", "setup.py")
        if (project / name).is_file()
    }
    pyproject: dict[str, Any] = {}
    with contextlib.suppress(tomllib.TOMLDecodeError):  # the build says it
        pyproject = tomllib.loads(texts.get("pyproject.toml", ""))
    setup = configparser.ConfigParser(interpolation=None)
    with contextlib.suppress(configparser.Error):
        setup.read_string(texts.get("setup.cfg", ""))
    arguments = list(setup_arguments(texts.get("setup.py", "")))
    return (
        requires_vcs(lookup(pyproject, "build-system", "requires") or [])
        or requires_vcs(re.split(r"[\n;]", setup.get("options", "setup_requires", fallback="")))
        or any(lookup(pyproject, "tool", name) is not None for name in ("setuptools_scm", *VCS_VERSIONS))
        or lookup(pyproject, "tool", "pdm", "version", "source") == "scm"
        or lookup(pyproject, "tool", "hatch", "version", "source") == "vcs"
        or any(name == "use_scm_version" and value or name == "pbr" and value is True for name, value in arguments)
        or any(
            requires_vcs([value] if isinstance(value, str) else value)
            for name, value in arguments
            if name == "setup_requires" and isinstance(value, (str, list, tuple))
        )
    )


def vcs_version(source: pathlib.Path, directory: str, commit: str) -> str:
    """The version that git describe makes of a source, as setuptools-scm does; empty where the project or git has none.

    Raises ValueError, in a sentence, and CalledProcessError.
    """
    project = source / directory
    if not takes_version_from_git(project) or not (commit or known_to_git(source)):
        return ""
    try:
        # Without --dirty, which writes the index and runs filters of the repository.
        described = git(project, "describe", "--tags", "--long", "--match", "*[0-9]*").strip()
    except subprocess.CalledProcessError:  # no tag
        described = ""
    if version := version_of(described):
        return version
    count = git(project, "rev-list", "--count", "HEAD").strip()
    return version_of(f"0.0-{count}-g{git(project, 'rev-parse', '--short', 'HEAD').strip()}")


def version_of(described: str) -> str:
    """A version (PEP 440) of what `git describe --long` prints: of a tag the tag, else a development version of the next one.

    Empty where the tag has no version.
    """
    parts = re.fullmatch(r"(.+)-(\d+)-(g[0-9a-f]+)", described)
    matches = list(VERSION.finditer(parts[1])) if parts else []
    if not parts or not matches:
        return ""
    # A number alone may belong to a name: py3-1.0.
    match = next((match for match in matches if "." in match[1]), matches[0])
    release, pre, pre_number, post, post_number, dev, dev_number = (part or "" for part in match.groups())
    version = release
    if pre:
        version += f"{PRE_RELEASES.get(pre.lower(), pre.lower())}{int(pre_number or 0)}"
    if post:
        version += f".post{int(post_number or 0)}"
    count = int(parts[2])
    if dev:
        version += f".dev{int(dev_number or 0) + count}"
    elif count:
        head = version.rstrip("0123456789")
        last = version[len(head) :]
        version = f"{head}{int(last) + 1}.dev{count}"
    return f"{version}+{parts[3]}" if count else version


def survey(source: pathlib.Path, commit: str, requirements: str) -> tuple[str, Paths, int]:
    """Kind, {name: path} and date of a source. Raises ValueError, in a sentence, and CalledProcessError."""
    if commit:
        names = git_files(source)
        return "git", {name: source / name for name in names}, int(git(source, "log", "-1", "--format=%ct"))
    if source.suffix == ".whl":
        names = [source.name] + ([requirements] if requirements else [])
        kind, root = "wheel", source.parent
    else:
        if not source.is_dir():
            raise ValueError(f"There is no directory {source}: site_source in group_vars names it")
        names, kind, root = (
            list((working_files if known_to_git(source) else directory_files)(source)),
            "directory",
            source,
        )
    paths = {name: root / name for name in names}
    for path in [source, *paths.values()]:
        if not path.exists() and not path.is_symlink():
            hint = (
                "; a wheel that names its own requirements wants site_requirements: ''"
                if kind == "wheel" and path != source
                else ": site_source in group_vars names it"
            )
            raise ValueError(f"There is no {path}{hint}")
    if not paths:
        raise ValueError(f"{source} has no files, or none that git does not ignore: site_source in group_vars names it")
    # To read a named pipe would never end.
    if special := [str(path) for path in paths.values() if not (path.is_symlink() or path.is_file() or path.is_dir())]:
        raise ValueError(
            f"{', '.join(special[:3])} is no file, directory or link, and no release can have it: remove it"
            + ("" if kind == "wheel" else f", or name it in {IGNORE_FILE}")
        )
    return kind, paths, int(max(path.lstat().st_mtime for path in paths.values()))


def pack(paths: Paths, target: pathlib.Path) -> None:
    """Write {name: path} into a tar file that only its owner reads."""
    partial = target.with_name(target.name + ".partial")
    with (
        open(partial, "wb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file,
        tarfile.open(fileobj=file, mode="w") as tar,
    ):
        for name, path in sorted(paths.items()):
            tar.add(path, name, recursive=False)
    partial.rename(target)


def passed(record: pathlib.Path, checks: str) -> bool:
    """Whether a release passed these checks: a line of the file beside its artifact."""
    return record.exists() and checks in record.read_text(encoding="utf-8").splitlines()


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={
            "source": {"type": "path", "required": True},
            "commit": {"type": "str", "default": ""},
            "directory": {"type": "str", "default": ""},
            "requirements": {"type": "str", "default": ""},
            "build": {"type": "dict", "required": True},
            "code": {"type": "list", "elements": "path", "required": True},
            "artifacts": {"type": "path", "required": True},
            "site": {"type": "str", "required": True},
            "checks": {"type": "dict", "default": {}},
            "version": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    p = module.params
    artifacts = pathlib.Path(p["artifacts"])
    checks = hashlib.sha256(json.dumps(p["checks"], sort_keys=True).encode()).hexdigest() if p["checks"] else ""

    def release(version: str) -> dict[str, Any]:
        manifest = artifacts / f"{p['site']}-{version}.json"
        built = (artifacts / f"{p['site']}-{version}.tar.gz").exists()
        return {
            "version": version,
            "built": built,
            "checked": built
            and (p["version"] != "" or not checks or passed(artifacts / f"{p['site']}-{version}.checks", checks)),
            "checks": checks,
            "manifest": hashlib.sha256(manifest.read_bytes()).hexdigest() if built else "",
        }

    if p["version"]:
        result = release(p["version"])
        if not result["built"]:
            module.fail_json(msg=f"There is no release {p['version']} of {p['site']} in {artifacts}.")
        module.exit_json(changed=False, **result)

    try:
        source = pathlib.Path(os.path.normpath(p["source"]))
        kind, paths, epoch = survey(source, p["commit"], p["requirements"])
        refuse_lfs_pointers(source, kind, paths)
        described = "" if kind == "wheel" else vcs_version(source, p["directory"], p["commit"])
    except ValueError as error:
        module.fail_json(msg=f"{error}.")
    except subprocess.CalledProcessError as error:
        module.fail_json(msg=f"{' '.join(map(str, error.cmd))}: {error.stderr.strip()}")
    way = hashlib.sha256(json.dumps(p["build"], sort_keys=True).encode())
    way.update(digest({path.name: path for path in map(pathlib.Path, p["code"])}).encode())
    way.update(described.encode())
    if kind == "git":
        # The commit is what people call it; what it is built with makes it another release too.
        version = f"{p['commit'][:10]}-{way.hexdigest()[:6]}"
    else:
        way.update(digest(paths).encode())
        version = way.hexdigest()[:12]

    result = release(version)
    if not result["built"]:
        packed = artifacts / f".{p['site']}-{version}.source.tar"
        if not module.check_mode:
            artifacts.mkdir(parents=True, exist_ok=True)
            pack(paths, packed)
        result.update(kind=kind, epoch=epoch, packed=str(packed), vcs_version=described)
    module.exit_json(changed=not result["checked"], **result)


if __name__ == "__main__":
    main()
