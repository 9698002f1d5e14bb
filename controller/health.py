"""What the answers of several hosts together tell is wrong with an environment. Also installed on the monitor: standard library only."""

from collections.abc import Mapping, Sequence
from typing import Any

Answers = Mapping[str, Mapping[str, Any]]  # {host: what host_status returned}, of those that answered
CONFIRMING = ("sync_standby", "quorum_standby")  # Patroni's roles of standbys that every commit waits for
LAG_BYTES = 16 << 20  # a WAL segment: a standby further behind is complained about
LOGS_S = 60  # seconds that two rsyslogs have to find each other


def unsettled(members: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[str]:
    """A sentence where not all databases are members of the cluster, and every standby streams and confirms commits; names: of databases."""
    settled = [
        member["name"]
        for member in members
        if member["state"] in ("running", "streaming") and member["role"] in ("leader", *CONFIRMING)
    ]
    seen = ", ".join(f"{member['name']} ({member['role']}, {member['state']})" for member in members)
    return [] if sorted(settled) == sorted(names) else [f"Not every database confirms commits: {seen or 'no member'}."]


def databases(
    answers: Answers, members: Sequence[str], scope: str | None
) -> tuple[dict[str, str], list[str], list[str]]:
    """(role of each database as {name: words}, sentences about the cluster), by the primary's word. scope: the cluster's name for patronictl."""
    primaries = [name for name in members if answers.get(name, {}).get("raw", {}).get("role") == "primary"]
    wrong = []
    unanswered = [name for name in members if name not in answers]
    if len(primaries) > 1 or (not primaries and not unanswered):
        wrong.append(
            f"The databases have {'no primary' if not primaries else 'two primaries: ' + ', '.join(primaries)}. "
            "On a database host: patronictl -c /etc/patroni/config.yml list"
        )
    elif not primaries and len(unanswered) < len(members):
        wrong.append(f"None of the databases that answered is the primary; {', '.join(unanswered)} did not answer.")
    clusters = [answers.get(name, {}).get("raw", {}).get("cluster") for name in [*primaries, *members]]
    cluster: Mapping[str, Any] = next((member for member in clusters if member), {})
    lost = [slot for name in primaries for slot in answers[name]["raw"].get("lost_slots", [])]
    roles, confirming = {}, [member["name"] for member in cluster.get("members", []) if member["role"] in CONFIRMING]
    for member in cluster.get("members", []):
        name, lag = member["name"], member.get("lag", 0)
        if member["role"] == "leader":
            roles[name] = "primary"
            continue
        roles[name] = f"standby, {member['state']}, {lag} bytes behind" + (
            ", confirms commits" if name in confirming else ""
        )
        if name.replace("-", "_") in lost:
            wrong.append(
                f"{name} cannot catch up: {primaries[0]} has no longer the WAL that it lacks. On it: "
                f"patronictl -c /etc/patroni/config.yml reinit {scope} {name} --force"
            )
        elif member["state"] != "streaming" or not isinstance(lag, int) or lag > LAG_BYTES:
            wrong.append(f"{name} does not keep up: {roles[name]}. On it: journalctl -u patroni")
    if members and primaries and len(members) > 1 and not confirming:
        wrong.append(f"No standby confirms commits: what {primaries[0]} acknowledges now, it alone has.")
    if cluster.get("pause"):
        wrong.append(
            "Patroni is paused: nothing fails over. On a database host: patronictl -c /etc/patroni/config.yml resume"
        )
    return roles, primaries, wrong


def problems_across_hosts(
    answers: Answers, groups: Mapping[str, Sequence[str]], facts: Mapping[str, Any], strict: bool = False
) -> tuple[dict[str, str], list[str]]:
    """(role of each database, sentences) that only the answers of several hosts together tell.

    strict: whether every standby has to confirm commits, so that any database may fail next.
    """
    roles, primaries, wrong = databases(answers, groups.get("db", []), facts.get("patroni_scope"))
    if strict and not wrong:
        cluster = next((answers[name]["raw"].get("cluster") for name in primaries), None) or {}
        wrong += unsettled(cluster.get("members", []), groups.get("db", []))
    holders = [name for name, answer in answers.items() if answer["raw"].get("holds")]
    unanswered = [name for name in groups.get("lb", []) if name not in answers]
    if groups.get("lb") and not holders and unanswered:
        if len(unanswered) < len(groups["lb"]):
            wrong.insert(
                0,
                f"None of the balancers that answered holds {facts['lb_vip']}; {', '.join(unanswered)} did not answer.",
            )
    elif groups.get("lb") and len(holders) != 1:
        wrong.insert(
            0, f"{facts['lb_vip']} is held by {', '.join(holders) or 'nobody'}. On a balancer: journalctl -u keepalived"
        )
    maintenance = [
        answers[name]["raw"]["maintenance"]
        for name in groups.get("lb", [])
        if "maintenance" in answers.get(name, {}).get("raw", {})
    ]
    if any(state != maintenance[0] for state in maintenance):
        wrong.append(f"The balancers differ about maintenance: make maintenance {facts['make_args']}")
    releases = {name: answers[name]["raw"].get("release") for name in groups.get("app", []) if name in answers}
    if len(set(filter(None, releases.values()))) > 1:
        wrong.append(f"The app hosts serve different releases: make deploy {facts['make_args']}")
    for name in groups.get("app", []):
        pgpool_primaries = answers.get(name, {}).get("raw", {}).get("primaries")
        if pgpool_primaries is not None and len(primaries) == 1 and pgpool_primaries != primaries:
            wrong.append(
                f"pgpool of {name} takes {', '.join(pgpool_primaries) or 'none'} for the primary, and it is {primaries[0]}: journalctl -u pgpool-follow"
            )
    for name, logs in ((name, answer["raw"].get("logs", {"to": {}})) for name, answer in answers.items()):
        for monitor, sent in logs["to"].items():
            there = answers.get(monitor, {}).get("raw", {}).get("logs")
            if not sent and there and min(logs["seconds"], there["seconds"]) > LOGS_S:
                wrong.append(f"{name} sends no log lines to {monitor}. On it: journalctl -u rsyslog")
    return roles, wrong


def outdated(answers: Answers, make_args: str) -> list[str]:
    """Sentences about hosts that came from a golden image made for other packages than theirs are now. That is not wrong: a converge installs the rest."""
    images = {name: answer["raw"].get("image", {"lacks": [], "spare": []}) for name, answer in answers.items()}
    return [
        f"{name} came from an image of {image['date']} that is older than its packages ("
        + "; ".join(
            f"{word} {' '.join(image[part])}"
            for part, word in (("lacks", "without"), ("spare", "still with"))
            if image[part]
        )
        + f"). Before another host does: make image {make_args}"
        for name, image in sorted(images.items())
        if image["lacks"] or image["spare"]
    ]
