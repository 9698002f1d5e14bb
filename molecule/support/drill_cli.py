"""Break something in a standing tier under load, repair it, and print what its visitors noticed.

    make drill ENV=local DRILL=primary_killed     one of them
    make drills ENV=local                         all of them, as one table

Visitors outside the tier ask the virtual IP for pages, files and changes, each request over a new connection.
On every app host a writer commits rows through the pgpool there, one after another, and writes down each one
that is acknowledged. Afterwards the databases are asked for all of them.
"""

import argparse
import os
import sys

from drills import COLUMNS, DRILLS, cells, excess, measure
from target import Target
from visitors import Load

from controller import report
from controller.environment import Environment


def main() -> int:
    """Run the drills named on the command line, or all; 1 where a limit was exceeded."""
    if os.geteuid():
        keep = "--preserve-env=INVENTORY,ANSIBLE_VAULT_PASSWORD_FILE,SEED,PATH,PYTHONPATH"
        os.execvp("sudo", ["sudo", keep, sys.executable, *sys.argv])
    parser = argparse.ArgumentParser(description="Break something in a standing tier under load, and repair it.")
    parser.add_argument("drills", nargs="*", metavar="DRILL", help="all of them where none is named")
    names = parser.parse_args().drills or list(DRILLS)
    target = Target(os.environ.get("INVENTORY") or Environment.named("local").inventory)
    for name in names:
        if name not in DRILLS:
            sys.exit(f"No drill {name}. There are: {', '.join(DRILLS)}.")
    rows, code = [["drill", *COLUMNS]], 0
    target.await_healthy()
    with Load(target) as load:
        for name in names:
            print(f"{name} …", flush=True)
            row = measure(target, DRILLS[name], load)
            rows.append(cells(name, row))
            for sentence in excess(row, DRILLS[name]):
                print(f"  {name} exceeds its limit: {sentence}", flush=True)
                code = 1
            for failure in row["failures"]:
                print(f"    {failure}", flush=True)
    print("\n" + "\n".join(report.table(rows, indent=0, gap=2)))
    return code


if __name__ == "__main__":
    sys.exit(main())
