"""The site's own checks of a release, with a PostgreSQL that is there for them alone."""

import collections.abc
import contextlib
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import time
import typing

from build_output import failed_tests
from build_run import FILES, SCRATCH, Build, Failed, Log, commands_environment, install_packages, project_directory

DATABASE = pathlib.Path("/tmp/check-database")
# Debian makes a cluster when PostgreSQL is installed, unless this says no.
CREATECLUSTER = pathlib.Path("/etc/postgresql-common/createcluster.d/none.conf")
# As Patroni does on the database hosts: the same order of texts. No other machine reaches the server.
INITDB = (
    "--auth=trust",
    "--encoding=UTF8",
    "--locale-provider=builtin",
    "--builtin-locale=C.UTF-8",
    "--locale=C.UTF-8",
    "--no-sync",
)
# Nothing that the server loses in a crash is needed.
UNSAFE = {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off"}


class Refused(Exception):
    """Checks of the release failed; names them."""


def install_postgresql(log: Log, version: str) -> None:
    """PostgreSQL of the major version of the database hosts."""
    CREATECLUSTER.parent.mkdir(parents=True, exist_ok=True)
    CREATECLUSTER.write_text("create_main_cluster = false\n", encoding="utf-8")
    install_packages(log, [f"postgresql-{version}"])


@contextlib.contextmanager
def postgresql(log: Log, build: Build) -> collections.abc.Iterator[int]:
    """The port at 127.0.0.1 of a server with the site's role, which may create databases, and its database. Removed afterwards."""
    programs = pathlib.Path(f"/usr/lib/postgresql/{build['db_version']}/bin")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = int(free.getsockname()[1])
    DATABASE.mkdir()
    shutil.chown(DATABASE, "postgres")
    data, name = DATABASE / "data", build["site"]
    options = {"listen_addresses": "127.0.0.1", "port": str(port), "unix_socket_directories": str(DATABASE)} | UNSAFE

    def run(attempt: str, *command: str | pathlib.Path) -> None:
        log.run(["runuser", "-u", "postgres", "--", *command], attempt, cwd=DATABASE)

    try:
        run("make the database server of the checks", programs / "initdb", *INITDB, "--pgdata", data)
        run(
            "start the database server of the checks",
            *(programs / "pg_ctl", "start", "--wait", "--silent", "--pgdata", data, "--log", DATABASE / "log"),
            *("--options", " ".join(f"-c {option}={value}" for option, value in options.items())),
        )
        run(
            "make the site's role for the checks",
            *("psql", "--no-psqlrc", "--quiet", "--host", DATABASE, "--port", str(port)),
            *("--username", "postgres", "--dbname", "postgres"),
            *("--command", f'CREATE ROLE "{name}" LOGIN CREATEDB'),
            *("--command", f'CREATE DATABASE "{name}" OWNER "{name}"'),
        )
        yield port
    except Failed:
        with contextlib.suppress(FileNotFoundError):  # it did not begin to start
            print((DATABASE / "log").read_text("utf-8", "replace"), file=log.file)
        raise
    finally:
        with contextlib.suppress(Failed):  # it never started; the container takes what is left with it
            run(
                "stop the database server of the checks",
                programs / "pg_ctl",
                "stop",
                "--mode=immediate",
                "--pgdata",
                data,
            )
        shutil.rmtree(DATABASE)


def check_environment(build: Build, release: pathlib.Path, port: int) -> dict[str, str]:
    """The environment of checks: the hosts' settings of the release, with the database at this port."""
    site, media = SCRATCH / "check.json", SCRATCH / "media"
    media.mkdir()
    own = build["build_environment"]
    site.write_text(
        json.dumps(
            {
                "node": "builder",
                "address": "127.0.0.1",
                "hosts": ["localhost"],
                "origins": [],
                "settings": build["settings"],
                "environment": build["environment"] | own,
                "secrets": {name: "for building only" for name in build["secrets"] if name not in own},
                # As long as a real one, which `check --deploy` wants.
                "secret_key": "for checks only, and on no host: " * 2,
                "own_settings": build["own_settings"],
                "cache_aliases": build["cache_aliases"],
                "database_aliases": build["database_aliases"],
                "database": {"name": build["site"], "password": "none", "port": port},
                "caches": ["127.0.0.1:1"],
                "media": {"hosts": ["127.0.0.1:1"], "url": build["media_url"]},
                "static": build["static"],
            }
        ),
        encoding="utf-8",
    )
    variables = {
        "PYTHONPATH": f"{project_directory(build, release / 'src')}:{FILES}",
        "DJANGO_SETTINGS_MODULE": "realworld.check_settings",
        "REALWORLD_SITE": str(site),
        "REALWORLD_RELEASE": str(release),
        "REALWORLD_MEDIA_ROOT": str(media),
        # For psql: a check may use the server without Django, as the superuser postgres, too.
        **{"PGHOST": "127.0.0.1", "PGPORT": str(port), "PGUSER": build["site"], "PGDATABASE": build["site"]},
        # `pip install` adds to the packages of the release, which is packed.
        "PIP_PYTHON": str(release / "venv/bin/python"),
    }
    return os.environ | variables | commands_environment(release)


def run_check(log: Log, command: str, seconds: float, **options: typing.Any) -> str:
    """Run a check for so many seconds at most. Returns why it failed, empty if it passed. Raises subprocess.TimeoutExpired."""
    print("$", command, file=log.file, flush=True)
    begin = os.lseek(log.file.fileno(), 0, os.SEEK_CUR)
    process = subprocess.Popen(
        ["sh", "-ec", command],
        stdin=subprocess.DEVNULL,
        stdout=log.file,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        **options,
    )
    try:
        code = process.wait(timeout=max(seconds, 0))
    finally:
        with contextlib.suppress(ProcessLookupError):  # also what the check left running
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if not code:
        return ""
    with open(log.file.name, "rb") as file:
        file.seek(begin)
        return failed_tests(file.read().decode(errors="replace"))


def run_checks(log: Log, build: Build, release: pathlib.Path) -> None:
    """Run all checks of the site on a release that is packed already: what they write ships nowhere. Raises Refused."""
    install_postgresql(log, build["db_version"])
    failed, limit = [], build["checks_timeout"]
    with postgresql(log, build) as port:
        environment = check_environment(build, release, port)
        end = time.monotonic() + limit
        for number, check in enumerate(build["checks"], 1):
            log.progress(f"check {check['name']} ({number} of {len(build['checks'])})")
            own = {name: str(value) for name, value in (check.get("environment") or {}).items()}
            directory = project_directory(build, release / "src")
            try:
                problem = run_check(log, check["run"], end - time.monotonic(), cwd=directory, env=environment | own)
            except subprocess.TimeoutExpired:
                failed.append(f"{check['name']}: all checks together took longer than {limit} s (site_checks_timeout)")
                break
            if problem:
                failed.append(f"{check['name']}: {problem}")
    if failed:
        raise Refused(" | ".join(failed))
