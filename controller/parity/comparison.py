"""Compares the hosts of one or two environments, tier by tier."""

import dataclasses
import difflib
import fnmatch
from collections.abc import Iterator, Mapping, Sequence

from controller.parity.masks import Rule, View
from controller.parity.model import KINDS, Difference, Side
from controller.tiers import GROUPS

ABSENT = "none"
SHOWN_LINES = 60  # of the difference of two files
SHOWN_HOSTS = 4


@dataclasses.dataclass
class Items:
    """What is compared of a host. values: {(kind, name): value}; texts: {path: text of a file}; taken: {(path, number of a line rule): what it took out}."""

    values: dict[tuple[str, str], str] = dataclasses.field(default_factory=dict)
    texts: dict[str, str | None] = dataclasses.field(default_factory=dict)
    taken: dict[tuple[str, int], str] = dataclasses.field(default_factory=dict)


def items(side: Side, host: str, view: View) -> Items:
    """What is compared of a host, masked."""
    result = Items()
    for kind, values in side.hosts[host]["snapshot"].items():
        for name, value in values.items():
            masked = view.mask(name)
            if kind == "file":
                value, text, rules = view.file(name, value)
                result.texts[masked] = text
                result.taken |= {(masked, number): line for number, line in rules.items()}
            elif kind == "access" and name != "packet filter":
                value = " ".join(sorted(set(view.mask(value).split())))
            else:
                value = view.mask(value)
            result.values[kind, masked] = value
    result.values |= {("fault", view.mask(problem)): "yes" for problem in side.hosts[host].get("faults", ())}
    return result


def grouped(values: Mapping[str, str]) -> list[tuple[str, list[str]]]:
    """[(value, hosts)] of {host: value}; what most hosts have comes first."""
    groups: dict[str, list[str]] = {}
    for host, value in values.items():
        groups.setdefault(value, []).append(host)
    return sorted(groups.items(), key=lambda pair: (-len(pair[1]), pair[0]))


def agreed(values: Mapping[str, str]) -> bool:
    """Whether the hosts of each environment agree. values: {label: value}."""
    by_environment: dict[str, set[str]] = {}
    for label, value in values.items():
        by_environment.setdefault(label.rpartition(" ")[0], set()).add(value)
    return all(len(several) == 1 for several in by_environment.values())


def applies(rule: Rule, values: Mapping[str, str]) -> bool:
    """Whether a rule declares what was seen: one between environments says nothing of hosts that differ within one."""
    return "only" not in rule or agreed(values)


def several(hosts: Sequence[str]) -> str:
    """Names of hosts, the first few of many."""
    return ", ".join(
        hosts if len(hosts) <= SHOWN_HOSTS + 1 else [*hosts[:SHOWN_HOSTS], f"{len(hosts) - SHOWN_HOSTS} more"]
    )


def declared_why(kind: str, name: str, declared: Sequence[Rule], values: Mapping[str, str]) -> str:
    """Why something may differ; empty where nobody declared it."""
    return next(
        (
            rule["why"]
            for rule in declared
            if "line" not in rule and fnmatch.fnmatchcase(f"{kind} {name}", rule["what"]) and applies(rule, values)
        ),
        "",
    )


def text_diff(texts: Mapping[str, str | None]) -> list[str]:
    """Lines of the difference between the text that most hosts have and every other; empty where one may not be shown. texts: {host: text}."""
    shown = {host: text for host, text in texts.items() if text is not None}
    if not texts or len(shown) < len(texts):
        return []
    lines: list[str] = []
    (most, hosts), *rest = grouped(shown)
    for text, others in rest:
        lines += difflib.unified_diff(
            most.splitlines(), text.splitlines(), several(hosts), several(others), n=1, lineterm=""
        )
    return lines[:SHOWN_LINES] + (["…"] if len(lines) > SHOWN_LINES else [])


def shapes(sides: Sequence[Side], declared: Sequence[Rule]) -> Iterator[Difference]:
    """Yield a Difference for every tier that has not as many hosts on every side."""
    tiers = sorted({side.tier(host) for side in sides for host in side.hosts})
    for tier in tiers:
        sizes = {side.name: str(sum(side.tier(host) == tier for host in side.hosts)) for side in sides}
        if len(set(sizes.values())) > 1:
            yield Difference(tier, "pool", "hosts", grouped(sizes), declared_why("pool", "hosts", declared, {}))


def compare_tier(tier: str, hosts: Mapping[str, Items], declared: Sequence[Rule]) -> Iterator[Difference]:
    """Yield a Difference for everything that is not the same on every host. hosts: {label: its items}."""
    line_rules = [rule for rule in declared if "line" in rule]
    keys = {key for host in hosts.values() for key in host.values}
    for kind, name in sorted(keys, key=lambda key: (KINDS.index(key[0]), key[1])):
        values = {label: host.values.get((kind, name), ABSENT) for label, host in hosts.items()}
        if kind == "fault":
            yield Difference(tier, kind, name, [("yes", [label for label, value in values.items() if value == "yes"])])
        elif len(set(values.values())) > 1:
            texts: dict[str, str | None] = {}
            if kind == "file":
                # A file that is not there is shown against nothing.
                texts = {
                    label: "" if values[label] == ABSENT else host.texts.get(name) for label, host in hosts.items()
                }
            why = declared_why(kind, name, declared, values)
            yield Difference(tier, kind, name, grouped(values), why, diff=text_diff(texts))
    for name, number in sorted({key for host in hosts.values() for key in host.taken}):
        values = {label: host.taken.get((name, number), ABSENT) or ABSENT for label, host in hosts.items()}
        if len(set(values.values())) > 1:
            why = line_rules[number]["why"] if applies(line_rules[number], values) else ""
            yield Difference(tier, "file", name, grouped(values), why)


def compare(sides: Sequence[Side], declared: Sequence[Rule], derived: Sequence[Rule] = ()) -> list[Difference]:
    """Every Difference between the hosts of one or two sides, tier by tier in the order in which a request passes them."""
    differences: list[Difference] = []
    tiers: dict[str, dict[str, Items]] = {}
    for side in sides:
        view = View(side, declared, derived)
        for host, answer in side.hosts.items():
            label = f"{side.name} {host}" if len(sides) > 1 else host
            if "snapshot" not in answer:
                reason = (
                    "does not answer over SSH"
                    if answer.get("unreachable")
                    else f"cannot tell: {view.mask(answer.get('msg', ''))[:200]}"
                )
                differences.append(Difference(side.tier(host), "host", host, [(reason, [label])]))
                continue
            tiers.setdefault(side.tier(host), {})[label] = items(side, host, view)
    if len(sides) > 1:
        differences += shapes(sides, declared)
    for tier, hosts in tiers.items():
        differences += compare_tier(tier, hosts, declared)
    return sorted(
        differences,
        key=lambda difference: (
            next((number for number, group in enumerate(GROUPS) if difference.tier.startswith(group)), 9),
            difference.tier,
            bool(difference.why),
            KINDS.index(difference.kind),
        ),
    )
