"""Judge a release that serves beside another one."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypedDict


class Traffic(TypedDict):
    """Requests to some hosts. times: seconds of those that were answered."""

    requests: int
    failures: int
    times: list[float]


def side(samples: Iterable[Mapping[str, Traffic]], names: Sequence[str]) -> Traffic:
    """{"requests", "failures", "times"} of some hosts, over the samples of every balancer; times in seconds, sorted."""
    found = [sample[name] for sample in samples for name in names if name in sample]
    return {
        "requests": sum(one["requests"] for one in found),
        "failures": sum(one["failures"] for one in found),
        "times": sorted(time for one in found for time in one["times"]),
    }


def rate(one: Traffic) -> float:
    """Which part of a side's requests failed."""
    return one["failures"] / one["requests"] if one["requests"] else 0.0


def p95(one: Traffic) -> float:
    """Seconds within which 95 % of a side's requests were answered; 0 where there were none."""
    return one["times"][int(len(one["times"]) * 0.95)] if one["times"] else 0.0


def told(one: Traffic) -> str:
    """A side in words."""
    return f"{one['requests']} requests, {100 * rate(one):.1f} % failed, 95 % within {p95(one):.3f} s"


def canary_verdict(
    samples: Sequence[Mapping[str, Traffic]], canaries: Sequence[str], limits: Mapping[str, float], elapsed: float
) -> dict[str, str]:
    """{"state": promote, back or watch, "why": words}.

    samples: one {host: {"requests", "failures", "times" (seconds)}} of every balancer. canaries: names of hosts on the new
    release. limits: seconds, requests, wait (seconds), errors (a part), slower (a factor), slack (seconds). elapsed: seconds.
    """
    names = {name for sample in samples for name in sample}
    new, old = (
        side(samples, [n for n in names if n in canaries]),
        side(samples, [n for n in names if n not in canaries]),
    )
    words = f"{' and '.join(canaries)} {told(new)}; the others {told(old)}"
    failing = rate(new) > rate(old) + limits["errors"]
    slow = p95(new) > p95(old) * limits["slower"] + limits["slack"]
    # Clearly unwell: nobody else needs to see it.
    if new["failures"] >= 5 and rate(new) > rate(old) + 5 * limits["errors"]:
        return {"state": "back", "why": f"it fails: {words}"}
    if elapsed >= limits["seconds"] and new["requests"] >= limits["requests"]:
        if failing or slow:
            return {"state": "back", "why": f"it {'fails' if failing else 'is slow'}: {words}"}
        return {"state": "promote", "why": words}
    if elapsed >= limits["wait"]:
        return {
            "state": "back",
            "why": f"too few came in {elapsed:.0f} s to judge it ({limits['requests']} are needed): {words}",
        }
    return {"state": "watch", "why": words}


class FilterModule:
    """What Ansible loads."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Filters by name."""
        return {"canary_verdict": canary_verdict}
