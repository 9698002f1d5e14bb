"""Everything `make test` runs, with a closing count.

    run.py [STEP...]            run all steps, or some on what stands, which stays
    run.py --plan [STEP...]     print when each would begin, and run nothing
    run.py --learn              replace the hints of molecule/steps.yml by what the last run measured

Fails when a step fails, and when a test was not run by every step it belongs to: several tools call an empty run a success. What each step needs is
in molecule/steps.yml; those that do not hinder each other run beside each other. Two environments are not built or broken at once: on two cores that
takes longer than one after the other. Steps that wait most of the time, for a minute to pass or for Nagios, leave room for what has an
environment of its own.
"""

import argparse
import json
import os
import signal
import sys
import time

import execution
import plan
import steps
import summary
import usage

from controller.environment import STATE

LEDGER = STATE / "tests.jsonl"  # a line a test, written by molecule/tests/conftest.py
OUTPUT = STATE / "tests"  # a file a step
MEASURED = STATE / "steps.json"  # {step: [seconds, processors]} of the last run


def outcomes() -> tuple[set[str], dict[str, int], list[str], list[tuple[float, str]]]:
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


def say(line: str) -> None:
    """Print a line with the time: a run that is cut off tells by them how far it came."""
    print(f"\n[{time.strftime('%H:%M:%S')}] {line}", flush=True)


def perform(chosen: list[plan.Step], order: list[plan.Step], processors: float, everything: bool) -> list[str]:
    """Run the chosen steps in an order; print what they used; the names of those that failed, or the signal that ended the run.

    Removes what they build, before and after, where they are all there are.
    """
    begun, environments = time.monotonic(), steps.built(chosen) if everything else []
    os.environ["TEST_LEDGER"] = str(LEDGER)
    OUTPUT.mkdir(parents=True, exist_ok=True)
    LEDGER.unlink(missing_ok=True)
    with usage.Meter() as meter:
        first = meter.moment()
        left = steps.down(environments)
        run = execution.Run(order, steps.command, say, OUTPUT, processors, meter)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, run.interrupt)
        ended = run.go() if not left else []
        broken = [*run.broken, *([run.stopped] if run.stopped else [])]
        left = left or (steps.down(environments) if not broken else [])
        idle = meter.moment().share_idle(first)
    MEASURED.write_text(json.dumps({one.slot.name: [one.slot.seconds, one.cores] for one in ended if not one.code}))
    print("\n=== summary")
    print("\n".join(summary.measured(ended, chosen, processors, time.monotonic() - begun, idle)))
    return [*broken, *(f"make down {environment.make_args}" for environment in left)]


def conclude(names: list[str], broken: list[str]) -> int:
    """Print which tests were slow, failed and never ran, and the count; the exit code."""
    seen, counts, failures, took = outcomes()
    print(f"longest tests: {', '.join(f'{name} {seconds:.0f} s' for seconds, name in took[: summary.LONGEST])}")
    for failure in failures:
        print(f"failed: {failure}")
    never = [] if broken else sorted(steps.existing(names) - seen)
    if broken:
        removal = ", ".join(
            f"make down {environment.make_args}" for environment in steps.built(list(steps.load().values()))
        )
        print(f"Failed: {', '.join(broken)}; what it left stands for you to look at ({removal} remove it).")
    for test in never:
        print(f"never ran: {test}")
    bad = counts["failed"] + bool(broken and not counts["failed"]) + len(never)
    print(f"{counts['passed']} passed, {bad} failed, {counts['skipped']} skipped")
    return 1 if bad or counts["skipped"] else 0


def main() -> int:
    """Do what the command line says; the exit code."""
    parser = argparse.ArgumentParser(description="Run the steps of molecule/steps.yml, or some of them.")
    parser.add_argument("steps", nargs="*", metavar="STEP")
    parser.add_argument("--plan", action="store_true", help="print when each would begin, and run nothing")
    parser.add_argument(
        "--learn", action="store_true", help="replace the hints of molecule/steps.yml by what the last run measured"
    )
    asked = parser.parse_args()
    processors = float(len(os.sched_getaffinity(0)))
    if asked.learn:
        steps.DECLARED.write_text(steps.learned(steps.DECLARED.read_text(), json.loads(MEASURED.read_text())))
        return 0
    try:
        declared = steps.load()
        chosen = plan.selected(declared, asked.steps or list(declared))
        order = plan.ordered(chosen, processors)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    if asked.plan:
        print("\n".join(summary.planned(plan.simulated(order, processors), chosen, processors)))
        return 0
    names = [step.name for step in chosen]
    return conclude(names, perform(chosen, order, processors, set(names) == set(declared)))


if __name__ == "__main__":
    sys.exit(main())
