"""Show what each balancer saw of every host behind it: a table for each.

    backends.py INVENTORY MINUTES [OPTION OF ANSIBLE-PLAYBOOK …]

MINUTES is how far to look back in the balancers' logs. Exits with 1 where a balancer did not tell, with 2 where none could be asked.
"""

import sys
import time

from controller.ansible import ask
from controller.inventory import ROOT
from controller.report import table

PLAYBOOK = ROOT / "playbooks/queries/pool.yml"


def rows(said):
    """Cells of a balancer's table."""
    in_all = "began" in said
    found = [
        (
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
    ]
    for host in said["hosts"]:
        times = [f"{host[name]:.3f} s" if host[name] is not None else "-" for name in ("mean", "slowest")]
        found.append(
            (
                host["pool"],
                host["name"],
                str(host["requests"]),
                str(host["failed"]),
                *times,
                str(host["open"]),
                *((str(host["requests_in_all"]), str(host["failed_in_all"])) if in_all else ()),
                "not in the inventory"
                if host["name"] == host["node"]
                else ""
                if host["used"]
                else "gets no new requests",
            )
        )
    return found


def page(hosts, minutes, now):
    """(text of the page, names of balancers that did not tell).

    hosts: {balancer: what backend_counters returned, or why it did not under "msg"}; now: seconds since 1970.
    """
    lines, silent = [""], []
    for name, said in sorted(hosts.items()):
        if "hosts" not in said:
            silent.append(name)
            lines += [
                f"  {name} does not answer{' over SSH' if said.get('unreachable') else ': ' + str(said.get('msg', ''))[:300]}",
                "",
            ]
            continue
        since = f", and in all since it started {(now - said['began']) / 60:.0f} min ago" if "began" in said else ""
        lines += [
            f"  {name}   {said['engine']}, {'holds the virtual IP' if said['holds'] else 'stands by'}   the last {minutes:g} min{since}",
            *("  " + line for line in table(rows(said))),
            "",
        ]
    return "\n".join(lines), silent


def main():
    """Print the page."""
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    inventory, asked, *options = sys.argv[1:]
    try:
        minutes = float(asked)
    except ValueError:
        minutes = 0
    if not minutes > 0:
        sys.exit(f"MINUTES={asked} is no number of minutes: make pool MINUTES=5")
    text, silent = page(ask(inventory, PLAYBOOK, [*options, "-e", f"pool_minutes={minutes:g}"]), minutes, time.time())
    print(text)
    return 1 if silent else 0


if __name__ == "__main__":
    sys.exit(main())
