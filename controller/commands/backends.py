"""Show what each balancer saw of every host behind it: a table for each.

Exits with 1 where a balancer did not answer, with 2 where none could be asked.
"""

import sys
import time
from collections.abc import Mapping
from typing import Any

from controller import arguments
from controller.ansible import ask
from controller.inventory import ROOT
from controller.report import Row, table

PLAYBOOK = ROOT / "playbooks/queries/pool.yml"


def rows(answer: Mapping[str, Any]) -> list[Row]:
    """Cells of a balancer's table. answer: what backend_counters returned."""
    in_all = "began" in answer
    head = (
        "pool",
        "host",
        "requests",
        "failed",
        "mean",
        "slowest",
        "under way",
        *(("in all", "failed") if in_all else ()),
        "",
    )
    lines: list[Row] = [head]
    for host in answer["hosts"]:
        times = [f"{host[name]:.3f} s" if host[name] is not None else "-" for name in ("mean", "slowest")]
        totals = (str(host["requests_in_all"]), str(host["failed_in_all"])) if in_all else ()
        unknown = host["name"] == host["node"]
        note = "not in the inventory" if unknown else "" if host["used"] else "gets no new requests"
        counts = str(host["requests"]), str(host["failed"])
        lines.append((host["pool"], host["name"], *counts, *times, str(host["open"]), *totals, note))
    return lines


def page(hosts: Mapping[str, Mapping[str, Any]], minutes: float, now: float) -> tuple[str, list[str]]:
    """(text of the page, names of balancers that did not answer).

    hosts: {balancer: what backend_counters returned, or why it did not under "msg"}; now: seconds since 1970.
    """
    lines, silent = [""], []
    for name, answer in sorted(hosts.items()):
        if "hosts" not in answer:
            silent.append(name)
            reason = " over SSH" if answer.get("unreachable") else f": {str(answer.get('msg', ''))[:300]}"
            lines += [f"  {name} does not answer{reason}", ""]
            continue
        since = ""
        if "began" in answer:
            since = f", and in all since it started {(now - answer['began']) / 60:.0f} min ago"
        state = "holds the virtual IP" if answer["holds"] else "stands by"
        lines += [
            f"  {name}   {answer['engine']}, {state}   the last {minutes:g} min{since}",
            *("  " + line for line in table(rows(answer))),
            "",
        ]
    return "\n".join(lines), silent


def main() -> int:
    """Print the page."""
    parser = arguments.parser_of(__doc__)
    parser.add_argument("--minutes", default="5", help="how far to look back in the balancers' logs")
    arguments.add_extra_vars(parser)
    args = parser.parse_args()
    try:
        minutes = float(args.minutes)
    except ValueError:
        minutes = 0
    if not minutes > 0:
        sys.exit(f"MINUTES={args.minutes} is no number of minutes: make pool MINUTES=5")
    answers = ask(args.inventory, PLAYBOOK, [*arguments.extra_vars(args), "-e", f"pool_minutes={minutes:g}"])
    text, silent = page(answers, minutes, time.time())
    print(text)
    return 1 if silent else 0


if __name__ == "__main__":
    sys.exit(main())
