"""When each step of `make test` begins. Pure: nothing is run, read or measured here.

A step begins as soon as nothing hinders it; where several could, the order decides. The order is found by simulating the whole run with the
seconds and processors that each step is known to take.
"""

import contextlib
import dataclasses
from collections.abc import Iterator

OVERLAP = 1.125  # processors that steps may use together, as a share of those there are: shop beside monitoring, the fullest that was never in trouble
LIGHT = 0.3  # processors that a step may use beside a quiet one
GAIN = 2.0  # seconds that another order has to save to be preferred
USES = ("alone", "shared")


@dataclasses.dataclass(frozen=True, eq=False)
class Step:
    """What a step needs, and what it is known to take: wall seconds, and processors on average."""

    name: str
    # {environment: "alone" or "shared"}, the one it runs in first
    environments: dict[str, str] = dataclasses.field(default_factory=dict)
    after: frozenset[str] = frozenset()  # names of steps
    quiet: bool = False
    seconds: float = 120.0
    cores: float = 1.0


@dataclasses.dataclass(frozen=True)
class Slot:
    """When a step runs, in seconds since the first one begins; after whose end, and what hindered it before ("" for both: it began at once)."""

    name: str
    start: float
    end: float
    behind: str = ""
    why: str = ""

    @property
    def seconds(self) -> float:
        """Wall seconds."""
        return self.end - self.start


def declared(rows: dict[str, dict]) -> dict[str, Step]:
    """{name: step} of the rows of steps.yml. Raises ValueError where a row is not understood."""
    steps = {}
    for name, row in rows.items():
        unknown = set(row) - {field.name for field in dataclasses.fields(Step)} | {
            use for use in row.get("environments", {}).values() if use not in USES
        }
        if unknown:
            raise ValueError(f"molecule/steps.yml, {name}: unknown {', '.join(sorted(map(str, unknown)))}")
        steps[name] = Step(name, **row | {"after": frozenset(row.get("after", []))})
    return {name: dataclasses.replace(step, after=named(step, steps)) for name, step in steps.items()}


def named(step: Step, steps: dict[str, Step]) -> frozenset[str]:
    """The steps that `after` of a step means. Raises ValueError where it names neither a step nor an environment."""
    found: set[str] = set()
    for name in step.after:
        users = {other.name for other in steps.values() if other.environments.get(name) == "alone"} - {step.name}
        if name not in steps and not users:
            raise ValueError(
                f"molecule/steps.yml, {step.name}: after {name}, which is neither a step nor an environment of one"
            )
        found |= {name} if name in steps else users
    return frozenset(found)


def selected(steps: dict[str, Step], names: list[str]) -> list[Step]:
    """Some of the steps, as declared, without what they come after that is not among them. Raises ValueError for a name that is no step's."""
    unknown = set(names) - set(steps)
    if unknown:
        raise ValueError(f"no such step: {', '.join(sorted(unknown))}. There are: {', '.join(steps)}")
    return [dataclasses.replace(step, after=step.after & set(names)) for name, step in steps.items() if name in names]


def blocked(step: Step, running: list[Step], done: set[str]) -> str:
    """Which step it has to wait for whatever the machine has room for, in words; "" for none."""
    if missing := step.after - done:
        return f"after {', '.join(sorted(missing))}"
    return next(
        (
            f"{other.name} uses {name}"
            for other in running
            for name, use in step.environments.items()
            if name in other.environments and "alone" in (use, other.environments[name])
        ),
        "",
    )


def crowded(step: Step, running: list[Step], processors: float) -> str:
    """Why the processors have no room for a step beside others, in words; "" where they have. A step alone always has room."""
    for other in running:
        if (other.quiet and step.cores > LIGHT) or (step.quiet and other.cores > LIGHT):
            return f"{other.name if other.quiet else step.name} wants quiet processors"
    if running and sum(other.cores for other in running) + step.cores > processors * OVERLAP:
        return f"processors are busy with {', '.join(other.name for other in running)}"
    return ""


def hindrance(step: Step, running: list[Step], done: set[str], processors: float) -> str:
    """Why a step cannot begin now, in words; "" where nothing but an earlier one in the order keeps it."""
    return blocked(step, running, done) or crowded(step, running, processors)


