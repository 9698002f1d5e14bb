#!/usr/bin/python3
"""Build a release: its virtualenv, its source, its static files, and a manifest of them all.

Runs as root in a throwaway container like the hosts (same Debian, same Python), with

  BUILD           in the environment: the description, as JSON (see tasks/build.yml)
  /in/source.tar  the source as release_source packed it
  /in/files       the role's files: the tier's package, and the requirements it adds
  /out            where the artifact goes

A release that is in /out already is only checked. All output is in /out/<site>-<version>.log, or .checks.log; if it fails, the last line is one
sentence that says why.
"""

import concurrent.futures
import contextlib
import importlib.metadata
import io
import json
import os
import pathlib
import re
import shutil
import sys
import tarfile
import traceback
import typing

from build_checks import Refused, run_checks
from build_locks import LOCKS, lock_kind, locked
from build_project import dependencies, is_package, read_project, refuse_python, version_files
from build_run import FILES, PIP, SCRATCH, WHEELS, Build, Failed, Log, install_packages, project_directory, sha256
from build_static import (
    collect_static,
    compress_static,
    remove_node_modules,
    run_commands,
    settings_environment,
    warn_of_messages,
)

OUT = pathlib.Path("/out")
CACHE = pathlib.Path("/cache")
REFUSED = 3  # exit code: the release does not pass its checks

# What the tier's settings import, each with the packages that make adding it unnecessary.
ADDED = {"psycopg.txt": {"psycopg", "psycopg2", "psycopg2-binary"}, "pymemcache.txt": {"pymemcache"}}

# By which those who take the version of a project from git are given it where there is no git: setuptools-scm and
# hatch-vcs, pbr, pdm-backend, poetry-dynamic-versioning, uv-dynamic-versioning.
VERSION_VARIABLES = (
    "SETUPTOOLS_SCM_PRETEND_VERSION",
    "PBR_VERSION",
    "PDM_BUILD_SCM_VERSION",
    "POETRY_DYNAMIC_VERSIONING_BYPASS",
    "UV_DYNAMIC_VERSIONING_BYPASS",
)

# The project itself, in a line of a requirements file.
NAMES_PROJECT = re.compile(r"(?m)^[ \t]*(?:(?:-e|--editable)[ =]*)?(?:\.|\./)(?=\[|[ \t]*(?:;|[ \t]#|\r?$))")


def wheel_name(path: pathlib.Path) -> tuple[str, str]:
    """(normalised name, version) of a wheel file."""
    name, version = path.name.split("-")[:2]
    return re.sub(r"[-_.]+", "-", name).lower(), version


def use_cache() -> None:
    """Let pip and npm keep what they download for the next build."""
    # Not the wheels that pip builds: they depend on Debian's packages and on the date of the source.
    built = SCRATCH / "built-wheels"
    built.mkdir()
    (CACHE / "pip").mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        (CACHE / "pip/wheels").symlink_to(built)
    os.environ.update(PIP_CACHE_DIR=str(CACHE / "pip"), npm_config_cache=str(CACHE / "npm"))


def use_indexes(build: Build) -> None:
    """Let pip ask the site's own package indexes. Credentials are in ~/.netrc, and nowhere else."""
    index = build["index"]
    variables = {"PIP_INDEX_URL": index.get("url"), "PIP_EXTRA_INDEX_URL": " ".join(index.get("extra_urls") or [])}
    os.environ.update({name: value for name, value in variables.items() if value})


