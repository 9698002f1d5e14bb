"""Show visitors a page of maintenance for a while, end that, or print whether there is maintenance.

Exits with 2 where the input is refused or no balancer answered.
"""

import argparse
import datetime
import json
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from controller import arguments, query
from controller.environment import ROOT, Environment
from controller.errors import Refused, exit_code

UNITS_S = {"s": 1, "m": 60, "h": 3600}
MESSAGE = "We are working on the site and will be back soon."
MESSAGE_LONGEST = 500  # characters
EXAMPLE = "FOR=20m MESSAGE='Back at noon'"


def seconds(duration: str) -> int:
    """The seconds of a duration such as 90s, 20m or 2h. Raises Refused."""
    match = re.fullmatch(r"([1-9][0-9]{0,5})([smh])", duration, re.ASCII)
    if not match:
        raise Refused(f"FOR={duration} is no duration: FOR=90s, FOR=20m or FOR=2h.")
    return int(match[1]) * UNITS_S[match[2]]


def checked(message: str) -> str:
    """The message for visitors, or the default one. Raises Refused."""
    message = message.strip() or MESSAGE
    if len(message) > MESSAGE_LONGEST:
        raise Refused(f"MESSAGE has {len(message)} characters, and the most is {MESSAGE_LONGEST}.")
    if not message.isprintable():
        raise Refused("MESSAGE has a new line or another control character: write it on one line.")
    if template := re.search(r"\{[{%#]", message):
        raise Refused(f"MESSAGE has {template[0]} in it, which begins a template of Ansible.")
    return message


def request(args: argparse.Namespace, make_args: str) -> dict[str, Any] | None:
    """What the playbook is to do, as {seconds, readonly, message}, {} to end maintenance; None where it is only shown. Raises Refused."""
    if args.off:
        if args.off != "1":
            raise Refused(f"OFF={args.off} is not known: make maintenance {make_args} OFF=1 ends maintenance.")
        if args.duration or args.message or args.readonly:
            raise Refused(
                f"OFF=1 ends maintenance, and takes no FOR, MESSAGE or READONLY: make maintenance {make_args} OFF=1"
            )
        return {}
    if args.readonly not in ("", "1"):
        raise Refused(f"READONLY={args.readonly} is not known: READONLY=1 lets visitors read.")
    if not args.duration:
        if args.message or args.readonly:
            raise Refused(f"For how long? make maintenance {make_args} {EXAMPLE}")
        return None
    return {
        "seconds": seconds(args.duration),
        "readonly": args.readonly == "1",
        "message": checked(args.message),
    }


def clock(moment: float) -> str:
    """A moment, in seconds since the epoch, as text."""
    return datetime.datetime.fromtimestamp(moment, datetime.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def report(answers: Mapping[str, Mapping[str, Any]], make_args: str) -> str:
    """What the balancers answered, {balancer: what maintenance_answer returned, or why there is no answer}, as lines. Raises Refused where none did."""
    lines = []
    for name, answer in sorted(answers.items()):
        if "state" not in answer:
            lines.append(f"{name} {query.silence(answer)}")
            continue
        state = answer["state"]
        if not state:
            lines.append(f"{name}: no maintenance")
            continue
        mode = "read-only" if state["readonly"] else "the site is closed"
        lines.append(f"{name}: {mode} until {clock(state['until'])}: {state['message']}")
    if not any("state" in answer for answer in answers.values()):
        raise Refused("\n".join(lines))
    states = [answer["state"] for answer in answers.values() if "state" in answer]
    if any(state != states[0] for state in states):
        lines.append(f"The balancers differ. Type it again, or: make maintenance {make_args} OFF=1")
    elif states[0]:
        lines.append(f"End it: make maintenance {make_args} OFF=1")
    return "\n".join(lines)


def current(environment: Environment) -> str:
    """The state of every balancer, as lines. Raises Refused where none answered."""
    asked: dict[str, dict[str, Any]] = {name: {} for name in environment.groups["lb"]}
    answers = query.ask(environment, query.modules("service_health"), "maintenance_answer", asked)
    return report(answers, environment.make_args)


def run(argv: Sequence[str]) -> int:
    """Do what the words of a command line say; the exit code. Raises Refused."""
    parser = arguments.parser_of(__doc__)
    parser.add_argument("--for", dest="duration", default="", help="how long: 90s, 20m, 2h")
    parser.add_argument("--message", default="", help="what visitors read")
    parser.add_argument("--readonly", default="", help="1: visitors can read")
    parser.add_argument("--off", default="", help="1: end maintenance")
    parser.add_argument("--limit", default="", help="Ansible's")
    parser.add_argument("--check", action="store_true", help="a dry run")
    arguments.add_extra_vars(parser)
    args = parser.parse_args(argv)
    environment = Environment(args.inventory, tuple(args.extra_vars))
    make_args = environment.declared["make_args"]
    wanted = request(args, make_args)
    if wanted is None:
        print(current(environment))
        return 0
    options = [*(["--limit", args.limit] if args.limit else []), *(["--check", "--diff"] if args.check else [])]
    extra = [*arguments.extra_vars(args), "-e", json.dumps({"maintenance_request": wanted})]
    playbook = [
        "ansible-playbook",
        "-i",
        str(args.inventory),
        *options,
        *extra,
        str(ROOT / "playbooks" / "maintenance.yml"),
    ]
    lock = [] if args.check else [sys.executable, "-m", "controller.lock", str(args.inventory), "make maintenance"]
    code = subprocess.run([*lock, *playbook], check=False, cwd=ROOT).returncode
    if not code and not args.check:
        print(current(environment))
    return code


if __name__ == "__main__":
    sys.exit(exit_code(lambda: run(sys.argv[1:])))
