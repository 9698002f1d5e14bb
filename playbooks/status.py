"""Show what every host of a tier does, and what is wrong with it, as one page.

    status.py INVENTORY [-e VARIABLES]

Exits with 1 where something is wrong, with 2 where the hosts could not be asked. The monitor's page is judged by this file, too
(roles/status_page): outside main() it needs nothing but Python.
"""

import json
import os
import subprocess
import sys

# A host that is off or frozen may not hold up what the others say: no connection is shared, and none is waited for.
SSH = "-o ControlMaster=no -o ControlPath=none -o PreferredAuthentications=publickey -o ConnectTimeout=2"

ORDER = ["lb", "app", "media", "cache", "db", "quorum", "monitor", "backup"]  # as a request passes them
POOLS = ["pages", "files", "databases", "caches", "uploads"]
CONFIRMING = ("sync_standby", "quorum_standby")  # Patroni's roles of standbys that every commit waits for
LAG_BYTES = 16 << 20  # a WAL segment: a standby further behind is complained about
LOGS_S = 60  # seconds that two rsyslogs have to find each other


def databases(answers, members, scope):
    """(role of each database as {name: words}, sentences about the cluster), by the primary's word. scope: the cluster's name for patronictl."""
    primaries = [name for name in members if answers.get(name, {}).get("raw", {}).get("role") == "primary"]
    wrong = []
    unheard = [name for name in members if name not in answers]
    if len(primaries) > 1 or (not primaries and not unheard):
        wrong.append(f"The databases have {'no primary' if not primaries else 'two primaries: ' + ', '.join(primaries)}. "
                     "On a database host: patronictl -c /etc/patroni/config.yml list")
    elif not primaries and len(unheard) < len(members):
        wrong.append(f"None of the databases that answered is the primary; {', '.join(unheard)} did not answer.")
    clusters = [answers.get(name, {}).get("raw", {}).get("cluster") for name in [*primaries, *members]]
    cluster = next((one for one in clusters if one), {})
    lost = [slot for name in primaries for slot in answers[name]["raw"].get("lost_slots", [])]
    roles, confirming = {}, [one["name"] for one in cluster.get("members", []) if one["role"] in CONFIRMING]
    for member in cluster.get("members", []):
        name, lag = member["name"], member.get("lag", 0)
        if member["role"] == "leader":
            roles[name] = "primary"
            continue
        roles[name] = (f"standby, {member['state']}, {lag} bytes behind"
                       + (", confirms commits" if name in confirming else ""))
        if name.replace("-", "_") in lost:
            wrong.append(f"{name} cannot catch up: {primaries[0]} has no longer the WAL that it lacks. On it: "
                         f"patronictl -c /etc/patroni/config.yml reinit {scope} {name} --force")
        elif member["state"] != "streaming" or not isinstance(lag, int) or lag > LAG_BYTES:
            wrong.append(f"{name} does not keep up: {roles[name]}. On it: journalctl -u patroni")
    if members and primaries and len(members) > 1 and not confirming:
        wrong.append(f"No standby confirms commits: what {primaries[0]} acknowledges now, it alone has.")
    if cluster.get("pause"):
        wrong.append("Patroni is paused: nothing fails over. On a database host: patronictl -c /etc/patroni/config.yml resume")
    return roles, primaries, wrong


def between(answers, groups, facts):
    """(role of each database, sentences) that only the answers of several hosts together tell."""
    roles, primaries, wrong = databases(answers, groups.get("db", []), facts.get("patroni_scope"))
    holders = [name for name, answer in answers.items() if answer["raw"].get("holds")]
    unheard = [name for name in groups.get("lb", []) if name not in answers]
    if groups.get("lb") and not holders and unheard:
        if len(unheard) < len(groups["lb"]):
            wrong.insert(0, f"None of the balancers that answered holds {facts['lb_vip']}; {', '.join(unheard)} did not answer.")
    elif groups.get("lb") and len(holders) != 1:
        wrong.insert(0, f"{facts['lb_vip']} is held by {', '.join(holders) or 'nobody'}. On a balancer: journalctl -u keepalived")
    releases = {name: answers[name]["raw"].get("release") for name in groups.get("app", []) if name in answers}
    if len(set(filter(None, releases.values()))) > 1:
        wrong.append(f"The app hosts serve different releases: make deploy {facts['env_typed']}")
    for name in groups.get("app", []):
        seen = answers.get(name, {}).get("raw", {}).get("primaries")
        if seen is not None and len(primaries) == 1 and seen != primaries:
            wrong.append(f"pgpool of {name} takes {', '.join(seen) or 'none'} for the primary, and it is {primaries[0]}: journalctl -u pgpool-follow")
    for name, logs in ((name, answer["raw"].get("logs", {"to": {}})) for name, answer in answers.items()):
        for monitor, sent in logs["to"].items():
            there = answers.get(monitor, {}).get("raw", {}).get("logs")
            if not sent and there and min(logs["seconds"], there["seconds"]) > LOGS_S:
                wrong.append(f"{name} sends no log lines to {monitor}. On it: journalctl -u rsyslog")
    return roles, wrong


