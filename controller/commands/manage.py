"""Run one management command on an app host as a job, end a job, or open a session there.

The command is the environment variable CMD, as a shell would split it, and runs under systemd: however this program or its connection ends, the
job goes on. Exits as the command does, with 1 where it was killed, with 2 where nothing was begun.
"""

import argparse
import datetime
import getpass
import os
import secrets
import shlex
import socket
import sys

from controller import arguments, lock, query
from controller.commands import jobs
from controller.environment import Environment
from controller.errors import Refused, exit_code, near

MANAGE = "/usr/local/bin/manage"


def split_command(text: str) -> list[str]:
    """The words of a command. Raises Refused where there are none, or a quote is not closed."""
    try:
        argv = shlex.split(text)
    except ValueError as reason:
        raise Refused(
            f"CMD={text} cannot be split into words: {reason}. Quote as in a shell: make manage CMD='shell -c \"print(1)\"'"
        ) from None
    if not argv:
        raise Refused("Which command? make manage CMD='migrate --plan'")
    if os.path.basename(argv[0]) in ("manage", "manage.py", "python", "python3", "django-admin"):
        raise Refused(f"CMD begins with the command itself, without {argv[0]}: make manage CMD='migrate --plan'")
    return argv


def new_id(now: datetime.datetime) -> str:
    """The id of a new job; ids are in the order of time."""
    return f"{now:%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


def host_for(environment: Environment, wanted: str) -> str:
    """The app host that was asked for, or the first that answers. Raises Refused where there is none."""
    hosts = environment.groups["app"]
    if wanted and wanted not in hosts:
        raise Refused(f"HOST={wanted} is no app host: {', '.join(hosts)}{near(wanted, hosts)}")
    answers = jobs.ask(environment, "listing", [wanted] if wanted else hosts)
    for host, answer in answers.items():
        if answer.get("ready"):
            return host
    silent = [
        f"{host} has no jobs yet: make converge {environment.make_args}"
        if "ready" in answer
        else f"{host} {query.silence(answer)}"
        for host, answer in answers.items()
    ]
    raise Refused("; ".join(silent))


def start(environment: Environment, host: str, argv: list[str]) -> str:
    """Start a job while no verb changes the environment; its id. Raises Refused where it did not start, SystemExit where that is not known."""
    job = new_id(datetime.datetime.now(datetime.UTC))
    operator = f"{os.environ.get('SUDO_USER') or getpass.getuser()}@{socket.gethostname()}"
    root = environment.hosts[host].values["status_facts"]["site_root"]
    held, busy = lock.take(environment, "make manage")
    try:
        if busy:
            raise Refused(busy)
        answer = jobs.ask(environment, "start", [host], root=root, job=job, argv=argv, operator=operator)[host]
    finally:
        lock.release(held)
    if "started" not in answer:
        sys.exit(f"{host} {query.silence(answer)}. Whether the job began: make jobs {environment.make_args} ID={job}")
    if not answer["started"]:
        raise Refused(f"{host} did not start the command: {answer['msg']}")
    return job


def manage(environment: Environment, args: argparse.Namespace) -> int:
    """Run a command or end a job; the exit status."""
    make_args = environment.make_args
    if args.stop:
        host, before = jobs.find(environment, args.stop, "stop")
        if before["state"] != "running":
            raise Refused(f"The job has ended: {jobs.end(host, before)}")
        jobs.follow(environment, host, args.stop)
        return 0
    argv = split_command(os.environ.get("CMD", ""))
    host = host_for(environment, args.host)
    job = start(environment, host, argv)
    print(f"Job {job} runs on {host}. Its output: make jobs {make_args} ID={job}", file=sys.stderr, flush=True)
    return 0 if args.detach else jobs.follow(environment, host, job)


def session(environment: Environment, host: str, command: str) -> int:
    """Become a session of a command on an app host."""
    ssh = [*environment.terminal(host_for(environment, host)), f"exec sudo {MANAGE} {command}"]
    os.execvp(ssh[0], ssh)


def main() -> int:
    """Run the command, end the job, or open the session."""
    parser = arguments.parser_of(__doc__)
    parser.add_argument("what", choices=["run", "shell", "dbshell"])
    parser.add_argument("--host", default="", help="app host; the first that answers where none is named")
    parser.add_argument("--detach", action="store_true", help="do not wait for the end")
    parser.add_argument("--stop", default="", help="id of a job to end instead")
    args = parser.parse_args()

    def run() -> int:
        environment = Environment(args.inventory)
        return manage(environment, args) if args.what == "run" else session(environment, args.host, args.what)

    return exit_code(run)


if __name__ == "__main__":
    sys.exit(main())
