"""Everything `make test` runs, in order, with a closing count.

Fails when a step fails, and when a test was not run by every step it belongs to: several tools call
an empty run a success. The scenarios after `default` run in alphabetical order, on the one tier that it
leaves standing (`ladder` has its own beside it); `shop`, the last, removes every host first.
"""

import ast
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


def steps():
    """Every step as (name, command)."""
    molecule = ["molecule", "test", "--destroy", "never", "-s"]
    return [
        ("platform", ["make", "--no-print-directory", "up", "ENV=test"]),
        ("static", ["make", "--no-print-directory", "lint", "static", "ENV=local"]),
        ("build", ["pytest", "-q", "molecule/tests/build"]),
        ("default", [*molecule, "default"]),
        *((name, [*molecule, name]) for name in scenarios()),
    ]


def outcomes():
    """(tests that ran as "step path::name", the counts of passed, failed and skipped, why each failed), from what conftest.py recorded."""
    seen, counts, failures = set(), {"passed": 0, "failed": 0, "skipped": 0}, []
    for line in LEDGER.read_text().splitlines() if LEDGER.exists() else []:
        step, test, outcome, why = json.loads(line)
        seen.add(f"{step} {test}")
        counts[outcome] += 1
        if outcome == "failed":
            failures.append(f"{test.removeprefix('molecule/tests/').partition('::')[0]} {' '.join(why.split())}"[:300])
    return seen, counts, failures


def main():
    """Run the steps; return the exit code."""
    env = dict(os.environ, ENV="test", TEST_LEDGER=str(LEDGER),
               ANSIBLE_VAULT_PASSWORD_FILE=str(ROOT / ".state/test/vault-password"), MAKEFLAGS="")
    LEDGER.parent.mkdir(exist_ok=True)
    LEDGER.unlink(missing_ok=True)
    begun, timings, broken = time.monotonic(), [], None
    down = ["make", "--no-print-directory", "down", "ENV=test"]
    subprocess.run(down, cwd=ROOT, env=env, check=True)
    # What needs no tier runs while the node image is made, in an environment of its own.
    log = tempfile.TemporaryFile("w+")
    static = subprocess.Popen(dict(steps())["static"], cwd=ROOT, stdout=log, stderr=log, env=dict(
        env, TEST_STEP="static", ANSIBLE_VAULT_PASSWORD_FILE=str(ROOT / ".state/local/vault-password")))

    def told():
        """The exit code of the static step, once what it said is printed."""
        code = static.wait()
        log.seek(0)
        print(log.read(), end="", flush=True)
        return code
    for name, command in steps():
        print(f"\n=== {name}: {' '.join(command)}", flush=True)
        start = time.monotonic()
        if name == "static":
            code = told()
        else:
            code = subprocess.run(command, cwd=ROOT, env=dict(env, TEST_STEP=name), check=False).returncode
        timings.append((name, time.monotonic() - start))
        if code:
            broken = name
            break
    else:
        subprocess.run(down, cwd=ROOT, env=env, check=True)
    if "static" not in dict(timings):
        print("\n=== static", flush=True)
        told()

    seen, counts, failures = outcomes()
    print("\n=== summary")
    for name, seconds in timings:
        print(f"{name:12} {seconds:6.0f} s")
    print(f"{'in all':12} {time.monotonic() - begun:6.0f} s")
    for failure in failures:
        print(f"failed: {failure}")
    never = sorted(existing() - seen)
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