def collect_wheels(log: Log, build: Build, source: pathlib.Path, shipped: pathlib.Path) -> list[pathlib.Path]:
    """Every package of the site as a wheel; those that only exist as source archives are built here.

    The file that a build writes the project's version to is copied to the project that is shipped.
    """
    # Build backends may write beside the code: not beside the code that is shipped.
    work = SCRATCH / "work"
    shutil.copytree(source, work, symlinks=True)
    work = project_directory(build, work)

    own_version = {name: str(build["vcs_version"]) for name in VERSION_VARIABLES if build["vcs_version"]}

    def wheel(
        arguments: list[str | pathlib.Path],
        attempt: str,
        directory: pathlib.Path = WHEELS,
        version: dict[str, str] | None = None,
    ) -> None:
        log.run(
            [*PIP, "wheel", "--quiet", "--wheel-dir", directory, *arguments],
            attempt,
            cwd=work,
            env=os.environ | (version or {}) | {"SOURCE_DATE_EPOCH": str(build["epoch"])},
        )

    def own_wheel() -> pathlib.Path:
        """The project itself as a wheel, built alone: a tool would give each package that is built with it its version."""
        wheel(["--no-deps", "."], "build the source as a Python package", SCRATCH / "own", own_version)
        [path] = (SCRATCH / "own").glob("*.whl")
        return path

    requirements, project = build["requirements"], read_project(work)
    extras, groups = build["extras"], build["dependency_groups"]
    if requirements and not (work / requirements).is_file():
        raise Failed(f"the source has no {requirements}: site_requirements names it")
    if requirements and not lock_kind(requirements) and requirements != "pyproject.toml" and (extras or groups):
        raise Failed(
            f"{requirements} knows no site_extras and no site_dependency_groups: "
            "site_requirements must name a lock, pyproject.toml or nothing"
        )
    if build["kind"] == "wheel" and groups and not lock_kind(requirements):
        raise Failed("a wheel knows no site_dependency_groups: site_requirements must name a lock that has them")
    own_extras = f"[{','.join(extras)}]" if extras else ""
    own_groups: list[str | pathlib.Path] = [word for name in groups for word in ("--group", name)]
    package = build["kind"] != "wheel" and is_package(work, project)

    unused = [name for name in LOCKS if not requirements and (work / name).is_file()]
    if unused:
        log.warn(f"{unused[0]} is not used: let site_requirements name it, and exactly its versions are installed")
    if lock_kind(requirements):
        for number, lines in enumerate(locked(log, work, requirements, extras, groups)):
            if lines:
                listed = SCRATCH / f"locked{number}.txt"
                listed.write_text("\n".join(lines) + "\n", encoding="utf-8")
                wheel(
                    ["--no-deps", *(["--require-hashes"] if number == 0 else []), "--requirement", listed],
                    f"get what {requirements} names",
                )
        if package and project:
            wheel(["--no-deps", "."], "build the source as a Python package", version=own_version)
    elif requirements and requirements != "pyproject.toml":
        text = (work / requirements).read_text("utf-8", "surrogateescape")
        if own_version and NAMES_PROJECT.search(text):
            own = own_wheel()
            (work / requirements).write_text(NAMES_PROJECT.sub(lambda _: str(own), text), "utf-8", "surrogateescape")
        wheel(["--requirement", requirements], f"get what {requirements} names")

    if build["kind"] == "wheel":
        # With requirements, those are everything the wheel needs.
        [own] = work.glob("*.whl")
        wheel([*(["--no-deps"] if requirements else []), f"./{own.name}{own_extras}"], f"get what {own.name} names")
    elif requirements == "pyproject.toml" or not requirements and project and not package:
        listed = SCRATCH / "pyproject.txt"
        listed.write_text("\n".join(dependencies(project, extras)) + "\n", encoding="utf-8")
        wheel(["--requirement", listed, *own_groups], "get what pyproject.toml names")
    elif not requirements:
        if not project and not (work / "setup.py").exists():
            raise Failed(
                "the source is no Python package (no pyproject.toml): site_requirements must name a requirements file"
            )
        own_source = own_wheel() if own_version else "."
        wheel([f"{own_source}{own_extras}", *own_groups], "build the source as a Python package")
    files = version_files(project)
    missing = [name for name in files if not (work / name).is_file()]
    if package and own_version and missing:
        try:
            own_wheel()  # for these files alone: what is installed, site_requirements names
        except Failed as error:
            log.warn(f"{', '.join(missing)} may be missing in the release: {error}")
    for name in files:
        if (work / name).is_file():
            (shipped / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(work / name, shipped / name)

    names = {wheel_name(path)[0] for path in WHEELS.glob("*.whl")}
    if "django" not in names:
        raise Failed(f"{requirements or 'the source'} does not bring Django")
    if added := [name for name, equivalents in ADDED.items() if not names & equivalents]:
        wheel(
            [
                "--no-deps",
                "--require-hashes",
                *(word for name in added for word in ("--requirement", FILES / "build" / name)),
            ],
            f"get what {' and '.join(added)} of the tier name",
        )
    return sorted(WHEELS.glob("*.whl"))


def install_wheels(log: Log, venv: pathlib.Path, wheels: list[pathlib.Path]) -> None:
    """The virtualenv, without pip: nothing is ever installed into it again."""
    log.run(["python3", "-m", "venv", "--without-pip", venv], "make a virtualenv")
    log.run(
        [
            *PIP,
            "--python",
            venv / "bin/python",
            "install",
            "--quiet",
            "--no-index",
            "--no-deps",
            "--no-compile",
            "--find-links",
            WHEELS,
            *("==".join(wheel_name(path)) for path in wheels),
        ],
        "install the wheels",
    )


def compile_bytecode(log: Log, python: pathlib.Path, code: pathlib.Path) -> None:
    """Bytecode for code, which the site's user could not write, and which needs no check: releases never change.

    In one process and a fixed order: otherwise two builds of one source differ in a few bytes.
    """
    compileall: list[str | pathlib.Path] = [python, "-m", "compileall", "-qq", "--invalidation-mode", "unchecked-hash"]
    with contextlib.suppress(Failed):  # templates of code and the like; hosts prove what the site imports
        log.run([*compileall, code], "compile", env=os.environ | {"PYTHONHASHSEED": "0"})


def manifest(log: Log, build: Build, release: pathlib.Path, wheels: list[pathlib.Path]) -> dict[str, typing.Any]:
    """What the release is made of, and the sha256 of every file in it."""
    files: dict[str, str] = {}
    for path in sorted(release.rglob("*")):
        if path.is_symlink():
            files[str(path.relative_to(release))] = f"-> {path.readlink()}"
        elif path.is_file():
            files[str(path.relative_to(release))] = sha256(path)
    return {
        "site": build["site"],
        "version": build["version"],
        "source": {"kind": build["kind"], "from": build["source"], "ref": build["ref"], "commit": build["commit"]},
        "python": ".".join(map(str, sys.version_info[:3])),
        "wheels": [
            {"name": name, "version": version, "file": path.name, "sha256": sha256(path)}
            for path in wheels
            for name, version in [wheel_name(path)]
        ],
        "tools": {
            "debian": pathlib.Path("/etc/debian_version").read_text(encoding="utf-8").strip(),
            "pip": importlib.metadata.version("pip"),
            "brotli": log.run(["brotli", "--version"], "ask brotli").split()[1],
        },
        "files": files,
    }


def pack(log: Log, build: Build, directory: pathlib.Path, target: pathlib.Path) -> None:
    """A directory's content as a tar file: the same content, the same bytes."""
    log.run(
        [
            "tar",
            "--create",
            "--file",
            target,
            "--use-compress-program",
            "gzip --no-name -3",
            "--directory",
            directory,
            "--sort=name",
            "--owner=root:0",
            "--group=root:0",
            "--mode=u=rwX,go=rX",
            f"--mtime=@{build['epoch']}",
            "--format=gnu",
            ".",
        ],
        "pack the release",
    )


def artifact(build: Build, suffix: str) -> pathlib.Path:
    """A file of the release in /out."""
    return OUT / f"{build['site']}-{build['version']}{suffix}"


def publish(build: Build, suffix: str, content: typing.BinaryIO) -> None:
    """Write a file of the release into /out: whole or not at all, and as the owner of that directory."""
    target, owner = artifact(build, suffix), OUT.stat()
    partial = target.with_name(f".{target.name}.partial")
    with content, partial.open("wb") as file:
        shutil.copyfileobj(content, file)
    os.chown(partial, owner.st_uid, owner.st_gid)
    partial.chmod(0o644)
    partial.rename(target)


def make(log: Log, build: Build) -> None:
    """Build everything, check it, then write the artifact at once: a build that is killed or refused leaves no half of it."""
    release = pathlib.Path(build["root"], "releases", build["version"])
    source = release / "src"
    source.mkdir(parents=True)
    SCRATCH.mkdir()
    unpacked = SCRATCH / "source"
    with tarfile.open("/in/source.tar") as tar:
        tar.extractall(unpacked, filter="tar")
    if not project_directory(build, unpacked).is_dir():
        raise Failed(f"the source has no directory {build['directory']}: site_directory names it")
    refuse_python(build, project_directory(build, unpacked))
    if build["kind"] != "wheel":
        shutil.copytree(unpacked, source, symlinks=True, dirs_exist_ok=True)
    # Hosts read from the release where the project is: site_directory may be another one for the next release.
    (release / "project").symlink_to(pathlib.Path("src", build["directory"]))

    own_node_modules = set(source.rglob("node_modules"))

    use_cache()
    install_packages(log, build["packages"])
    wheels = collect_wheels(log, build, unpacked, project_directory(build, source))
    install_wheels(log, release / "venv", wheels)
    environment = settings_environment(build, release)
    python = release / "venv/bin/python"
    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        compiled = executor.submit(compile_bytecode, log, python, release / "venv/lib")
        run_commands(log, build, release, "before_static", environment)
        collect_static(log, build, release, environment)
        run_commands(log, build, release, "after_static", environment)
        remove_node_modules(source, own_node_modules)
        warn_of_messages(log, source)
        compiled.result()
        compiled = executor.submit(compile_bytecode, log, python, source)
        compress_static(log, release / "static")
        compiled.result()

    described = json.dumps(manifest(log, build, release, wheels), indent=1, sort_keys=True) + "\n"
    (release / "manifest.json").write_text(described, encoding="utf-8")
    (SCRATCH / "release.json").write_text(described, encoding="utf-8")
    pack(log, build, release / "static", SCRATCH / "release.static.tar.gz")
    pack(log, build, release, SCRATCH / "release.tar.gz")
    check(log, build, release)
    for suffix in (".json", ".static.tar.gz", ".tar.gz"):  # the artifact itself last: with it the release is built
        publish(build, suffix, (SCRATCH / f"release{suffix}").open("rb"))


def check(log: Log, build: Build, release: pathlib.Path) -> None:
    """Run the site's checks, and record that the release passed these. Raises Refused."""
    if build["checks"]:
        run_checks(log, build, release)
        passed = artifact(build, ".checks")
        earlier = passed.read_text(encoding="utf-8").splitlines() if passed.exists() else []
        lines = "".join(f"{line}\n" for line in dict.fromkeys([*earlier, build["checks_digest"]]))
        publish(build, ".checks", io.BytesIO(lines.encode()))


def check_built(log: Log, build: Build) -> None:
    """Check a release that was built before, without or with other checks."""
    release = pathlib.Path(build["root"], "releases", build["version"])
    release.mkdir(parents=True)
    SCRATCH.mkdir()
    log.run(["tar", "--extract", "--file", artifact(build, ".tar.gz"), "--directory", release], "unpack the release")
    use_cache()
    install_packages(log, build["packages"])
    check(log, build, release)


def main() -> int:
    """Build; return the exit code."""
    build = json.loads(os.environ.pop("BUILD"))
    build["build_environment"] = {name: str(value) for name, value in build["build_environment"].items()}
    use_indexes(build)
    os.environ.update(build["build_environment"])
    os.umask(0o022)
    # Not over the log of the build.
    path = artifact(build, ".checks.log" if build["built"] else ".log")
    log = Log(path)
    os.chown(path, OUT.stat().st_uid, OUT.stat().st_gid)
    try:
        (check_built if build["built"] else make)(log, build)
    except Refused as error:
        print(f"Release {build['version']} is refused by site_checks: {error}. All output is above", file=log.file)
        return REFUSED
    except Exception as error:
        if not isinstance(error, Failed):
            traceback.print_exc(file=log.file)
        attempt = "checked" if build["built"] else "built"
        print(f"Release {build['version']} was not {attempt}: {error}. All output is above", file=log.file)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
