"""Compare what the hosts of environments are, tier by tier.

parity: two environments, every host of a tier has to be like every other. drift: one, with its own declaration, and the hosts of each pool with
each other.

Prints the differences and where they are set, and writes a page to read. Changes nothing on a host. What may differ is declared in
group_vars/all/parity.yml. Exits with 1 where something else does, with 2 where the hosts could not be asked.
"""

import argparse
import concurrent.futures
import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from ansible.errors import AnsibleError
from ansible.parsing.vault import VaultLib, VaultSecret

from controller import ansible, arguments
from controller.environment import ROOT, Environment
from controller.parity.comparison import compare
from controller.parity.masks import strings
from controller.parity.model import Difference, Side
from controller.parity.report import publish
from controller.parity.source import Repository, where
from controller.waiting import waiting

PLAYBOOK = ROOT / "playbooks/queries/parity.yml"
SITE = ROOT / "playbooks/site.yml"
DECLARED = ROOT / "group_vars/all/parity.yml"


def vault(environment: Environment) -> dict[str, str]:
    """{name: text} of every secret of an environment; empty where it has no vault. Raises OSError and AnsibleError where it does not open."""
    if not environment.vault.exists():
        return {}
    password = environment.password_file or environment.own_password_file
    lock = VaultLib([("default", VaultSecret(password.read_bytes().strip()))])
    secrets = {}
    for name, text in strings(yaml.safe_load(lock.decrypt(environment.vault.read_text()))):
        secrets[name if name not in secrets else f"{name}'"] = text
    return secrets


def collect(environment: Environment) -> Side:
    """A Side, asked now."""
    inventory, password = str(environment.inventory), environment.password_variable
    with concurrent.futures.ThreadPoolExecutor() as at_once:
        hosts = at_once.submit(ansible.ask, inventory, PLAYBOOK, **password)
        # As they are written: what both sides write alike is no difference, whatever it comes to.
        variables = ansible.unrendered(inventory, **password)
        return Side(environment.name, hosts.result(), vault(environment), variables)


def predicted_changes(environment: Environment, options: Sequence[str]) -> tuple[dict[str, list[str]], list[str]]:
    """Differences with the declaration: what site.yml would change. Exits where it does not get to its end."""
    with waiting("A dry run of the declaration", environment.state, "foretold"):
        done = subprocess.run(
            ["ansible-playbook", "-i", str(environment.inventory), "--check", "--diff", *options, str(SITE)],
            capture_output=True,
            text=True,
            check=False,
            env=dict(os.environ, ANSIBLE_STDOUT_CALLBACK="ansible.posix.json"),
        )
    try:
        result = json.loads(done.stdout[done.stdout.index("{") :])
    except ValueError:
        print(done.stdout, done.stderr, sep="\n", file=sys.stderr)
        sys.exit(2)
    return would_change(result)


def changed_item(result: Mapping[str, Any]) -> str:
    """Path that a task would write, or the name of what it would change; empty where it does not say."""
    diffs = result.get("diff") or []
    headers = [
        diff.get("before_header") or ""
        for diff in (diffs if isinstance(diffs, list) else [diffs])
        if isinstance(diff, dict)
    ]
    item = result.get("item")
    item = item.get("dest") or item.get("name") if isinstance(item, dict) else item
    return next(
        (str(word) for word in (result.get("dest"), *headers, result.get("path"), result.get("name"), item) if word), ""
    ).partition(" (")[0]


def would_change(output: Mapping[str, Any]) -> tuple[dict[str, list[str]], list[str]]:
    """({host: [task, with the files that it would write]}, sentences about what failed), from what the JSON callback printed."""
    changes: dict[str, list[str]] = {}
    wrong: list[str] = []
    for play in output["plays"]:
        for task in play["tasks"]:
            for host, result in task["hosts"].items():
                name = task["task"]["name"]
                if result.get("unreachable") or result.get("failed"):
                    wrong.append(f"{host}: {name}: {str(result.get('msg', ''))[:300]}")
                elif result.get("changed") and host != "localhost":
                    parts = [item for item in result.get("results", [result]) if item.get("changed")]
                    paths = sorted({path for result in parts for path in [changed_item(result)] if path})
                    changes.setdefault(host, []).append(name + (f" ({', '.join(paths)})" if paths else ""))
    return changes, wrong


def tasks_of(changes: Mapping[str, Sequence[str]], side: Side) -> list[Difference]:
    """A Difference for every task that would change hosts of a tier."""
    hosts_of_tasks: dict[tuple[str, str], list[str]] = {}
    for host, tasks in changes.items():
        for task in tasks:
            hosts_of_tasks.setdefault((side.tier(host), task), []).append(host)
    return [
        Difference(tier, "task", task, [("it would change", hosts)]) for (tier, task), hosts in hosts_of_tasks.items()
    ]


def main() -> int:
    """Compare, report, and say by the exit code whether all is as declared."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    parity, drift = verbs.add_parser("parity"), verbs.add_parser("drift")
    arguments.add_inventory(parity)
    parity.add_argument("--other", required=True, type=pathlib.Path, help="inventory of the other environment")
    arguments.add_inventory(drift)
    arguments.add_extra_vars(drift)
    args = parser.parse_args()
    rules = yaml.safe_load(DECLARED.read_text())
    declared, derived = rules["parity_declared"], rules["parity_derived"]
    environment = Environment(args.inventory)
    environments = [environment, *([Environment(args.other, other=True)] if args.verb == "parity" else [])]
    try:
        with concurrent.futures.ThreadPoolExecutor() as threads:
            expected = (
                threads.submit(predicted_changes, environment, arguments.extra_vars(args))
                if args.verb == "drift"
                else None
            )
            sides = list(threads.map(collect, environments))
            changes, wrong = expected.result() if expected else ({}, [])
    except (OSError, AnsibleError) as error:
        print(f"Nothing was compared. {error}", file=sys.stderr)
        return 2
    differences = compare(sides, declared, derived)
    repository = Repository()
    for difference in differences:
        difference.where = where(difference, sides, repository)
    differences = [
        *tasks_of(changes, sides[0]),
        *(Difference("?", "host", problem, [("stopped the look at its declaration", [])]) for problem in wrong),
        *differences,
    ]
    if args.verb == "parity":
        title = " with ".join(side.name for side in sides)
    else:
        title = f"{sides[0].name} with its declaration"
    return publish(title, args.verb, sides, differences, environment.state / f"{args.verb}.html")


if __name__ == "__main__":
    sys.exit(main())
