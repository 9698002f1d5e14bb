"""Go from one drawing of an environment to another while it serves, with the data in place.

begin writes the inventory as the drawing of a rung has it, where there is none yet; the first one where none is named. climb changes what stands
until it is that rung; the next one where none is named.

The drawings of inventories/ENV.yml are inventories/ENV/*.yml, in the order of their names. A climb is a sequence of verbs that there are anyway:
hosts come into a pool before others leave it, so that somebody has the data at any time. Cut off anywhere, it can be run again to the same end.
What cannot be is refused, with exit code 2, before anything is touched.
"""

import argparse
import os
import pathlib
import subprocess
import sys
from collections.abc import Mapping, Sequence

from controller import arguments
from controller.environment import Environment
from controller.errors import Refused, exit_code, near
from controller.inventory import ROOT, Inventory, write
from controller.tiers import GROUPS

# The way up: what others lean on first. App hosts before balancers: Apache starts anew for a balancer that is new, and another host serves meanwhile.
ORDER = ["db", "media", "app", "lb", "cache"]
# What hosts keep.
STAYS = {"quorum": "a vote", "monitor": "the graphs", "backup": "the backups"}


def drawings(path: pathlib.Path) -> dict[str, pathlib.Path]:
    """{name: file} of the drawings of an inventory, from the lowest rung to the highest."""
    return {file.stem: file for file in sorted(path.with_suffix("").glob("*.yml"))}


def read(path: pathlib.Path) -> Inventory:
    """The inventory that a file is."""
    return Inventory(path.read_text(), os.path.relpath(path, ROOT))


def members(inventory: Inventory) -> dict[str, set[str]]:
    """{group: its hosts}."""
    return {group: set(inventory.groups.get(group, [])) for group in GROUPS}


def known(rungs: Mapping[str, pathlib.Path], name: str) -> pathlib.Path:
    """The file of a drawing. Raises Refused where there is none of that name."""
    if name not in rungs:
        raise Refused(f"There is no rung '{name}'{near(name, list(rungs))} There are: {', '.join(rungs)}.")
    return rungs[name]


def standing(path: pathlib.Path) -> str:
    """The name of the drawing that an inventory is; empty where it is none."""
    now = members(read(path))
    return next((name for name, file in drawings(path).items() if members(read(file)) == now), "")


def following(path: pathlib.Path) -> str:
    """The name of the rung after the one that stands. Raises Refused where that is not one of them, or the last."""
    names, now = list(drawings(path)), standing(path)
    if not now:
        raise Refused(
            f"{os.path.relpath(path, ROOT)} is none of its drawings. Say which one it is to be: RUNG={names[-1]}"
        )
    if now == names[-1]:
        raise Refused(f"{now} stands, which is the highest rung.")
    return names[names.index(now) + 1]


def begin(path: pathlib.Path, name: str) -> None:
    """Write an inventory as a drawing has it. Raises Refused where it is there and another one."""
    rungs = drawings(path)
    drawing = known(rungs, name or next(iter(rungs)))
    if not path.exists():
        write(path, drawing.read_text())
    elif name and members(read(path)) != members(read(drawing)):
        raise Refused(
            f"{standing(path) or 'Something between two rungs'} stands, not {name}. Go there with the data in place: "
            f"make climb ENV={path.stem} RUNG={name}; or begin anew: make down ENV={path.stem}"
        )


def steps(current: Inventory, target: Inventory) -> list[list[str]]:
    """The words that make is given, one verb after another, from one inventory to another. Raises Refused where no verbs lead there.

    A failover is only for a primary that leaves: who climbs asks first.
    """
    old, new, verbs, present = members(current), members(target), [], set(current.lines)
    for host in sorted(present & set(target.lines)):
        if current.address(host) != target.address(host):
            raise Refused(
                f"{host} is at {current.address(host)} ({current.location(host)}) and at {target.address(host)} ({target.location(host)})."
            )
    for job, what in STAYS.items():
        if gone := old[job] - new[job]:
            raise Refused(
                f"{', '.join(sorted(gone))} has {what} in {current.name} and not in {target.name}: no verb takes that away."
            )
    for pool in ORDER:
        if not new[pool]:
            raise Refused(f"'{pool}' would be left without hosts ({target.name}).")
        for host in [host for host in target.groups[pool] if host not in old[pool]]:
            if host in present:
                raise Refused(
                    f"{host} would come into '{pool}' ({target.name}) and has other work: a climb puts new hosts into a pool."
                )
            present.add(host)
            verbs.append(["add-node", f"POOL={pool}", f"NODE={host}", f"ADDRESS={target.address(host)}"])
        leave = [host for host in current.groups[pool] if host not in new[pool]]
        if leave and pool == "db":
            verbs.append(["failover", f"NODE={target.groups[pool][0]}"])
        verbs += [["remove-node", f"POOL={pool}", f"NODE={host}"] for host in leave]
    return verbs


