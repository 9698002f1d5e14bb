"""Print the jobs of an environment, runs of management commands, or one of them with its output, for as long as it runs.

Exits with 1 where a host did not answer, with 2 where none could be asked or no host has the job.
"""

import datetime
import os
import re
import shlex
import signal
import sys
from collections.abc import Mapping
from typing import Any

from controller import arguments, query
from controller.environment import Environment
from controller.errors import Refused, exit_code
from controller.report import Row, table

WAIT_S = 5.0  # seconds for which a host waits for more output
TRIES = 3  # times a host is asked that does not answer while its job is followed
COLUMNS = ("id", "host", "state", "started (UTC)", "seconds", "exit", "who", "command")


def ask(environment: Environment, function: str, hosts: list[str], **given: Any) -> dict[str, dict[str, Any]]:
    """{host: result} of a function of site_jobs on app hosts."""
    wanted = {
        name: {"directory": environment.hosts[name].values["status_facts"]["site_jobs_dir"], **given} for name in hosts
    }
    return query.ask(environment, query.modules("site_jobs"), function, wanted)


def number(job: str) -> str:
    """The id of a job. Raises Refused where it is none."""
    if not re.fullmatch(r"\d{8}-\d{6}-[0-9a-f]{4}", job):
        raise Refused(f"{job} is no id of a job: they are in the first column of make jobs.")
    return job


def status(job: Mapping[str, Any]) -> str:
    """The exit status of a job, or the signal that ended the command."""
    return job["signal"] or ("" if job["exit"] is None else str(job["exit"]))


def row(host: str, job: Mapping[str, Any]) -> Row:
    """Cells of a job, as COLUMNS names them."""
    started = datetime.datetime.fromtimestamp(job["started"], datetime.UTC).strftime("%Y-%m-%d %H:%M:%S")
    seconds = "" if job["seconds"] is None else str(job["seconds"])
    return (job["id"], host, job["state"], started, seconds, status(job), job["who"], shlex.join(job["argv"]))


def page(answers: Mapping[str, Mapping[str, Any]]) -> tuple[list[str], list[str]]:
    """(lines of the table, sentences about hosts that did not answer). answers: {host: what site_jobs.listing returned, or why it did not}."""
    rows = [row(host, job) for host, answer in answers.items() for job in answer.get("jobs", [])]
    silent = [f"{host} {query.silence(answer)}" for host, answer in sorted(answers.items()) if "jobs" not in answer]
    lines = (
        table([COLUMNS, *sorted(rows, key=tuple)], right=(4, 5))
        if rows
        else ["  no job yet: make manage CMD='…' runs one"]
    )
    return lines, silent


def end(host: str, job: Mapping[str, Any]) -> str:
    """How a job ended, as a sentence."""
    exit_status = f" (exit status {status(job)})" if status(job) not in ("", "0") else ""
    seconds = "" if job["seconds"] is None else f" after {job['seconds']} s"
    return f"{job['id']} on {host}: {job['state']}{seconds}{exit_status}"


def follow(environment: Environment, host: str, job: str) -> int:
    """Print the output of a job until it ends; its exit status, 1 where it has none or the host does not answer. Ctrl-C ends this program alone."""
    words = environment.make_args

    def leave(_signal: int, _frame: object) -> None:
        print(
            f"\nThe job goes on: make jobs {words} ID={job} shows it, make manage {words} STOP={job} ends it.",
            flush=True,
        )
        os._exit(130)  # at once: a host may be waited for

    signal.signal(signal.SIGINT, leave)
    offset, silent = 0, 0
    while True:
        answer = ask(environment, "follow", [host], job=job, offset=offset, wait_s=WAIT_S)[host]
        if "job" not in answer:
            silent += 1
            if silent < TRIES:
                continue
            print(f"{host} {query.silence(answer)}. The job may go on: make jobs {words} ID={job}", file=sys.stderr)
            return 1
        silent, offset = 0, answer["offset"]
        sys.stdout.buffer.write(answer["text"].encode("utf-8", "surrogateescape"))
        sys.stdout.buffer.flush()
        if answer["job"] is None:
            print(f"{host} has no job {job} any more.", file=sys.stderr)
            return 1
        if answer["job"]["state"] != "running" and not answer["text"]:
            print(end(host, answer["job"]), file=sys.stderr)
            exit_status = answer["job"]["exit"]
            return 1 if exit_status is None else int(exit_status)


def find(environment: Environment, job: str, function: str = "find") -> tuple[str, dict[str, Any]]:
    """(host, job) of an id, which is given to a function of site_jobs on every app host. Raises Refused where no host has the job."""
    answers = ask(environment, function, environment.groups["app"], job=number(job))
    for host, answer in answers.items():
        if answer.get("job"):
            return host, answer["job"]
    silent = [f"; {host} {query.silence(answer)}" for host, answer in sorted(answers.items()) if "job" not in answer]
    raise Refused(f"No app host has a job {job}{''.join(silent)}.")


def show(environment: Environment, job: str) -> int:
    """Print a job and its output, as long as it runs, and how it ended."""
    host, described = find(environment, job)
    print(f"{job} on {host}, by {described['who']}: {shlex.join(described['argv'])}", file=sys.stderr)
    follow(environment, host, job)
    return 0


def main() -> int:
    """Print the jobs, or one."""
    parser = arguments.parser_of(__doc__)
    parser.add_argument("--id", default="", help="job to print")
    args = parser.parse_args()

    def shown() -> int:
        environment = Environment(args.inventory)
        if args.id:
            return show(environment, args.id)
        lines, silent = page(ask(environment, "listing", environment.groups["app"]))
        print("", *lines, "", sep="\n")
        print(*silent, sep="\n", end="\n" if silent else "", file=sys.stderr)
        return 1 if silent else 0

    return exit_code(shown)


if __name__ == "__main__":
    sys.exit(main())
