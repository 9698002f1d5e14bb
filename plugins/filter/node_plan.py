"""The plan of adding a host to a group or removing it: hosts by stage, roles, units, and why it is refused.

playbooks/vars/nodes.yml gives the input, and playbooks read the result as node_plan.
"""

import dataclasses
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Groups = Mapping[str, Sequence[str]]  # {group: hosts}, in the order of the inventory

REFERENCES = 3  # app hosts whose releases a new app host gets
HEALTH = {
    "app": "pages",
    "media": "files",
    "cache": "caches",
}  # keys of host_status's `sees`, by the group of the backends
OBSERVERS = {
    "app": "lb",
    "media": "lb",
    "cache": "app",
}  # groups whose hosts report that health; in other groups the peers do
RESTARTING = ("lb", "db")  # groups whose hosts are in settings that Apache or pgpool reads only when it starts
BACKUP_UNITS = ("media-backup.timer",)  # units that exist only where there is a backup host

REFUSALS = {
    "different_releases": "The app hosts serve different releases: {subjects}. "
    "Finish that first: make deploy {make_args}",
    "no_release": "No app host tells what it serves: make status {make_args}",
    "missing_releases": "Release {subjects} is not in {releases_dir}: run this where it was deployed from, "
    "or deploy from here first: make deploy {make_args}",
    "no_primary_to_copy": "No primary is there to copy: make status {make_args}",
    "no_primary": "The databases have no primary, so {node} may be the one that has everything: "
    "make status {make_args}",
    "node_is_primary": "{node} is the primary. Make another one that first: make failover {make_args} NODE={subjects}",
    "peers_do_not_follow": "{subjects} does not follow {primary}, which {node} does: mend it, or remove it first.",
    "last_healthy": "{node} is the last of '{group}' that is well; {subjects} is not: make status {make_args}",
}


@dataclass(frozen=True)
class Relations:
    """How groups depend on each other: {group: groups or roles}.

    server_groups: by the group of the node, groups whose hosts serve the node and have its address in an allow list.
    client_groups: by the group of the node, groups whose hosts are its clients.
    allow_list_roles: by the group of a host with an allow list, the roles that configure the list.
    client_roles: by the group of the node, the roles that configure the node's clients among app hosts.
    """

    server_groups: Groups
    client_groups: Groups
    allow_list_roles: Groups
    client_roles: Groups


@dataclass(frozen=True)
class Request:
    """The node is added to the group, or leaves it and stays for other work. A dry run changes nothing."""

    node: str
    group: str
    leaves: bool
    stays: bool
    dry_run: bool


@dataclass(frozen=True)
class Observed:
    """Answers of hosts, by host: results of the modules release and host_status, and Patroni's JSON of the cluster."""

    reachable: Sequence[str] = ()
    releases: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    clusters: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    health: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True)
class Refusal:
    """Why the plan is refused. code: a key of REFUSALS; subjects: hosts or releases that it is about."""

    code: str
    node: str
    group: str
    subjects: list[str]
    primary: str = ""


@dataclass(frozen=True)
class Plan:
    """Names of hosts, by what is done with them. No host is changed in a dry run, and none that is unreachable."""

    # Hosts that are read
    contacted: list[str]  # by ping
    reachable: list[str]
    reference_hosts: list[str]  # for their releases
    observers: list[str]  # for the health of the node's peers
    cluster_observers: list[str]  # for the state of the databases
    peers: list[str]
    health_key: str
    # The node, and the same by its group
    target: list[str]
    target_by_group: dict[str, list[str]]
    leaving: list[str]  # the node if it is reachable
    leaving_by_group: dict[str, list[str]]
    units: list[str]  # in the order in which they are stopped
    # Hosts that change with the node
    notified: list[str]  # all hosts that are reconfigured, reachable or not
    unreachable: list[str]  # of those
    allow_list_hosts: list[str]
    allow_list_roles: dict[str, list[str]]  # by host
    app_hosts: list[str]
    client_roles: list[str]  # on the app hosts
    balancers: list[str]  # whose backends change
    keepalived_hosts: list[str]  # whose peers change
    cluster_hosts: list[str]  # from which the databases' cluster is changed
    upload_hosts: list[str]  # that exchange uploads with the node
    restart_hosts_by_group: dict[
        str, list[str]
    ]  # app hosts and the balancers that drain them, by the group of the node
    monitors: list[str]
    # Releases that a new host gets
    release: str
    kept_releases: list[str]  # oldest first: of two files with the same name the newer stays
    previous_release: str
    rollback_hosts: list[str]  # new app hosts that get the previous release
    refusals: list[Refusal]