def votes(current: Inventory, target: Inventory) -> list[str]:
    """Hosts of a quorum of several, which takes new members one at a time: those first, while the others have a majority.

    All of them: a climb that was cut off left a drawing that does not tell who has no seat yet. For one that has its seat it is only a look.
    """
    voters = target.groups["quorum"]
    return sorted(voters, key=lambda host: host in current.groups["quorum"]) if len(voters) > 1 else []


def client_access(current: Inventory, target: Inventory) -> list[list[str]]:
    """The verb by which the members that are there let new ones in; none where nobody is new."""
    voters = target.groups["quorum"]
    present = [host for host in voters if host in current.groups["quorum"]]
    return [["site", f"LIMIT={','.join(present)}", "TAGS=etcd_clients"]] if present and len(voters) > 1 else []


def make(make_args: str, *goals: str, quiet: bool = False) -> bool:
    """Run a verb, as an operator types it; whether it worked."""
    command = ["make", "--no-print-directory", *goals, *make_args.split()]
    if not quiet:
        print(f"\nclimb: {' '.join(word for word in command if not word.startswith('--'))}", flush=True)
    # make hands what it was given on its command line to those it starts: this verb's own words are not for the others.
    env = dict(os.environ, MAKEFLAGS="", RUNG="", CHECK="")
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=quiet, check=False).returncode == 0


def run_verbs(
    path: pathlib.Path,
    drawing: pathlib.Path,
    make_args: str,
    todo: Sequence[Sequence[str]],
    ends: Sequence[Sequence[str]],
) -> bool:
    """Type the verbs, and write the drawing before the last of them; whether all of it worked."""
    for verb in todo:
        if verb[0] == "failover" and not make(make_args, *verb, "CHECK=1", quiet=True):
            continue  # it is the primary already; where it cannot be, remove-node says why
        if not make(make_args, *verb):
            return False
    # The line of each host where the drawing has it. The rest needs no verb of its own.
    write(path, drawing.read_text())
    return all(make(make_args, *verb) for verb in [["up"], *ends])


def climb(path: pathlib.Path, name: str, check: bool) -> int:
    """Climb; the exit code. Raises Refused."""
    make_args = Environment(path).make_args
    name = name or following(path)
    drawing = known(drawings(path), name)
    now, then = read(path), read(drawing)
    # Between two drawings a climb was cut off, perhaps in the middle of a host that comes: that one is finished first.
    cut = [] if standing(path) else [["converge"]]
    todo, ends = (
        [*cut, *steps(now, then)],
        [
            *client_access(now, then),
            *(["site", f"LIMIT={host}", "TAGS=base,etcd"] for host in votes(now, then)),
            ["converge"],
        ],
    )
    if check:
        print("\n".join("make " + " ".join([*verb, make_args]) for verb in [*todo, *ends]))
        return 0
    if not run_verbs(path, drawing, make_args, todo, ends):
        print(
            f"{path.stem} is on its way to {name}. When mended, go on: make climb {make_args} RUNG={name}",
            file=sys.stderr,
        )
        return 1
    return 0


def main() -> int:
    """Do what the arguments say; the exit code. Raises Refused."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb in ("begin", "climb"):
        options = verbs.add_parser(verb)
        arguments.add_inventory(options)
        options.add_argument("--rung", default="", help="name of a drawing")
    options.add_argument("--check", action="store_true", help="print the verbs and change nothing")
    args = parser.parse_args()
    path = args.inventory.resolve()
    if not drawings(path):
        raise Refused(f"There are no drawings of {path.stem}: no inventories/{path.stem}/*.yml.")
    if args.verb == "climb":
        return climb(path, args.rung, args.check)
    begin(path, args.rung)
    return 0


if __name__ == "__main__":
    sys.exit(exit_code(main))
