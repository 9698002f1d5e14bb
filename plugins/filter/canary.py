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
    parts = [sample[name] for sample in samples for name in names if name in sample]
    return {
        "requests": sum(traffic["requests"] for traffic in parts),
        "failures": sum(traffic["failures"] for traffic in parts),
        "times": sorted(time for traffic in parts for time in traffic["times"]),
    }


def rate(traffic: Traffic) -> float:
    """Which part of a side's requests failed."""
    return traffic["failures"] / traffic["requests"] if traffic["requests"] else 0.0


def p95(traffic: Traffic) -> float:
    """Seconds within which 95 % of a side's requests were answered; 0 where there were none."""
    return traffic["times"][int(len(traffic["times"]) * 0.95)] if traffic["times"] else 0.0


def summary(traffic: Traffic) -> str:
    """A side in words."""
    return f"{traffic['requests']} requests, {100 * rate(traffic):.1f} % failed, 95 % within {p95(traffic):.3f} s"


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
    comparison = f"{' and '.join(canaries)} {summary(new)}; the others {summary(old)}"
    failing = rate(new) > rate(old) + limits["errors"]
    slow = p95(new) > p95(old) * limits["slower"] + limits["slack"]
    # Clearly unwell: nobody else needs to see it.
    if new["failures"] >= 5 and rate(new) > rate(old) + 5 * limits["errors"]:
        return {"state": "back", "why": f"it fails: {comparison}"}
    if elapsed >= limits["seconds"] and new["requests"] >= limits["requests"]:
        if failing or slow:
            return {"state": "back", "why": f"it {'fails' if failing else 'is slow'}: {comparison}"}
        return {"state": "promote", "why": comparison}
    if elapsed >= limits["wait"]:
        return {
            "state": "back",
            "why": f"too few came in {elapsed:.0f} s to judge it ({limits['requests']} are needed): {comparison}",
        }
    return {"state": "watch", "why": comparison}


class FilterModule:
    """What Ansible loads."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Filters by name."""
        return {"canary_verdict": canary_verdict}
