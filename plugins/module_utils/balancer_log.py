"""The access log of a balancer: a JSON object a line, the same from every engine."""

import re
from collections.abc import Iterator, Mapping

APART = re.compile(r"\s*,\s*|\s+:\s+")  # between the hosts that one request was offered to


def attempts(entry: Mapping[str, str]) -> list[tuple[str, ...]]:
    """(address with port, status, seconds) of each host that a logged request was offered to, all as text."""
    columns = [APART.split(entry[name]) for name in ("upstream", "upstream_status", "upstream_time")]
    return list(zip(*columns)) if entry["upstream"] else []


def tally(entry: Mapping[str, str], hosts: Mapping[str, str]) -> Iterator[tuple[str, bool, float | None]]:
    """Yield (name, whether it failed, seconds or None) of each attempt that tells something; hosts: {address with port: name}."""
    for address, status, seconds in attempts(entry):
        if address in hosts and not (status in ("", "-") and entry["status"] == "499"):  # there the visitor left
            yield (
                hosts[address],
                not status.isdigit() or int(status) >= 500,
                float(seconds) if re.fullmatch(r"[0-9.]+", seconds) else None,
            )
