#!/usr/bin/python3
"""Build a release: its virtualenv, its source, its static files, and a manifest of them all.

Runs as root in a throwaway container like the hosts (same Debian, same Python), with

  BUILD           in the environment: the description, as JSON (see tasks/build.yml)
  /in/source.tar  the source as release_source packed it
  /in/files       the role's files: the tier's package, and the requirements it adds
  /out            where the artifact goes

All output is in /out/<site>-<version>.log; if it fails, the last line is one sentence that says why.
"""

import concurrent.futures
import contextlib
import gzip
import hashlib
import importlib.metadata
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile
import traceback
import typing

from build_output import reason

Build = dict[str, typing.Any]  # the description

FILES = pathlib.Path("/in/files")
OUT = pathlib.Path("/out")
SCRATCH = pathlib.Path("/tmp/build")
WHEELS = SCRATCH / "wheels"
PIP = ["python3", "-m", "pip", "--disable-pip-version-check", "--no-input"]

# Text, and fonts and images that are not compressed by themselves.
COMPRESSIBLE = frozenset(
    ".css .csv .eot .htm .html .ico .js .json .map .md .mjs .otf .rss .svg .ttf .txt .wasm .webmanifest .xml".split()
)

# What the tier's settings import, each with the packages that make adding it unnecessary.
ADDED = {"psycopg.txt": {"psycopg", "psycopg2", "psycopg2-binary"}, "pymemcache.txt": {"pymemcache"}}


class Failed(Exception):
    """The release cannot be built; says why in one sentence."""


