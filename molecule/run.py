"""Everything `make test` runs, in order, with a closing count.

Fails when a step fails, and when a test was not run by every step it belongs to: several tools call
an empty run a success. Production is rehearsed on this machine: `default` builds it, and the scenarios after that run in
alphabetical order on what it leaves standing. Staging comes last, rebuilt from the production that was broken and mended all the time.
One at a time: on two cores, two tiers that are built or broken at once take longer than one after the other. But some steps wait most of the
time, for a minute to pass or for Nagios: beside them runs what has a tier of its own or needs none, and it is told about after them.
"""

import ast
import concurrent.futures
import itertools
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import yaml

ROOT = pathlib.Path(__file__).resolve().parent.parent
TESTS = ROOT / "molecule/tests"
LEDGER = ROOT / ".state/tests.jsonl"
ENVIRONMENTS = {"ladder": "ladder", "shop": "ladder", "rehearsal": "staging", "parity": "staging"}  # of scenarios; production is that of the others
LAST = ["rehearsal", "parity"]  # scenarios, in order
BESIDE = {"platform": ["static"], "backup": ["ladder"], "monitoring": ["shop", "build"]}  # steps, and what runs beside them, one after the other
LONGEST = 30  # tests of which the summary says how long they took
STANDING = ("ladder", "staging REHEARSE=1", "production REHEARSE=1")  # what the steps build


def files():
    """{step: the files of its tests}; those of no step belong to "no step"."""
    found = {name: sorted((TESTS / name).glob("test_*.py")) for name in ("static", "build")}
    shared = yaml.safe_load((ROOT / ".config/molecule/config.yml").read_text())["verifier"]
    for name in ["default", *scenarios()]:
        verifier = shared | ((yaml.safe_load((ROOT / f"molecule/{name}/molecule.yml").read_text()) or {}).get("verifier") or {})
        directory = ROOT / "molecule" / name / verifier["directory"]
        patterns = ["test_*.py", *verifier.get("additional_files_or_dirs", [])]
        found[name] = sorted({path.resolve() for pattern in patterns for path in directory.resolve().glob(pattern)})
    known = {path for paths in found.values() for path in paths}
    return found | {"no step": sorted(set(TESTS.rglob("test_*.py")) - known)}


def existing():
    """Every test function in the repository, as "step path::name"."""
    return {f"{step} {path.relative_to(ROOT)}::{node.name}" for step, paths in files().items() for path in paths
            for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


def scenarios():
    """The Molecule scenarios after `default`, in order."""
    return sorted(p.parent.name for p in ROOT.glob("molecule/*/molecule.yml") if p.parent.name != "default")


def env_of(name):
    """What the steps of an environment find in theirs: where its inventory and its vault's password are. Production and staging are rehearsed."""
    rehearsed = name in ("production", "staging")
    state = f".state/{name}-rehearsal" if rehearsed else f".state/{name}"
    inventory = f"{state}/inventory/{name}.yml" if rehearsed else f"inventories/{name}.yml"
    return {"ENV": name, "INVENTORY": str(ROOT / inventory), "ANSIBLE_VAULT_PASSWORD_FILE": str(ROOT / state / "vault-password"), "MAKEFLAGS": ""}


def steps():
    """Every step as (name, command, variables)."""
    def make(*words):
        return ["make", "--no-print-directory", *words]

    def molecule(name):
        return name, ["molecule", "test", "--destroy", "never", "-s", name], env_of(ENVIRONMENTS.get(name, "production"))
    return [
        ("platform", make("up", "ENV=production", "REHEARSE=1"), env_of("production")),
        ("static", make("lint", "static", "ENV=local"), env_of("local")),
        ("build", ["pytest", "-q", "molecule/tests/build"], env_of("local")),
        *map(molecule, ["default", *(name for name in scenarios() if name not in LAST), *LAST]),
    ]


def down():
    """Remove what the steps build."""
    for env in STANDING:
        subprocess.run(["make", "--no-print-directory", "down", *f"ENV={env}".split()], cwd=ROOT, env=dict(os.environ, MAKEFLAGS=""), check=True)


def outcomes():
    """From what conftest.py recorded: (tests that ran as "step path::name", the counts of passed, failed and skipped, why each failed, how long each took)."""
    seen, counts, failures, took = set(), {"passed": 0, "failed": 0, "skipped": 0}, [], []
    for line in LEDGER.read_text().splitlines() if LEDGER.exists() else []:
        step, test, outcome, why, name, seconds = json.loads(line)
        seen.add(f"{step} {test}")
        counts[outcome] += 1
        took.append((seconds, f"{step} {name}"))
        if outcome == "failed":
            failures.append(f"{test.removeprefix('molecule/tests/').partition('::')[0]} {' '.join(why.split())}"[:600])
    return seen, counts, failures, sorted(took, reverse=True)


def main():
    """Run the steps; return the exit code."""
    env = dict(os.environ, TEST_LEDGER=str(LEDGER))
    LEDGER.parent.mkdir(exist_ok=True)
    LEDGER.unlink(missing_ok=True)
    begun, timings, broken = time.monotonic(), [], []
    down()
    commands = {name: rest for name, *rest in steps()}

    def run(name, output=None):
        """Run a step; its exit code."""
        start, (command, variables) = time.monotonic(), commands[name]
        code = subprocess.run(command, cwd=ROOT, stdout=output, stderr=output, env=dict(env, TEST_STEP=name, **variables), check=False).returncode
        timings.append((name, time.monotonic() - start))
        return code

    def say(name):
        print(f"\n=== {name}: {' '.join(commands[name][0])}", flush=True)
    for name in [name for name in commands if name not in itertools.chain(*BESIDE.values())]:
        say(name)
        with concurrent.futures.ThreadPoolExecutor(1) as aside:
            others = {other: (log := tempfile.TemporaryFile("w+"), aside.submit(run, other, log)) for other in BESIDE.get(name, [])}
            codes = {name: run(name)}
        for other, (log, ended) in others.items():
            say(other)
            log.seek(0)
            print(log.read(), end="", flush=True)
            codes[other] = ended.result()
        broken = [step for step, code in codes.items() if code]
        if broken:
            break
    else:
        down()

    seen, counts, failures, took = outcomes()
    print("\n=== summary")
    for name, seconds in timings:
        print(f"{name:12} {seconds:6.0f} s")
    print(f"{'in all':12} {time.monotonic() - begun:6.0f} s")
    print(f"longest: {', '.join(f'{name} {seconds:.0f} s' for seconds, name in took[:LONGEST])}")
    for failure in failures:
        print(f"failed: {failure}")
    never = sorted(existing() - seen)
    if broken:
        print(f"Failed: {', '.join(broken)}; what it left stands for you to look at ({', '.join(f'make down ENV={name}' for name in STANDING)} remove it).")
    else:
        for test in never:
            print(f"never ran: {test}")
    bad = counts["failed"] + bool(broken and not counts["failed"]) + (0 if broken else len(never))
    print(f"{counts['passed']} passed, {bad} failed, {counts['skipped']} skipped")
    return 1 if bad or counts["skipped"] else 0


if __name__ == "__main__":
    sys.exit(main())
