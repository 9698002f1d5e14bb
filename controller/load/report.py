"""The report of a load: for a terminal, and as a page."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jinja2

from controller.inventory import ROOT
from controller.load.analysis import TITLES, Figures, Point, Row
from controller.report import Row as Cells
from controller.report import table

REPORT = ROOT / "controller/templates/load.html.j2"


def curve(points: Sequence[Point], column: int, width: int = 820, height: int = 110) -> tuple[str, float]:
    """A curve as SVG's points: place says which of a point's figures; and the highest of them."""
    highest = max((point[column] for point in points), default=0.0) or 1.0
    longest = points[-1][0] if points and points[-1][0] else 1.0
    return " ".join(
        f"{width * point[0] / longest:.0f},{height - (height - 8) * point[column] / highest:.0f}" for point in points
    ), highest


def part(value: float | None) -> str:
    """A part of 1 as people read it."""
    return "-" if value is None else f"{value:.0%}"


def host_rows(
    hosts: Mapping[str, Figures | None], tiers: Mapping[str, Sequence[str]], requests: Mapping[str, tuple[int, int]]
) -> list[Cells]:
    """Cells about every host; requests: {host: (requests, failures) as the balancers saw them}."""
    rows: list[Cells] = []
    for tier in TITLES:
        for name in tiers.get(tier, []):
            figures = hosts.get(name)
            if not figures:
                rows.append((TITLES[tier], name, "did not tell", "", "", "", "", ""))
                continue
            queues = ", ".join(
                f"{door} {mean:.1f} (at most {most:.0f})" for door, (mean, most) in figures["queues"].items()
            )
            more = (
                [f"apache {figures['apache-busy']:.0f} of {figures['apache-busy'] + figures.get('apache-idle', 0):.0f}"]
                if "apache-busy" in figures
                else []
            )
            more += [f"pgpool {figures['pool-busy']:.0f} of {figures['pool-all']:.0f}"] if "pool-all" in figures else []
            request_count, failed = requests.get(name, (None, None))
            rows.append(
                (
                    TITLES[tier],
                    name,
                    f"{part(figures['cpu'])} (most {part(figures['cpu_most'])})",
                    part(figures["memory"]),
                    part(figures["io"]),
                    queues or "nobody",
                    ", ".join(more) or "-",
                    "-" if request_count is None else f"{request_count}, {failed} failed",
                )
            )
    return rows


HOST_HEAD = ("tier", "host", "processor", "memory", "disk wait", "waiting at", "busy", "requests")


def visitor_rows(rows: Iterable[Row]) -> list[Cells]:
    """Cells about what visitors got."""
    return [
        (row["kind"], str(row["requests"]), str(row["failures"]), f"{row['rate']:.1f}", *times(row)) for row in rows
    ]


def times(row: Row) -> list[str]:
    """Cells about how long it took."""
    return [f"{row[name]:.3f}" for name in ("p50", "p95", "p99", "worst")]


VISITOR_HEAD = ("kind", "requests", "failed", "a second", "half within", "95 %", "99 %", "slowest, s")


def tier_rows(
    tiers: Mapping[str, Sequence[str]], rows: Mapping[str, Row], hosts: Mapping[str, Figures | None]
) -> list[Cells]:
    """Cells about what each tier did: for visitors, and for the app hosts, by the servers' own counts, which have no times.

    tiers: {tier: hosts}; rows: {tier: row} of requests(); hosts: {name: figures or None}.
    """

    def summed(tier: str, name: str) -> float:
        return sum(figures.get(name) or 0 for host in tiers.get(tier, []) if (figures := hosts.get(host)))

    lines: list[Cells] = [
        (
            TITLES[tier],
            "requests",
            f"{rows[tier]['requests']}",
            f"{rows[tier]['failures']}",
            f"{rows[tier]['rate']:.1f}",
            *times(rows[tier]),
        )
        for tier in ("lb", "app", "media")
        if tier in rows
    ]
    for tier, what, failed in (("cache", "lookups", ""), ("db", "transactions", "rolled-back")):
        if count := summed(tier, what):
            title = what if failed else f"{what}, {summed(tier, 'found') / count:.0%} found"
            lines.append(
                (
                    TITLES[tier],
                    title,
                    f"{count:.0f}",
                    f"{summed(tier, failed):.0f}" if failed else "-",
                    f"{summed(tier, f'{what}-rate'):.1f}",
                    *["-"] * 4,
                )
            )
    return lines


TIER_HEAD = ("tier", "of what", "how many", "failed", *VISITOR_HEAD[3:])


def html(report: Mapping[str, Any]) -> str:
    """The report to read: one file, without anything from elsewhere."""
    template = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(
        REPORT.read_text(encoding="utf-8")
    )
    return template.render(**report)


def terminal_lines(report: Mapping[str, Any]) -> list[str]:
    """The report's lines for a terminal."""
    tier, why = report["bottleneck"]
    errors = ", ".join(f"{TITLES[name]} {failed} of {count}" for name, (count, failed) in report["errors"].items())
    return [
        "",
        f"  {report['title']}",
        "",
        *table([VISITOR_HEAD, *report["visitors"]]),
        "",
        *table([TIER_HEAD, *report["by_tier"]]),
        "",
        *table([HOST_HEAD, *report["hosts"]]),
        "",
        f"  failed     {errors or 'nothing was asked for'}",
        *(f"             {line}" for line in report["failures"][:5]),
        f"  bottleneck {TITLES.get(tier, tier) or 'none'}: {why}",
        "",
    ]
