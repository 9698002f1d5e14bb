"""Everything `make test` runs, with a closing count.

Two tracks, side by side. The first builds the environment `test` and breaks it under load, one scenario after another, on the one tier
that stands. Beside it runs what needs no tier or has another one: the static rules, builds of releases, the ladder, and a rehearsal of
production and staging; on that staging the scenarios after it. What one track prints comes when each of its steps has ended.

Fails when a step fails, and when a test was not run by every step it belongs to: several tools call an empty run a success.
"""

import ast
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
import time

import yaml

ROOT = pathlib.Path(__file__).resolve().parent.parent
TESTS = ROOT / "molecule/tests"
LEDGER = ROOT / ".state/tests.jsonl"
FIRST = "test"  # the track that brings the engine and the images
# Scenarios that have not the tier of `test`, in order.
BESIDE = ("ladder", "rehearsal", "parity", "rebuild", "replaced", "shop")
ENVIRONMENTS = ("test", "ladder", "staging REHEARSE=1", "production REHEARSE=1")


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


def env_of(name, state="", inventory=""):
    """What the steps of an environment find in theirs: where its inventory and the vault's password are."""
    return {"ENV": name, "INVENTORY": str(ROOT / (inventory or f"inventories/{name}.yml")),
            "ANSIBLE_VAULT_PASSWORD_FILE": str(ROOT / (state or f".state/{name}") / "vault-password")}


def rehearsed(name):
    """The same of a rehearsal."""
    return env_of(name, f".state/{name}-rehearsal", f".state/{name}-rehearsal/inventory/{name}.yml")


def tracks():
    """{track: its steps, as (name, command, variables)}."""
    def make(env, *words):
        return ["make", "--no-print-directory", *words, f"ENV={env}"]

    def molecule(env, *names):
        return [(name, ["molecule", "test", "--destroy", "never", "-s", name], env) for name in names]
    test, local, staging = env_of("test"), env_of("local"), rehearsed("staging")
    return {
        FIRST: [
            ("platform", make("test", "up"), test),
            *molecule(test, "default", *(name for name in scenarios() if name not in BESIDE)),
        ],
        "beside": [
            ("static", make("local", "lint", "static"), local),
            ("build", ["pytest", "-q", "molecule/tests/build"], local),
            *molecule(env_of("ladder"), "ladder"),
            ("staging", make("staging", "up", "REHEARSE=1"), staging),
            *molecule(staging, "rehearsal", "parity"),
            ("alone", make("production", "down", "REHEARSE=1"), rehearsed("production")),
            *molecule(staging, *BESIDE[3:]),
        ],
    }


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


class Track(threading.Thread):
    """Steps, one after another, up to the first that fails. What they print has the track's name before it."""

    def __init__(self, name, steps, ready):
        """ready: an event that the first track sets after its first step, and that others await after theirs."""
        super().__init__(name=name)
        self.steps, self.ready, self.first = steps, ready, name == FIRST
        self.timings, self.broken = [], None

    def do(self, command, variables):
        """Run a command; its exit code."""
        with subprocess.Popen(command, cwd=ROOT, env=dict(os.environ, TEST_LEDGER=str(LEDGER), MAKEFLAGS="", **variables), text=True, errors="replace",
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
            for line in process.stdout:
                print(f"{self.name:6} | {line}", end="", flush=True)
        return process.returncode

    def run(self):
        for name, command, variables in self.steps:
            print(f"{self.name:6} | === {name}: {' '.join(command)}", flush=True)
            start = time.monotonic()
            code = self.do(command, dict(variables, TEST_STEP=name))
            self.timings.append((name, time.monotonic() - start))
            if code:
                self.broken = name
                break
            if self.first:
                self.ready.set()
            self.ready.wait()
        self.ready.set()  # nobody waits for a track that has ended


def down():
    """Remove what the steps build."""
    for env in ENVIRONMENTS:
        subprocess.run(["make", "--no-print-directory", "down", *f"ENV={env}".split()], cwd=ROOT, env=dict(os.environ, MAKEFLAGS=""), check=True)


def main():
    """Run the tracks; return the exit code."""
    LEDGER.parent.mkdir(exist_ok=True)
    LEDGER.unlink(missing_ok=True)
    begun = time.monotonic()
    down()
    # The static rules need no engine and no image; everything after them waits until `platform` has brought both.
    ready = threading.Event()
    running = [Track(name, steps, ready) for name, steps in tracks().items()]
    for track in running:
        print(f"{track.name:6} | {', '.join(name for name, *_rest in track.steps)}", flush=True)
    for track in running:
        track.start()
    for track in running:
        track.join()
    broken = [track.broken for track in running if track.broken]
    if not broken:
        down()

    seen, counts, failures = outcomes()
    print("\n=== summary")
    for track in running:
        for name, seconds in track.timings:
            print(f"{track.name:6} | {name:12} {seconds:6.0f} s")
    print(f"{'in all':21} {time.monotonic() - begun:6.0f} s")
    for failure in failures:
        print(f"failed: {failure}")
    never = sorted(existing() - seen)
    for step in broken:
        print(f"The step '{step}' failed; what it left stands for you to look at (make down {{ENV={', ENV='.join(ENVIRONMENTS)}}} removes it).")
    if not broken:
        for test in never:
            print(f"never ran: {test}")
    bad = counts["failed"] + bool(broken and not counts["failed"]) + (0 if broken else len(never))
    print(f"{counts['passed']} passed, {bad} failed, {counts['skipped']} skipped")
    return 1 if bad or counts["skipped"] else 0


if __name__ == "__main__":
    sys.exit(main())
