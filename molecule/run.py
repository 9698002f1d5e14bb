"""Everything `make test` runs, in order, with a closing count.

Fails when a step fails, and when a test that exists was never run: several tools call an empty
run a success. The order matters: `replaced` starts from the tier that `default` leaves, and
`shop`, the last, removes every host first.
"""

import ast
import json
import os
import pathlib
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
TESTS = ROOT / "molecule/tests"
LEDGER = ROOT / ".state/tests.jsonl"


def existing():
    """Every test function in the repository, as "path::name"."""
    found = set()
    for path in sorted(TESTS.rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                found.add(f"{path.relative_to(ROOT)}::{node.name}")
    return found


def scenarios():
    """The Molecule scenarios after `default`, in order."""
    return sorted(p.parent.name for p in ROOT.glob("molecule/*/molecule.yml") if p.parent.name != "default")


def steps():
    """Every step as (name, command)."""
    molecule = ["molecule", "test", "--destroy", "never", "-s"]
    return [
        ("lint", ["make", "--no-print-directory", "lint"]),
        ("static", ["pytest", "-q", "molecule/tests/static"]),
        ("platform", ["make", "--no-print-directory", "up", "ENV=test"]),
        ("build", ["pytest", "-q", "molecule/tests/build"]),
        ("default", [*molecule, "default"]),
        *((name, [*molecule, name]) for name in scenarios()),
    ]


def outcomes():
    """{test: set of outcomes}, the counts of (passed, failed, skipped) and why each failed, from what conftest.py recorded."""
    seen, counts, failures = {}, {"passed": 0, "failed": 0, "skipped": 0}, []
    for line in LEDGER.read_text().splitlines() if LEDGER.exists() else []:
        test, outcome, why = json.loads(line)
        seen.setdefault(test, set()).add(outcome)
        counts[outcome] += 1
        if outcome == "failed":
            failures.append(f"{test.removeprefix('molecule/tests/').partition('::')[0]} {why}")
    return seen, counts, failures


def main():
    """Run the steps; return the exit code."""
    env = dict(os.environ, ENV="test", TEST_LEDGER=str(LEDGER),
               ANSIBLE_VAULT_PASSWORD_FILE=str(ROOT / ".state/test/vault-password"), MAKEFLAGS="")
    LEDGER.parent.mkdir(exist_ok=True)
    LEDGER.unlink(missing_ok=True)
    begun, timings, broken = time.monotonic(), [], None
    down = ["make", "--no-print-directory", "down", "ENV=test"]
    subprocess.run(["make", "--no-print-directory", "up", "ENV=test"], cwd=ROOT, env=env, check=True)
    subprocess.run(down, cwd=ROOT, env=env, check=True)
    for name, command in steps():
        print(f"\n=== {name}: {' '.join(command)}", flush=True)
        start = time.monotonic()
        code = subprocess.run(command, cwd=ROOT, env=env, check=False).returncode
        timings.append((name, time.monotonic() - start))
        if code:
            broken = name
            break
    else:
        subprocess.run(down, cwd=ROOT, env=env, check=True)

    seen, counts, failures = outcomes()
    print("\n=== summary")
    for name, seconds in timings:
        print(f"{name:12} {seconds:6.0f} s")
    print(f"{'in all':12} {time.monotonic() - begun:6.0f} s")
    for failure in failures:
        print(f"failed: {failure}")
    never = sorted(existing() - set(seen))
    if broken:
        print(f"The step '{broken}' failed; what it left stands for you to look at (make down ENV=test removes it).")
    else:
        for test in never:
            print(f"never ran: {test}")
    bad = counts["failed"] + bool(broken and not counts["failed"]) + (0 if broken else len(never))
    print(f"{counts['passed']} passed, {bad} failed, {counts['skipped']} skipped")
    return 1 if bad or counts["skipped"] else 0


if __name__ == "__main__":
    sys.exit(main())
