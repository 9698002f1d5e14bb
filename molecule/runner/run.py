"""Everything `make test` runs, with a closing count.

    run.py [STEP...]            run all steps, or some on what stands, which stays
    run.py --plan [STEP...]     print when each would begin, and run nothing
    run.py --learn              replace the hints of molecule/steps.yml by what the last run measured

Fails when a step fails, and when a test was not run by every step it belongs to: several tools call an empty run a success. What each step needs is
in molecule/steps.yml; those that do not hinder each other run beside each other. Two environments are not built or broken at once: on two cores that
takes longer than one after the other. Steps that wait most of the time, for a minute to pass or for Nagios, leave room for steps with another
environment.
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

RESULTS = STATE / "tests.jsonl"  # a line a test, written by molecule/tests/conftest.py
OUTPUT = STATE / "tests"  # a file a step
MEASURED = STATE / "steps.json"  # {step: [seconds, processors]} of the last run


def outcomes() -> tuple[set[str], dict[str, int], list[str], list[tuple[float, str]]]:
    """From what conftest.py recorded: (tests that ran as "step path::name", the counts of passed, failed and skipped, the reason of each failure, how long each took)."""
    executed, counts, failures, durations = set(), {"passed": 0, "failed": 0, "skipped": 0}, [], []
    for line in RESULTS.read_text().splitlines() if RESULTS.exists() else []:
        step, test, outcome, reason, name, seconds = json.loads(line)
        executed.add(f"{step} {test}")
        counts[outcome] += 1
        durations.append((seconds, f"{step} {name}"))
        if outcome == "failed":
            failures.append(
                f"{test.removeprefix('molecule/tests/').partition('::')[0]} {' '.join(reason.split())}"[:600]
            )
    return executed, counts, failures, sorted(durations, reverse=True)


def print_line(line: str) -> None:
    """Print a line with the time: a run that is cut off tells by them how far it came."""
    print(f"\n[{time.strftime('%H:%M:%S')}] {line}", flush=True)


def run_steps(chosen: list[plan.Step], order: list[plan.Step], processors: float, everything: bool) -> list[str]:
    """Run the chosen steps in an order; print what they used; the names of those that failed, or the signal that ended the run.

    Removes what they build, before and after, where they are all there are.
    """
    started, environments = time.monotonic(), steps.built(chosen) if everything else []
    os.environ["TEST_RESULTS"] = str(RESULTS)
    OUTPUT.mkdir(parents=True, exist_ok=True)
    RESULTS.unlink(missing_ok=True)
    with usage.Meter() as meter:
        first = meter.moment()
        remaining = steps.down(environments)
        run = execution.Run(order, steps.command, print_line, OUTPUT, processors, meter)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, run.interrupt)
        ended = run.execute() if not remaining else []
        failed = [*run.failed, *([run.stopped] if run.stopped else [])]
        remaining = remaining or (steps.down(environments) if not failed else [])
        idle = meter.moment().share_idle(first)
    MEASURED.write_text(
        json.dumps({result.slot.name: [result.slot.seconds, result.cores] for result in ended if not result.code})
    )
    print("\n=== summary")
    print("\n".join(summary.measured(ended, chosen, processors, time.monotonic() - started, idle)))
    return [*failed, *(f"make down {environment.make_args}" for environment in remaining)]


def conclude(names: list[str], failed: list[str]) -> int:
    """Print which tests were slow, failed and never ran, and the count; the exit code."""
    executed, counts, failures, durations = outcomes()
    print(f"longest tests: {', '.join(f'{name} {seconds:.0f} s' for seconds, name in durations[: summary.LONGEST])}")
    for failure in failures:
        print(f"failed: {failure}")
    missing = [] if failed else sorted(steps.existing(names) - executed)
    if failed:
        removal = ", ".join(
            f"make down {environment.make_args}" for environment in steps.built(list(steps.load().values()))
        )
        print(f"Failed: {', '.join(failed)}; what it left stands for you to look at ({removal} remove it).")
    for test in missing:
        print(f"never ran: {test}")
    problems = counts["failed"] + bool(failed and not counts["failed"]) + len(missing)
    print(f"{counts['passed']} passed, {problems} failed, {counts['skipped']} skipped")
    return 1 if problems or counts["skipped"] else 0


def main() -> int:
    """Do what the command line says; the exit code."""
    parser = argparse.ArgumentParser(description="Run the steps of molecule/steps.yml, or some of them.")
    parser.add_argument("steps", nargs="*", metavar="STEP")
    parser.add_argument("--plan", action="store_true", help="print when each would begin, and run nothing")
    parser.add_argument(
        "--learn", action="store_true", help="replace the hints of molecule/steps.yml by what the last run measured"
    )
    options = parser.parse_args()
    processors = float(len(os.sched_getaffinity(0)))
    if options.learn:
        steps.DECLARED.write_text(steps.learned(steps.DECLARED.read_text(), json.loads(MEASURED.read_text())))
        return 0
    try:
        declared = steps.load()
        chosen = plan.selected(declared, options.steps or list(declared))
        order = plan.ordered(chosen, processors)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    if options.plan:
        print("\n".join(summary.planned(plan.simulated(order, processors), chosen, processors)))
        return 0
    names = [step.name for step in chosen]
    return conclude(names, run_steps(chosen, order, processors, set(names) == set(declared)))


if __name__ == "__main__":
    sys.exit(main())
