"""Compares the hosts of one or two environments, tier by tier."""

import difflib
import fnmatch

from controller.health import ORDER
from controller.parity.masks import Eyes
from controller.parity.model import KINDS, Difference

ABSENT = "none"
SHOWN_LINES = 60  # of the difference of two files
SHOWN_HOSTS = 4


def items(side, host, eyes):
    """({(kind, name): value}, {path: text}, {(path, number of a line rule): what it took out}) of a host."""
    found, texts, taken = {}, {}, {}
    for kind, values in side.hosts[host]["snapshot"].items():
        for name, value in values.items():
            seen = eyes.see(name)
            if kind == "file":
                value, text, rules = eyes.file(name, value)
                texts[seen] = text
                taken |= {(seen, number): one for number, one in rules.items()}
            elif kind == "access" and name != "packet filter":
                value = " ".join(sorted(set(eyes.see(value).split())))
            else:
                value = eyes.see(value)
            found[kind, seen] = value
    found |= {("fault", eyes.see(sentence)): "yes" for sentence in side.hosts[host].get("faults", ())}
    return found, texts, taken


def grouped(seen):
    """[(value, hosts)] of {host: value}; what most hosts have comes first."""
    found = {}
    for host, value in seen.items():
        found.setdefault(value, []).append(host)
    return sorted(found.items(), key=lambda pair: (-len(pair[1]), pair[0]))


def agreed(seen):
    """Whether the hosts of each environment agree. seen: {label: value}."""
    values = {}
    for label, value in seen.items():
        values.setdefault(label.rpartition(" ")[0], set()).add(value)
    return all(len(several) == 1 for several in values.values())


def holds(rule, seen):
    """Whether a rule declares what was seen: one between environments says nothing of hosts that differ within one."""
    return "only" not in rule or agreed(seen)


def several(hosts):
    """Names of hosts, the first few of many."""
    return ", ".join(
        hosts if len(hosts) <= SHOWN_HOSTS + 1 else [*hosts[:SHOWN_HOSTS], f"{len(hosts) - SHOWN_HOSTS} more"]
    )


def declared_why(kind, name, declared, seen):
    """Why something may differ; empty where nobody declared it."""
    return next(
        (
            rule["why"]
            for rule in declared
            if "line" not in rule and fnmatch.fnmatchcase(f"{kind} {name}", rule["what"]) and holds(rule, seen)
        ),
        "",
    )


def text_diff(seen):
    """Lines of the difference between the text that most hosts have and every other; empty where one may not be shown. seen: {host: text}."""
    if not seen or any(text is None for text in seen.values()):
        return []
    lines, [(most, hosts), *rest] = [], grouped(seen)
    for text, others in rest:
        lines += difflib.unified_diff(
            most.splitlines(), text.splitlines(), several(hosts), several(others), n=1, lineterm=""
        )
    return lines[:SHOWN_LINES] + (["…"] if len(lines) > SHOWN_LINES else [])


def shapes(sides, declared):
    """Yield a Difference for every tier that has not as many hosts on every side."""
    tiers = sorted({side.tier(host) for side in sides for host in side.hosts})
    for tier in tiers:
        seen = {side.name: str(sum(side.tier(host) == tier for host in side.hosts)) for side in sides}
        if len(set(seen.values())) > 1:
            yield Difference(tier, "pool", "hosts", grouped(seen), declared_why("pool", "hosts", declared, {}))


def compare_tier(tier, hosts, declared):
    """Yield a Difference for everything that is not the same on every host.

    hosts: {label: what items() returned}.
    """
    line_rules = [rule for rule in declared if "line" in rule]
    for kind, name in sorted(
        {key for found, _texts, _taken in hosts.values() for key in found},
        key=lambda key: (KINDS.index(key[0]), key[1]),
    ):
        seen = {label: found.get((kind, name), ABSENT) for label, (found, _texts, _taken) in hosts.items()}
        if kind == "fault":
            yield Difference(tier, kind, name, [("yes", [label for label, value in seen.items() if value == "yes"])])
        elif len(set(seen.values())) > 1:
            # A file that is not there is shown against nothing.
            texts = (
                {
                    label: "" if seen[label] == ABSENT else texts.get(name)
                    for label, (_found, texts, _taken) in hosts.items()
                }
                if kind == "file"
                else {}
            )
            yield Difference(
                tier, kind, name, grouped(seen), declared_why(kind, name, declared, seen), diff=text_diff(texts)
            )
    for name, number in sorted({key for _found, _texts, taken in hosts.values() for key in taken}):
        seen = {label: taken.get((name, number), ABSENT) or ABSENT for label, (_found, _texts, taken) in hosts.items()}
        if len(set(seen.values())) > 1:
            yield Difference(
                tier, "file", name, grouped(seen), line_rules[number]["why"] if holds(line_rules[number], seen) else ""
            )


def compare(sides, declared, derived=()):
    """Every Difference between the hosts of one or two sides, tier by tier in the order in which a request passes them."""
    found, tiers = [], {}
    for side in sides:
        eyes = Eyes(side, declared, derived)
        for host, said in side.hosts.items():
            label = f"{side.name} {host}" if len(sides) > 1 else host
            if "snapshot" not in said:
                reason = (
                    "does not answer over SSH"
                    if said.get("unreachable")
                    else f"cannot tell: {eyes.see(said.get('msg', ''))[:200]}"
                )
                found.append(Difference(side.tier(host), "host", host, [(reason, [label])]))
                continue
            tiers.setdefault(side.tier(host), {})[label] = items(side, host, eyes)
    if len(sides) > 1:
        found += shapes(sides, declared)
    for tier, hosts in tiers.items():
        found += compare_tier(tier, hosts, declared)
    return sorted(
        found,
        key=lambda one: (
            next((place for place, group in enumerate(ORDER) if one.tier.startswith(group)), 9),
            one.tier,
            bool(one.why),
            KINDS.index(one.kind),
        ),
    )