class Log:
    """Runs commands, and writes their output to a file."""

    def __init__(self, path: pathlib.Path) -> None:
        self.file = path.open("w", encoding="utf-8")

    def run(self, command: list[str | pathlib.Path], attempt: str, **options: typing.Any) -> str:
        """Run a command and return its output. Raises Failed: "could not <attempt>: <its last lines>"."""
        print("$", *command, file=self.file, flush=True)
        done = subprocess.run(
            [str(part) for part in command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
            **options,
        )
        print(done.stdout, file=self.file, flush=True)
        if done.returncode:
            raise Failed(f"could not {attempt}: {reason(done.stdout)}")
        return str(done.stdout)

    def warn(self, problem: str) -> None:
        """Write a problem for the operator, although the release can be built."""
        print(f"Warning: {problem}", file=self.file, flush=True)


def sha256(path: pathlib.Path) -> str:
    """The sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def wheel_name(path: pathlib.Path) -> tuple[str, str]:
    """(normalised name, version) of a wheel file."""
    name, version = path.name.split("-")[:2]
    return re.sub(r"[-_.]+", "-", name).lower(), version


def install_packages(log: Log, packages: list[str]) -> None:
    """Debian packages of the site: what its wheels are built with, and what they load when they run."""
    if packages:
        log.run(["apt-get", "update"], "read Debian's package lists")
        log.run(
            ["apt-get", "install", "--yes", "--no-install-recommends", *packages],
            f"install {' '.join(packages)}",
            env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"},
        )


def collect_wheels(log: Log, build: Build, source: pathlib.Path) -> list[pathlib.Path]:
    """Every package of the site as a wheel; those that only exist as source archives are built here."""
    # Build backends may write beside the code: not beside the code that is shipped.
    work = SCRATCH / "work"
    shutil.copytree(source, work, symlinks=True)

    def wheel(arguments: list[str | pathlib.Path], attempt: str) -> None:
        log.run(
            [*PIP, "wheel", "--quiet", "--wheel-dir", WHEELS, *arguments],
            attempt,
            cwd=work,
            env=os.environ | {"SOURCE_DATE_EPOCH": str(build["epoch"])},
        )

    requirements = build["requirements"]
    if requirements:
        if not (work / requirements).is_file():
            raise Failed(f"the source has no {requirements}: site_requirements names it")
        wheel(["--requirement", requirements], f"get what {requirements} names")
    if build["kind"] == "wheel":
        # With requirements, those are everything the wheel needs.
        [own] = work.glob("*.whl")
        wheel([*(["--no-deps"] if requirements else []), f"./{own.name}"], f"get what {own.name} names")
    elif not requirements:
        if not any((work / name).exists() for name in ("pyproject.toml", "setup.py")):
            raise Failed(
                "the source is no Python package (no pyproject.toml): site_requirements must name a requirements file"
            )
        wheel(["."], "build the source as a Python package")

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


def collect_static(log: Log, build: Build, release: pathlib.Path) -> None:
    """The static files under their hashed names, and a look at the templates that name them."""
    static = release / "static"
    static.mkdir()
    site = SCRATCH / "site.json"
    site.write_text(
        json.dumps(
            {
                "settings": build["settings"],
                "environment": build["environment"],
                "secrets": dict.fromkeys(build["secrets"], "for building only"),
                "static": build["static"],
            }
        ),
        encoding="utf-8",
    )
    python = {
        "cwd": release / "src",
        "env": os.environ
        | {
            "PYTHONPATH": f"{release / 'src'}:{FILES}",
            "PYTHONDONTWRITEBYTECODE": "1",
            "DJANGO_SETTINGS_MODULE": "realworld.build_settings",
            "REALWORLD_SITE": str(site),
            "REALWORLD_STATIC_ROOT": str(static),
        },
    }
    try:
        log.run(
            [release / "venv/bin/python", "-m", "django", "collectstatic", "--noinput", "--verbosity", "0"],
            "collect the static files",
            **python,
        )
    except Failed as error:
        if "Unknown command: 'collectstatic'" not in str(error):
            raise
        return  # a site without static files
    refuse_missing(log, build, release, python)


def refuse_missing(log: Log, build: Build, release: pathlib.Path, python: dict[str, typing.Any]) -> None:
    """Refuse templates of the site that name no static file, as their pages would fail.

    Those of other packages, which may never be used, are a warning.
    """
    try:
        output = log.run(
            [
                release / "venv/bin/python",
                FILES / "build/static_names.py",
                release / "src",
                build["settings"].partition(".")[0],
            ],
            "look at the templates",
            **python,
        )
    except Failed as error:
        log.warn(f"{error}. Whether they name static files that are not there is not known")
        return
    missing = json.loads(output.splitlines()[-1])
    refused = []
    for path, name, own in missing:
        template = path.removeprefix(f"{release}/")
        if own:
            refused.append(f"{template} names {name}")
        else:
            log.warn(f"{template} names the static file {name}, which is not there: a page that uses it fails")
    if refused:
        more = f"; {len(refused) - 5} more" if refused[5:] else ""
        raise Failed(
            f"static files are not there, and pages that use them would fail: {'; '.join(refused[:5])}{more}. "
            "Where the names are right like that, say manifest_strict: False in the OPTIONS of STORAGES['staticfiles']"
        )


def compress_static(log: Log, static: pathlib.Path) -> None:
    """A .gz and a .br beside every file that they make smaller."""
    same: dict[str, list[pathlib.Path]] = {}  # content: the paths that have it, as a plain and a hashed name mostly do
    for path in sorted(static.rglob("*")):
        if path.is_file() and path.suffix.lower() in COMPRESSIBLE:
            same.setdefault(sha256(path), []).append(path)
    if not same:
        return
    first = [paths[0] for paths in same.values()]

    def gzip_file(path: pathlib.Path) -> None:
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes(), 9, mtime=0))

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as executor:
        brotli = executor.submit(
            log.run, ["brotli", "--quality=11", "--keep", "--", *first], "compress the static files"
        )
        list(executor.map(gzip_file, first))
        brotli.result()
    for path, *others in same.values():
        for suffix in (".gz", ".br"):
            packed = path.with_name(path.name + suffix)
            if packed.stat().st_size >= path.stat().st_size:
                packed.unlink()
            else:
                for other in others:
                    shutil.copyfile(packed, other.with_name(other.name + suffix))


def compile_bytecode(log: Log, release: pathlib.Path) -> None:
    """Bytecode for all code, which the site's user could not write, and which needs no check: releases never change.

    In one process and a fixed order: otherwise two builds of one source differ in a few bytes.
    """
    compileall: list[str | pathlib.Path] = [
        release / "venv/bin/python",
        "-m",
        "compileall",
        "-qq",
        "--invalidation-mode",
        "unchecked-hash",
    ]
    for part in ("venv/lib", "src"):
        with contextlib.suppress(Failed):  # templates of code and the like; hosts prove what the site imports
            log.run([*compileall, release / part], "compile", env=os.environ | {"PYTHONHASHSEED": "0"})


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


def make(log: Log, build: Build) -> None:
    """Build everything, then the artifact at once: a build that is killed leaves no half of it."""
    release = pathlib.Path(build["root"], "releases", build["version"])
    source = release / "src"
    source.mkdir(parents=True)
    SCRATCH.mkdir()
    unpacked = SCRATCH / "source"
    with tarfile.open("/in/source.tar") as tar:
        tar.extractall(unpacked, filter="tar")
    if build["kind"] != "wheel":
        shutil.copytree(unpacked, source, symlinks=True, dirs_exist_ok=True)

    install_packages(log, build["packages"])
    wheels = collect_wheels(log, build, unpacked)
    install_wheels(log, release / "venv", wheels)
    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        compiled = executor.submit(compile_bytecode, log, release)
        collect_static(log, build, release)
        compress_static(log, release / "static")
        compiled.result()

    described = json.dumps(manifest(log, build, release, wheels), indent=1, sort_keys=True) + "\n"
    (release / "manifest.json").write_text(described, encoding="utf-8")
    name = f"{build['site']}-{build['version']}"
    owner = OUT.stat()
    parts = {suffix: OUT / f".{name}{suffix}.partial" for suffix in (".json", ".static.tar.gz", ".tar.gz")}
    parts[".json"].write_text(described, encoding="utf-8")
    pack(log, build, release / "static", parts[".static.tar.gz"])
    pack(log, build, release, parts[".tar.gz"])
    for suffix, partial in parts.items():  # the artifact itself last: with it the release is built
        os.chown(partial, owner.st_uid, owner.st_gid)
        partial.chmod(0o644)
        partial.rename(OUT / (name + suffix))


def main() -> int:
    """Build; return the exit code."""
    build = json.loads(os.environ.pop("BUILD"))
    os.umask(0o022)
    path = OUT / f"{build['site']}-{build['version']}.log"
    log = Log(path)
    os.chown(path, OUT.stat().st_uid, OUT.stat().st_gid)
    try:
        make(log, build)
    except Exception as error:
        if not isinstance(error, Failed):
            traceback.print_exc(file=log.file)
        print(f"Release {build['version']} was not built: {error}. All output is above", file=log.file)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