def unique(items: Iterable[str]) -> list[str]:
    """Items without repetition, in their order."""
    return list(dict.fromkeys(items))


def hosts_of(groups: Groups, names: Iterable[str]) -> list[str]:
    """Hosts of several groups, each once; a group that the inventory has not is empty."""
    return unique(host for name in names for host in groups.get(name, ()))


def observed_of(groups: Groups, variables: Mapping[str, Mapping[str, Any]]) -> Observed:
    """What tasks registered. variables: {host: its variables}, as hostvars."""
    hosts = {host: variables[host] for host in groups["all"]}

    def answers(name: str, key: str) -> dict[str, Mapping[str, Any]]:
        return {host: values[name] for host, values in hosts.items() if key in values.get(name, {})}

    return Observed(
        reachable=list(answers("__node_ping", "ping")),
        releases=answers("django_releases", "current"),
        clusters={host: result["json"] for host, result in answers("__node_cluster", "json").items()},
        health=answers("__node_observed", "sees"),
    )


def releases_of(observed: Observed, references: Iterable[str]) -> tuple[list[str], list[str], str]:
    """Releases of the reference hosts: those that serve, all that are kept (oldest first), the previous one or ""."""
    states = [observed.releases[host] for host in references if observed.releases.get(host, {}).get("current")]
    serving = unique(state["current"] for state in states)
    earlier = [name for name in unique(name for state in states for name in state["kept"]) if name not in serving]
    previous = next((state["previous"] for state in states if state["previous"]), "")
    return serving, [*reversed(earlier), *serving], previous


def release_refusals(
    request: Request, references: Sequence[str], serving: list[str], missing: list[str]
) -> list[Refusal]:
    """Why a host is not added. serving: releases of the reference hosts; missing: releases without an archive here."""
    refusals: list[tuple[str, list[str]]] = []
    if references and len(serving) != 1:
        refusals.append(("different_releases" if serving else "no_release", serving))
    if missing:
        refusals.append(("missing_releases", missing))
    return [Refusal(code, request.node, request.group, subjects) for code, subjects in refusals]


def database_refusals(
    request: Request, peers: Sequence[str], cluster: Mapping[str, Any], reachable: Sequence[str]
) -> list[Refusal]:
    """Why a database is not added or removed. cluster: as Patroni returns it; {} where no database answers."""
    members = cluster.get("members", [])
    leaders = [member["name"] for member in members if (member["role"], member["state"]) == ("leader", "running")]
    standbys = [member["name"] for member in members if member["role"] != "leader" and member["state"] == "streaming"]
    primary = leaders[0] if leaders else ""
    others = [host for host in standbys if host != request.node]
    behind = [host for host in peers if host not in (primary, *others)]
    refusals: list[tuple[str, list[str]]] = []
    if not primary:
        refusals.append(("no_primary" if request.leaves else "no_primary_to_copy", []))
    if request.leaves and request.node == primary:
        refusals.append(("node_is_primary", others[:1] or ["…"]))
    if request.leaves and request.node in reachable and behind:
        refusals.append(("peers_do_not_follow", behind))
    return [Refusal(code, request.node, request.group, subjects, primary) for code, subjects in refusals]


