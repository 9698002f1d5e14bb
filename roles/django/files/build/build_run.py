"""What the parts of a build share: its directories, its log, and how a command is run."""

import hashlib
import os
import pathlib
import subprocess
import typing

from build_output import reason

Build = dict[str, typing.Any]  # the description of tasks/build.yml

FILES = pathlib.Path("/in/files")
SCRATCH = pathlib.Path("/tmp/build")
WHEELS = SCRATCH / "wheels"
PIP: list[str | pathlib.Path] = ["python3", "-m", "pip", "--disable-pip-version-check", "--no-input"]

CA = pathlib.Path("/etc/ssl/certs/ca-certificates.crt")  # Node has authorities of its own, and not the machine's


def project_directory(build: Build, source: pathlib.Path) -> pathlib.Path:
    """Where the project is in its source."""
    return source / str(build["directory"])


class Failed(Exception):
    """The release cannot be built; says why in one sentence."""


class Log:
    """Runs commands, and writes their output to a file."""

    def __init__(self, path: pathlib.Path) -> None:
        self.file = path.open("w", encoding="utf-8")

    def run(self, command: list[str | pathlib.Path], attempt: str, **options: typing.Any) -> str:
        """Run a command and return its output. Raises Failed: "could not <attempt>: <its last lines>"."""
        self.progress(attempt)
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

    def progress(self, text: str) -> None:
        """Print what begins, for the operator who waits."""
        print(text, flush=True)

    def warn(self, problem: str) -> None:
        """Write a problem for the operator, although the release can be built."""
        print(f"Warning: {problem}", file=self.file, flush=True)


def install_packages(log: Log, packages: list[str]) -> None:
    """Debian packages of the site: what its wheels are built with, and what they load when they run."""
    if packages:
        log.run(["apt-get", "update"], "read Debian's package lists")
        log.run(
            ["apt-get", "install", "--yes", "--no-install-recommends", *packages],
            f"install {' '.join(packages)}",
            env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"},
        )


def commands_environment(release: pathlib.Path) -> dict[str, str]:
    """Environment variables by which the site's own commands find the release's Python first."""
    return {
        "PATH": f"{release / 'venv/bin'}:{os.environ['PATH']}",
        "VIRTUAL_ENV": str(release / "venv"),
        "NODE_EXTRA_CA_CERTS": str(CA),
    }


def sha256(path: pathlib.Path) -> str:
    """The sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