def outdated(answers, typed):
    """Sentences about hosts that came from a golden image made for other packages than theirs are now. That is not wrong: a converge installs the rest."""
    images = {name: answer["raw"].get("image", {"lacks": [], "spare": []}) for name, answer in answers.items()}
    return [f"{name} came from an image of {image['date']} that is older than its packages ("
            + "; ".join(f"{word} {' '.join(image[part])}" for part, word in (("lacks", "without"), ("spare", "still with")) if image[part])
            + f"). Before another host does: make image {typed}" for name, image in sorted(images.items()) if image["lacks"] or image["spare"]]


def table(rows):
    """Lines of cells as text, in columns."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    return ["  " + "   ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]


def page(hosts):
    """(text of the page, sentences about what is wrong).

    hosts: {name: what host_status returned, or why the host did not answer under "msg"}.
    """
    answers = {name: said for name, said in hosts.items() if "does" in said}
    asked = next((said["asked"] for said in answers.values()), {"groups": {}, "facts": {"env_name": "?", "env_typed": "ENV=?", "lb_vip": "?"}})
    groups, facts = asked["groups"], asked["facts"]
    roles, wrong = between(answers, groups, facts)
    rows = [("host", "tier", "health", "does", "uses (! gets no answer)")]
    for name in sorted(hosts, key=lambda host: [next((n for n, g in enumerate(ORDER) if host in groups.get(g, [])), 9), host]):
        tiers = [group for group in ORDER if name in groups.get(group, [])]
        if name not in answers:
            not_asked = hosts[name].get("not_asked")
            reason = "over SSH" if hosts[name].get("unreachable") else f"as it should: {hosts[name].get('msg', '')[:200]}"
            wrong.append(f"{name} was not asked in time: {hosts[name]['msg']}" if not_asked else f"{name} does not answer {reason}")
            rows.append((name, " ".join(tiers), "NOT ASKED" if not_asked else "SILENT", "", ""))
            continue
        said = answers[name]
        does = said["does"] | ({"db": roles[name]} if name in roles and "db" in said["does"] else {})
        sees = "  ".join(f"{pool}: " + " ".join(one if up else f"!{one}" for one, up in said["sees"][pool].items()) for pool in POOLS if pool in said["sees"])
        wrong += [f"{name}: {sentence}" for sentence in said["wrong"]]
        rows.append((name, " ".join(tiers), "WRONG" if said["wrong"] else "ok", "; ".join(does[tier] for tier in tiers if tier in does), sees))
    head = f"  {facts['env_name']}   https://{facts['lb_vip']}/   {'all is well' if not wrong else 'something is wrong'}"
    body = ["", head, "", *table(rows), ""]
    if wrong:
        body += ["  wrong:", *(f"    {sentence}" for sentence in wrong), ""]
    if old := outdated(answers, facts["env_typed"]):
        body += ["  images:", *(f"    {sentence}" for sentence in old), ""]
    return "\n".join(body), wrong


def answers(inventory, playbook, options=(), **environment):
    """What every host answers to a playbook, as {task: {name: result}}; options are ansible-playbook's, environment is laid over this process's own.

    Exits where Ansible did not get as far as asking.
    """
    done = subprocess.run(["ansible-playbook", "-i", inventory, *options, str(playbook)], capture_output=True, text=True, check=False,
                          env=dict(os.environ, ANSIBLE_STDOUT_CALLBACK="ansible.posix.json", ANSIBLE_LOG_PATH="", ANSIBLE_STRATEGY="linear", ANSIBLE_SSH_ARGS=SSH, **environment))
    try:
        tasks = {task["task"]["name"]: task["hosts"] for play in json.loads(done.stdout)["plays"] for task in play["tasks"]}
    except ValueError:
        tasks = {}
    if not tasks:
        print(done.stdout, done.stderr, sep="\n", file=sys.stderr)
        sys.exit(2)
    return tasks


def ask(inventory, playbook, options=(), **environment):
    """The same for a playbook of one task, as {name: result}."""
    [hosts] = answers(inventory, playbook, options, **environment).values()
    return hosts


def asked(environment):
    """What every host of an environment says of itself, as {name: what host_status returns, or why it did not answer}."""
    from controller import query
    arguments = {name: {"name": name, "groups": environment.groups, "addresses": host.values["status_addresses"], "facts": host.values["status_facts"]}
                 for name, host in environment.hosts.items()}
    return query.ask(environment, query.modules("perlbal", "host_look"), "look", arguments)


def main():
    """Print the page."""
    from controller import environment
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    try:
        tier = environment.load(sys.argv[1], environment.laid_over(sys.argv[2:]))
    except environment.Unusable as reason:
        print(reason, file=sys.stderr)
        return 2
    text, wrong = page(asked(tier))
    print(text)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