def healthy_peers(request: Request, peers: Sequence[str], health: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Peers that an observer says are healthy; a balancer says it of itself."""
    if request.group == "lb":
        return [host for host in peers if host in health and health[host]["raw"].get("balances")]
    answers = [result["sees"].get(HEALTH[request.group], {}) for result in health.values()]
    return [host for host in peers if any(answer.get(host) for answer in answers)]


def plan(
    groups: Groups,
    relations: Relations,
    request: Request,
    observed: Observed,
    units: Sequence[str] = (),
    has_archive: Callable[[str], bool] = lambda _release: True,
) -> Plan:
    """The plan, by what was observed until now.

    units: of a host of the group, in the order in which they are stopped.
    has_archive: whether this machine has the archive of a release.
    """
    node, group = request.node, request.group
    servers, clients = relations.server_groups[group], relations.client_groups[group]
    peers = [host for host in groups.get(group, ()) if host != node]
    removed = () if request.stays else (node,)
    reachable = list(observed.reachable)

    def answering(hosts: Iterable[str]) -> list[str]:
        return [host for host in hosts if host in reachable]

    def changed(hosts: Iterable[str]) -> list[str]:
        return [] if request.dry_run else [host for host in answering(hosts) if host not in removed]

    def by_group(hosts: list[str]) -> dict[str, list[str]]:
        return {name: hosts if name == group else [] for name in relations.server_groups}

    def changed_of(names: Iterable[str]) -> list[str]:
        return changed(hosts_of(groups, names))

    # Hosts that are read
    references = {"app": peers[:REFERENCES], "media": hosts_of(groups, ["app"])}.get(group, [])
    observers = hosts_of(groups, [OBSERVERS[group]]) if group in OBSERVERS else peers
    draining = [host for host in hosts_of(groups, ["lb"] if group in RESTARTING else []) if host not in removed]
    hosts = hosts_of(groups, [*servers, *clients, "monitor"])
    notified = sorted((host for host in hosts if host not in removed), key=str.lower)

    # Hosts that are changed
    lists = hosts_of(groups, [name for name in servers if name != group])
    allow_list_hosts = changed(unique([*lists, *(peers if group in servers else [])]))
    roles = {name: list(names) for name, names in relations.allow_list_roles.items() if name in servers}
    target = [] if request.dry_run else [node]

    # Releases and refusals
    serving, kept, previous = releases_of(observed, references)
    wanted = {"app": serving, "media": kept}.get(group, [])
    cluster = next((observed.clusters[host] for host in groups.get("db", ()) if host in observed.clusters), {})
    if group == "db":
        refusals = database_refusals(request, peers, cluster, reachable)
    elif not request.leaves:
        missing = [release for release in wanted if not has_archive(release)]
        refusals = release_refusals(request, references, serving, missing)
    else:
        healthy = healthy_peers(request, peers, observed.health)
        refusals = [] if healthy else [Refusal("last_healthy", node, group, peers)]

    return Plan(
        contacted=unique([*notified, *references, *draining, *([node] if request.leaves else [])]),
        reachable=reachable,
        reference_hosts=answering(references),
        observers=answering(observers),
        cluster_observers=answering(peers) if group == "db" else [],
        peers=peers,
        health_key=HEALTH.get(group, ""),
        target=target,
        target_by_group=by_group(target),
        leaving=answering(target),
        leaving_by_group=by_group(answering(target)),
        units=[unit for unit in units if groups.get("backup") or unit not in BACKUP_UNITS],
        notified=notified,
        unreachable=[host for host in notified if host not in reachable],
        allow_list_hosts=allow_list_hosts,
        # The node with other work is in the group until the end, and its services of the group are stopped before.
        allow_list_roles={
            host: [
                role
                for name, names in roles.items()
                if host in groups.get(name, ()) and (host, name) != (node, group)
                for role in names
            ]
            for host in allow_list_hosts
        },
        app_hosts=changed_of(["app"] if "app" in clients else []),
        client_roles=list(relations.client_roles.get(group, ())),
        balancers=changed_of(["lb"] if "lb" in clients and group != "lb" else []),
        keepalived_hosts=changed(peers if group == "lb" else []),
        cluster_hosts=changed(peers if group == "db" else []),
        upload_hosts=allow_list_hosts if group == "media" and (node in reachable or not request.leaves) else [],
        restart_hosts_by_group=by_group(changed_of(["app", "lb"] if group in RESTARTING else [])),
        monitors=changed_of(["monitor"]),
        release=serving[0] if serving else "",
        kept_releases=kept,
        previous_release=previous,
        rollback_hosts=target if group == "app" and previous and not request.leaves else [],
        refusals=refusals,
    )


def node_plan(
    groups: Groups,
    request: Mapping[str, Any],
    hostvars: Mapping[str, Mapping[str, Any]] | None = None,
    units: Sequence[str] = (),
    archive_prefix: str = "",
) -> dict[str, Any]:
    """A Plan as a dict.

    request: the fields of Request, and relations: those of Relations. hostvars: None before any host was asked.
    archive_prefix: the path of a release's archive on this machine, up to <release>.tar.gz.
    """
    relations = {field.name: request["relations"][field.name] for field in dataclasses.fields(Relations)}
    fields = {field.name: request[field.name] for field in dataclasses.fields(Request)}
    observed = Observed() if hostvars is None else observed_of(groups, hostvars)
    return dataclasses.asdict(
        plan(
            groups,
            Relations(**relations),
            Request(**fields),
            observed,
            units,
            lambda release: os.path.exists(f"{archive_prefix}{release}.tar.gz"),
        )
    )


def node_refusal(refusal: Mapping[str, Any], make_args: str, releases_dir: str) -> str:
    """The sentence of a Refusal, with the command that helps. releases_dir: this machine's archives of releases."""
    return REFUSALS[refusal["code"]].format(
        node=refusal["node"],
        group=refusal["group"],
        subjects=", ".join(refusal["subjects"]),
        primary=refusal["primary"],
        make_args=make_args,
        releases_dir=releases_dir,
    )


class FilterModule:
    """What templates may call."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """{name: function}"""
        return {"node_plan": node_plan, "node_refusal": node_refusal}
