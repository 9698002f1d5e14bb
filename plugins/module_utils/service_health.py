"""What answers of a host's services tell is wrong with it: for the host itself, the monitor's page and drills. Standard library only."""

from __future__ import annotations

import json
import pathlib
import time
from collections.abc import Mapping

TYPE_CHECKING = False  # what is only for a type checker is not imported (host_health.py)
if TYPE_CHECKING:
    from typing import Any

# Problems of services that do not answer.
BACKUPS = "nobody has looked at the backups for a while: journalctl -u tier-backup@look"
LIGHTTPD = "its lighttpd does not answer: systemctl status lighttpd"
MEMCACHED = "its memcached does not answer: systemctl status memcached"
PGPOOL = "its pgpool does not answer: systemctl status pgpool2 pgpool-follow"


def site_problems(answer: Mapping[str, Any] | None) -> list[str]:
    """Problems of the site, by its answer to /-/health; None or empty where there is none."""
    if not answer:
        return ["the site does not answer: systemctl status apache2; journalctl -u apache2"]
    return [f"{part}: {answer[part]}" for part in ("django", "database", "cache") if answer.get(part, "ok") != "ok"]


def patroni_problems(answer: Mapping[str, Any] | None) -> list[str]:
    """Problems of a database, by the answer of its Patroni to /patroni; None or empty where there is none."""
    if not answer:
        return ["its Patroni does not answer: systemctl status patroni"]
    problems = []
    if answer.get("state") != "running":
        problems.append(f"PostgreSQL is {answer.get('state')}: journalctl -u patroni")
    return problems + ["PostgreSQL waits for a restart to take a setting"] * bool(answer.get("pending_restart"))


def etcd_problems(answer: Mapping[str, Any] | None) -> list[str]:
    """Problems of a member of etcd, by its answer to /health; None or empty where there is none."""
    healthy = (answer or {}).get("health") == "true"
    return [] if healthy else ["its etcd is not in the quorum: systemctl status etcd"]


def pgpool_nodes(output: str) -> list[dict[str, Any]]:
    """The databases of a pgpool, as {address, up, primary}; output: of pcp_node_info --all."""
    nodes = (line.split() for line in output.splitlines())
    return [{"address": node[0], "up": node[2] in ("1", "2"), "primary": node[6] == "primary"} for node in nodes]


def maintenance_state(now: float, path: str = "/etc/maintenance/state.json") -> dict[str, Any]:
    """{since, until, readonly, message} of maintenance on this balancer, moments in seconds since the epoch; {} where there is none now."""
    file = pathlib.Path(path)
    written: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    return written if written.get("until", 0) > now else {}


def maintenance_answer() -> dict[str, Any]:
    """What make maintenance asks of a balancer, as {state: of maintenance_state}."""
    return {"state": maintenance_state(time.time())}


def maintenance_left(health: str) -> tuple[str, int]:
    """(closed or readonly, seconds that are left), by a balancer's answer to the others; ("", 0) where there is no maintenance."""
    mode, _colon, seconds = health.strip().partition(":")
    return (mode, int(seconds)) if mode in ("closed", "readonly") and seconds.isdigit() else ("", 0)
