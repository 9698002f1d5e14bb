"""The summary of `make test`, and that of a plan."""

import dataclasses

import plan
from execution import Ended

LONGEST = 30  # tests whose durations the summary lists
TOLERANCE = 0.25  # share of a hint by which a measurement may differ before it is reported …
TOLERANCE_S = 15  # … and seconds


def clock(seconds: float) -> str:
    """Minutes and seconds."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"


def table(rows: list[list[str]]) -> list[str]:
    """Rows as lines, each column as wide as its widest cell; the first and the last to the left."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    return [
        "  ".join(
            cell.ljust(width) if number in (0, len(widths) - 1) else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths))
        ).rstrip()
        for row in rows
    ]


def planned(slots: list[plan.Slot], steps: list[plan.Step], processors: float) -> list[str]:
    """A plan, as lines."""
    known = {step.name: step for step in steps}
    rows = [["step", "start", "end", "wall", "cores", "begins"]]
    rows += [
        [
            slot.name,
            clock(slot.start),
            clock(slot.end),
            f"{slot.seconds:.0f} s",
            f"{known[slot.name].cores:.1f}",
            begins(slot),
        ]
        for slot in slots
    ]
    return [*table(rows), f"predicted: {plan.total(slots):.0f} s", *chained(slots), *bounded(steps, processors)]


def measured(ended: list[Ended], steps: list[plan.Step], processors: float, seconds: float, idle: float) -> list[str]:
    """A run that took some seconds with a share of the processors idle, as lines. `steps` have the hints that it was planned by."""
    slots = [result.slot for result in ended]
    rows = [["step", "start", "end", "wall", "cores", "idle", "begins"]]
    rows += [
        [
            result.slot.name,
            clock(result.slot.start),
            clock(result.slot.end),
            f"{result.slot.seconds:.0f} s",
            cores(result.cores),
            f"{result.idle:.0%}",
            begins(result.slot),
        ]
        for result in sorted(ended, key=lambda result: result.slot.start)
    ]
    work = sum(result.slot.seconds * (result.cores or 0.0) for result in ended)
    rows.append(
        [
            "sum",
            "",
            "",
            f"{sum(slot.seconds for slot in slots):.0f} s",
            f"{work / max(seconds, 1):.2f}",
            "",
            "of all steps, one after another",
        ]
    )
    rows.append(["in all", "", "", f"{seconds:.0f} s", "", f"{idle:.0%}", "with what is removed before and after"])
    results = {result.slot.name: result for result in ended}
    actual = [
        dataclasses.replace(
            step,
            seconds=results[step.name].slot.seconds,
            cores=step.cores if (used := results[step.name].cores) is None else used,
        )
        for step in steps
        if step.name in results
    ]
    return [*table(rows), *chained(slots), *bounded(actual, processors), *wrong_hints(ended, steps)]


def cores(used: float | None) -> str:
    """Processors that a step used."""
    return "?" if used is None else f"{used:.2f}"


def begins(slot: plan.Slot) -> str:
    """Why a step began when it did."""
    if not slot.behind:
        return "at once"
    return f"when {slot.behind} has ended{f' ({slot.why})' if slot.why else ''}"


def chained(slots: list[plan.Slot]) -> list[str]:
    """The longest chain, as a line."""
    chain = plan.chain(slots)
    return (
        [
            f"longest chain: {' > '.join(f'{slot.name} {slot.seconds:.0f} s' for slot in chain)}: {sum(slot.seconds for slot in chain):.0f} s"
        ]
        if chain
        else []
    )


def bounded(steps: list[plan.Step], processors: float) -> list[str]:
    """What no plan makes shorter, as lines; what takes less than half as long as the first is no bound worth knowing."""
    limits = plan.bounds(steps, processors)
    return [
        f"no plan is shorter than {what}: {seconds:.0f} s"
        for what, seconds in limits.items()
        if seconds > max(limits.values()) / 2
    ]


def wrong_hints(ended: list[Ended], steps: list[plan.Step]) -> list[str]:
    """The hints that were wrong, as lines of what was measured instead."""
    hints = {step.name: step for step in steps}
    wrong = [
        result
        for result in ended
        if not result.code
        and abs(result.slot.seconds - hints[result.slot.name].seconds)
        > max(TOLERANCE_S, TOLERANCE * hints[result.slot.name].seconds)
    ]
    text = ", ".join(
        f"{result.slot.name} {{seconds: {result.slot.seconds:.0f}, cores: {hints[result.slot.name].cores if result.cores is None else result.cores:.1f}}}"
        for result in wrong
    )
    return (
        [
            f"hints of molecule/steps.yml that were wrong (PYTHONPATH=. python molecule/runner/run.py --learn replaces them): {text}"
        ]
        if text
        else []
    )