def beginning(waiting: list[Step], running: list[Step], done: set[str], processors: float) -> list[Step]:
    """The steps that begin now, of those that wait in order. Who waits for room only is not overtaken: it would wait for ever."""
    begun: list[Step] = []
    for step in waiting:
        if blocked(step, running + begun, done):
            continue
        if crowded(step, running + begun, processors):
            break
        begun.append(step)
    return begun


def simulated(order: list[Step], processors: float) -> list[Slot]:
    """The run of steps in an order, as slots in order of their start. Steps that want more processors than there are all slow down alike.

    Raises ValueError where steps wait for each other.
    """
    waiting, done, now, behind = list(order), set[str](), 0.0, ""
    running: dict[Step, float] = {}  # {step: seconds that are left of it}
    slots: dict[str, Slot] = {}
    hindered: dict[str, str] = {}
    while waiting or running:
        for step in beginning(waiting, list(running), done, processors):
            waiting.remove(step)
            running[step] = step.seconds
            slots[step.name] = Slot(step.name, now, now, behind, hindered.get(step.name, ""))
        if not running:
            raise ValueError(
                f"these wait for each other or for what is not run: {', '.join(step.name for step in waiting)}"
            )
        hindered = {step.name: hindrance(step, list(running), done, processors) for step in waiting}
        speed = min(1.0, processors / max(sum(step.cores for step in running), 0.01))
        ended = min(running, key=lambda step: running[step])
        passed = running.pop(ended)
        now += passed / speed
        running = {step: left - passed for step, left in running.items()}
        done.add(ended.name)
        behind = ended.name
        slots[ended.name] = dataclasses.replace(slots[ended.name], end=now)
    return list(slots.values())


def total(slots: list[Slot]) -> float:
    """Seconds from the first start to the last end."""
    return max((slot.end for slot in slots), default=0.0)


def tail(step: Step, steps: list[Step]) -> float:
    """Seconds of the longest chain that begins with a step."""
    return step.seconds + max((tail(other, steps) for other in steps if step.name in other.after), default=0.0)


def variants(order: list[Step]) -> Iterator[list[Step]]:
    """The orders that differ from one in the place of one step, or hold one step back until another one has ended."""
    for step in order:
        rest = [other for other in order if other is not step]
        for place, other in enumerate(rest):
            yield [*rest[:place], step, *rest[place:]]
            held = dataclasses.replace(step, after=step.after | {other.name})
            yield [held if scheduled is step else scheduled for scheduled in order]
        yield [*rest, step]


def ordered(steps: list[Step], processors: float) -> list[Step]:
    """The order in which the run is shortest, as far as one change after another finds it; to begin with, the longest chain comes first.

    Raises ValueError where steps wait for each other.
    """
    simulated(steps, processors)
    best = sorted(steps, key=lambda step: -tail(step, steps))
    shortest = total(simulated(best, processors))
    while True:
        found = best
        for order in variants(best):
            with contextlib.suppress(ValueError):  # held back for each other
                seconds = total(simulated(order, processors))
                if seconds < shortest - GAIN:
                    found, shortest = order, seconds
        if found is best:
            return best
        best = found


def chain(slots: list[Slot]) -> list[Slot]:
    """The longest chain of a run: the slot that ended last, the one behind whose end it began, and so on, the first one first."""
    by_name = {slot.name: slot for slot in slots}
    found = [max(slots, key=lambda slot: slot.end)] if slots else []
    while found and (before := by_name.get(found[0].behind)):
        found.insert(0, before)
    return found


def bounds(steps: list[Step], processors: float) -> dict[str, float]:
    """{what no plan can shorten: seconds}, the longest first: steps that follow each other, or share an environment, or the work of all on all processors."""
    found = {"the work of all steps on all processors": sum(step.seconds * step.cores for step in steps) / processors}
    for name in {name for step in steps for name in step.environments}:
        found[f"the steps that use {name} alone"] = sum(
            step.seconds for step in steps if step.environments.get(name) == "alone"
        )
    found["steps that come after each other"] = max((tail(step, steps) for step in steps), default=0.0)
    return dict(sorted(found.items(), key=lambda bound: -bound[1]))
