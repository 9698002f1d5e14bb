"""What `make test` says at its end, and what it would say of a plan."""

import dataclasses

import plan
from execution import Ended

LONGEST = 30  # tests of which the summary says how long they took
ASTRAY = 0.25  # part of a hint by which what was measured may differ before that is said …
SECONDS = 15  # … and seconds


def clock(seconds: float) -> str:
    """Minutes and seconds."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"


def table(rows: list[list[str]]) -> list[str]:
    """Rows as lines, each column as wide as its widest cell; the first and the last to the left."""
    wide = [max(map(len, column)) for column in zip(*rows)]
    return [
        "  ".join(
            cell.ljust(width) if number in (0, len(wide) - 1) else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, wide))
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
    slots = [one.slot for one in ended]
    rows = [["step", "start", "end", "wall", "cores", "idle", "begins"]]
    rows += [
        [
            one.slot.name,
            clock(one.slot.start),
            clock(one.slot.end),
            f"{one.slot.seconds:.0f} s",
            cores(one.cores),
            f"{one.idle:.0%}",
            begins(one.slot),
        ]
        for one in sorted(ended, key=lambda one: one.slot.start)
    ]
    work = sum(one.slot.seconds * (one.cores or 0.0) for one in ended)
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
    taken = {one.slot.name: one for one in ended}
    actual = [
        dataclasses.replace(
            step,
            seconds=taken[step.name].slot.seconds,
            cores=step.cores if (used := taken[step.name].cores) is None else used,
        )
        for step in steps
        if step.name in taken
    ]
    return [*table(rows), *chained(slots), *bounded(actual, processors), *astray(ended, steps)]


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
    found = plan.chain(slots)
    return (
        [
            f"longest chain: {' > '.join(f'{slot.name} {slot.seconds:.0f} s' for slot in found)}: {sum(slot.seconds for slot in found):.0f} s"
        ]
        if found
        else []
    )


def bounded(steps: list[plan.Step], processors: float) -> list[str]:
    """What no plan makes shorter, as lines; what takes less than half as long as the first is no bound worth knowing."""
    found = plan.bounds(steps, processors)
    return [
        f"no plan is shorter than {what}: {seconds:.0f} s"
        for what, seconds in found.items()
        if seconds > max(found.values()) / 2
    ]


def astray(ended: list[Ended], steps: list[plan.Step]) -> list[str]:
    """The hints that were wrong, as lines of what was measured instead."""
    hints = {step.name: step for step in steps}
    wrong = [
        one
        for one in ended
        if not one.code
        and abs(one.slot.seconds - hints[one.slot.name].seconds) > max(SECONDS, ASTRAY * hints[one.slot.name].seconds)
    ]
    said = ", ".join(
        f"{one.slot.name} {{seconds: {one.slot.seconds:.0f}, cores: {hints[one.slot.name].cores if one.cores is None else one.cores:.1f}}}"
        for one in wrong
    )
    return (
        [
            f"hints of molecule/steps.yml that were wrong (PYTHONPATH=. python molecule/runner/run.py --learn replaces them): {said}"
        ]
        if said
        else []
    )
